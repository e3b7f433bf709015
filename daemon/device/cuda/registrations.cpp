#include "daemon/device/cuda/registrations.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <iterator>
#include <utility>

namespace ckptd::device::cuda {

class Registrations::Share final : public HostRegistration {
 public:
  Share(std::shared_ptr<Registrations> all, std::byte* memory, std::shared_ptr<Context> context)
      : all_(std::move(all)), memory_(memory), context_(std::move(context)) {}
  Share(const Share&) = delete;
  Share& operator=(const Share&) = delete;
  ~Share() override {
    if (memory_ != nullptr) all_->remove_share(memory_, context_);
  }

 private:
  const std::shared_ptr<Registrations> all_;
  std::byte* const memory_;
  const std::shared_ptr<Context> context_;
};

Result<std::unique_ptr<HostRegistration>> Registrations::add(std::span<std::byte> memory,
                                                             std::shared_ptr<Context> context) {
  CKPTD_TRY(context->usable());
  if (memory.empty()) return std::make_unique<Share>(shared_from_this(), nullptr, std::move(context));
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] {
    const auto at = entries_.find(memory.data());
    return at == entries_.end() || !at->second.busy;
  });
  auto [at, made] = entries_.try_emplace(memory.data());
  auto& entry = at->second;
  if (!made && entry.bytes != memory.size())
    return fail(ErrorKind::conflict, "{}: host memory from the same address on is registered with {}, and now with {}",
                context->name(), show_bytes(entry.bytes), show_bytes(memory.size()));
  if (made) {
    entry.bytes = memory.size();
    entry.busy = true;
    if (memory.size() > piece_bytes_) has_pieces_ = true;
    lock.unlock();
    auto registered = register_pieces(memory, *context);
    lock.lock();
    entry.busy = false;
    changed_.notify_all();
    if (!registered) {
      entries_.erase(memory.data());
      return std::unexpected(std::move(registered).error());
    }
  }
  entry.holders.push_back(context);
  return std::make_unique<Share>(shared_from_this(), memory.data(), std::move(context));
}

Result<> Registrations::register_pieces(std::span<std::byte> memory, Context& context) const {
  for (std::uint64_t done = 0; done < memory.size();) {
    const auto piece = memory.subspan(done, std::min<std::uint64_t>(piece_bytes_, memory.size() - done));
    auto registered =
        context.call("register host memory", &Functions::mem_host_register, static_cast<void*>(piece.data()), piece.size(),
                     static_cast<unsigned>(CU_MEMHOSTREGISTER_PORTABLE));
    if (!registered) {
      unregister_pieces(memory.first(done), context);
      auto error = std::move(registered).error();
      if (error.kind == ErrorKind::conflict)
        error.sentence += "; somebody else in this process has registered a part of it";
      if (error.kind == ErrorKind::no_space)
        error.sentence += fmt::format("; {} of {} were registered before it. The limit on locked memory (ulimit -l, "
                                      "LimitMEMLOCK= of the unit) counts here too",
                                      show_bytes(done), show_bytes(memory.size()));
      return std::unexpected(std::move(error));
    }
    done += piece.size();
  }
  return {};
}

/// In the reverse order. What fails is told and stays registered: its pages cannot be given back until the process ends.
void Registrations::unregister_pieces(std::span<std::byte> memory, Context& context) const {
  for (std::uint64_t pieces = (memory.size() + piece_bytes_ - 1) / piece_bytes_; pieces > 0; --pieces) {
    void* at = memory.data() + (pieces - 1) * piece_bytes_;
    if (auto done = context.call("unregister host memory", &Functions::mem_host_unregister, at); !done)
      spdlog::warn("{}", done.error().sentence);
  }
}

/// Any context may undo what another one did: the one that did it may be lost.
void Registrations::remove_share(std::byte* memory, const std::shared_ptr<Context>& context) {
  std::unique_lock lock(mutex_);
  auto& entry = entries_.at(memory);
  if (entry.holders.size() > 1) {
    // One that is lost goes first, so that the last one can still unregister.
    auto gone = std::ranges::find_if(entry.holders, [](const auto& each) { return each->fenced(); });
    if (gone == entry.holders.end()) gone = std::ranges::find(entry.holders, context);
    if (gone == entry.holders.end()) gone = entry.holders.begin();
    entry.holders.erase(gone);
    return;
  }
  auto& last = *entry.holders.front();
  entry.busy = true;
  lock.unlock();
  if (last.fenced())
    spdlog::warn("{} is lost: {} of host memory stay registered until ckptd ends", last.name(), show_bytes(entry.bytes));
  else
    unregister_pieces({memory, entry.bytes}, last);
  lock.lock();
  entries_.erase(memory);
  changed_.notify_all();
}

std::uint64_t Registrations::piece_at(const std::byte* from, std::uint64_t bytes) const {
  if (!has_pieces_.load(std::memory_order_relaxed)) return bytes;
  std::lock_guard lock(mutex_);
  auto after = entries_.upper_bound(const_cast<std::byte*>(from));
  if (after == entries_.begin()) return bytes;
  const auto& [start, entry] = *std::prev(after);
  const auto offset = static_cast<std::uint64_t>(from - start);
  if (offset >= entry.bytes) return bytes;
  return std::min(bytes, piece_bytes_ - offset % piece_bytes_);
}

}  // namespace ckptd::device::cuda
