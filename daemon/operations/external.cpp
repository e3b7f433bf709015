#include "daemon/operations/external.h"

#include <algorithm>

namespace ckptd::operations {
namespace {

bool is_known(const proto::control::EngineHandles& engine) { return !engine.zmq_handles.empty() || engine.error; }

}  // namespace

void External::expect(const std::string& engine) {
  std::lock_guard lock(mutex_);
  engines_.push_back({.engine = engine});
}

void External::warn(const std::string& engine, const std::vector<std::string>& sentences) {
  std::lock_guard lock(mutex_);
  for (auto& each : engines_)
    if (each.engine == engine) each.warnings = sentences;
}

void External::hand_out(const std::string& engine, std::map<std::string, std::string> handles) {
  std::lock_guard lock(mutex_);
  for (auto& each : engines_)
    if (each.engine == engine) each.zmq_handles = std::move(handles);
  changed_.notify_all();
}

void External::ended(const std::string& engine, const std::optional<Error>& error) {
  std::lock_guard lock(mutex_);
  for (auto& each : engines_)
    if (each.engine == engine && each.zmq_handles.empty()) each.error = error;
  changed_.notify_all();
}

bool External::is_settled() const {
  const auto has_handles = [](const auto& engine) { return !engine.zmq_handles.empty(); };
  return std::ranges::all_of(engines_, is_known) && std::ranges::any_of(engines_, has_handles);
}

bool External::wait(Deadline deadline) const {
  std::unique_lock lock(mutex_);
  return changed_.wait_until(lock, deadline.at(), [this] { return is_settled(); });
}

std::vector<proto::control::EngineHandles> External::handles() const {
  std::lock_guard lock(mutex_);
  std::vector<proto::control::EngineHandles> known;
  std::ranges::copy_if(engines_, std::back_inserter(known), is_known);
  return known;
}

}  // namespace ckptd::operations
