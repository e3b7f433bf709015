// What is written down before, during and after a push, and what a successor makes of it.
#include <spdlog/spdlog.h>

#include <algorithm>

#include "daemon/operations/service.h"
#include "daemon/operations/targets.h"

namespace ckptd::operations {
namespace {

journal::EngineRecord* find_engine(journal::Contents& contents, const std::string& name) {
  auto at = std::ranges::find(contents.engines, name, &journal::EngineRecord::name);
  return at == contents.engines.end() ? nullptr : &*at;
}

/// Of a server that was not asked, since others call it: it is what it was, unless another process listens there.
fleet::Observation as_recorded(const journal::EngineRecord& engine, const std::optional<ProcessId>& listener) {
  return {.state = fleet::Observation::State::serving, .weight_version = engine.label, .listener = listener};
}

/// Takes the open update out; its sessions, if any rank may still wait on them, go into custody.
void close_update(journal::Contents& contents, const std::string& job, const std::string& engine,
                  const std::vector<ranks::OpenEndpoint>& in_custody) {
  auto mine = [&](const journal::UpdateRecord& update) { return update.job == job && update.engine == engine; };
  for (const auto& update : contents.updates) {
    if (!mine(update)) continue;
    for (const auto& session : update.sessions)
      if (const auto open = std::ranges::find(in_custody, session.endpoint, &ranks::OpenEndpoint::endpoint);
          open != in_custody.end())
        contents.in_custody.push_back({session.endpoint, session.device, !open->failed});
  }
  std::erase_if(contents.updates, mine);
}

}  // namespace

Result<> Service::write_open_update(const EnginePush& push, const fleet::UpdateCall& call, const std::string& job,
                                    const std::optional<fleet::Observation>& seen,
                                    const std::optional<ProcessId>& listener) {
  journal::UpdateRecord update{job, push.engine, push.record.id, journal::Phase::opening, {}};
  for (const auto& [device, endpoint] : call.endpoints) update.sessions.push_back({endpoint, device});
  return parts_.journal.change([&](journal::Contents& contents) {
    contents.updates.push_back(update);
    if (auto* engine = find_engine(contents, push.engine)) meet(*engine, seen ? *seen : as_recorded(*engine, listener));
  });
}

bool Service::was_touched(const EnginePush& push, const std::string& job) const {
  const auto updates = parts_.journal.contents().updates;
  return std::ranges::any_of(updates, [&](const auto& update) {
    return update.job == job && update.engine == push.engine && update.phase == journal::Phase::pushing;
  });
}

Result<> Service::write_touched(const EnginePush& push, const std::string& job) {
  return parts_.journal.change([&](journal::Contents& contents) {
    for (auto& update : contents.updates)
      if (update.job == job && update.engine == push.engine) update.phase = journal::Phase::pushing;
  });
}

Result<> Service::write_success(const EnginePush& push, const std::string& job, const Given& given) {
  const auto in_custody = parts_.endpoints.in_custody();
  auto written = parts_.journal.note([&](journal::Contents& contents) {
    close_update(contents, job, push.engine, in_custody);
    auto* engine = find_engine(contents, push.engine);
    if (!engine) return;
    give(*engine, push.record, given.mark, !push.by_itself);
    // Of one that was not looked at nobody knows: the first look tells, and loses nothing.
    engine->given_asleep = !given.after || given.after->state == fleet::Observation::State::asleep;
  });
  if (!written)
    return std::unexpected(written.error().within(
        fmt::format("{} has all weights of {}, but that could not be recorded", push.engine, push.record.id)));
  return {};
}

void Service::write_failure(const EnginePush& push, const std::string& job, const Error& error, bool touched) {
  if (touched)
    spdlog::error("{}: {} is poisoned: it may hold a mixture of versions until a full update succeeds. {}", job,
                  push.engine, error.sentence);
  else
    spdlog::warn("{}: {} was not touched. {}", job, push.engine, error.sentence);
  const auto in_custody = parts_.endpoints.in_custody();
  auto written = parts_.journal.note([&](journal::Contents& contents) {
    close_update(contents, job, push.engine, in_custody);
    if (auto* engine = find_engine(contents, push.engine); engine && touched)
      engine->poisoned = fmt::format("{} to {} did not finish: {}", job, push.record.id, error.sentence);
  });
  // On the disk the update stays open then, and a successor marks the engine from it.
  if (!written) spdlog::error("{}: the failed update of {} could not be recorded: {}", job, push.engine,
                              written.error().sentence);
}

void Service::recover() {
  const auto before = parts_.journal.contents();
  std::vector<ranks::OpenEndpoint> open;
  for (const auto& update : before.updates)
    for (const auto& session : update.sessions) open.push_back({session.endpoint, update.engine, session.device});
  for (const auto& session : before.in_custody) open.push_back({session.endpoint, "", session.device, !session.retired});

  parts_.endpoints.on_closed([this](const std::string& endpoint) {
    auto written = parts_.journal.note([&](journal::Contents& contents) {
      std::erase_if(contents.in_custody, [&](const auto& session) { return session.endpoint == endpoint; });
    });
    if (!written) spdlog::warn("{} is closed, but that could not be recorded: {}", endpoint, written.error().sentence);
  });
  // Ranks first: each second of theirs is a second in which an engine does not answer.
  parts_.endpoints.adopt(open, Error{ErrorKind::unavailable,
                                     "ckptd ended in the middle of this update and was started again; the update is "
                                     "void, the engine may hold a mixture of versions"});
  const auto in_custody = parts_.endpoints.in_custody();
  auto written = parts_.journal.note([&](journal::Contents& contents) {
    const auto updates = contents.updates;
    for (const auto& update : updates) {
      close_update(contents, update.job, update.engine, in_custody);
      auto* engine = find_engine(contents, update.engine);
      if (!engine || update.phase != journal::Phase::pushing) continue;
      engine->poisoned = fmt::format("ckptd ended in the middle of {} to {}", update.job, update.version);
      spdlog::error("{} is poisoned: {}", engine->name, engine->poisoned);
    }
    std::erase_if(contents.in_custody, [&](const journal::SessionRecord& session) {
      return std::ranges::find(in_custody, session.endpoint, &ranks::OpenEndpoint::endpoint) == in_custody.end();
    });
  });
  if (!written) spdlog::error("what a predecessor left could not be recorded: {}", written.error().sentence);
}

}  // namespace ckptd::operations
