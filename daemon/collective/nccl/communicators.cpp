#include "daemon/collective/nccl/communicators.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <system_error>
#include <thread>
#include <utility>

namespace ckptd::collective::nccl {
namespace {

using namespace std::chrono_literals;

constexpr auto kFirstPause = 20us, kLongestPause = 1'000us;

std::string joined(const std::vector<std::string>& names) {
  return fmt::format("{}", fmt::join(names, ", "));
}

}  // namespace

Result<UniqueId> new_unique_id(const Library& library) {
  UniqueId id{};
  if (const auto code = library.functions().get_unique_id(&id); code != Code::success)
    return std::unexpected(library.error(code, "a new communicator"));
  return id;
}

Result<std::shared_ptr<Communicators>> Communicators::start(std::shared_ptr<const Library> library, Natives natives,
                                                            Patience patience, std::vector<device::Device*> devices,
                                                            std::vector<std::string> names, Others others) {
  std::shared_ptr<Communicators> self(new Communicators(std::move(library), std::move(natives), patience,
                                                        std::move(devices), std::move(names), others));
  for (device::Device* device : self->devices_) {
    auto event = CKPTD_TRY(device->make_event());
    self->queued_.push_back(std::move(event));
  }
  try {
    // Not joined by anybody: no end of ours waits for a call of NCCL that does not return.
    std::thread([self] { self->work(); }).detach();
  } catch (const std::system_error& error) {
    return fail(ErrorKind::no_space, "no thread could be started for NCCL: {}", error.what());
  }
  return self;
}

Communicators::Communicators(std::shared_ptr<const Library> library, Natives natives, Patience patience,
                             std::vector<device::Device*> devices, std::vector<std::string> names, Others others)
    : library_(std::move(library)),
      natives_(std::move(natives)),
      patience_(patience),
      devices_(std::move(devices)),
      names_(std::move(names)),
      others_(others),
      comms_(devices_.size()),
      pending_(devices_.size()) {}

Communicators::~Communicators() {
  if (!abandoned_) return;
  // Their devices may be gone.
  static std::mutex& mutex = *new std::mutex;
  static auto& left_behind = *new std::vector<std::unique_ptr<device::Event>>;
  std::lock_guard lock(mutex);
  for (auto& event : queued_) left_behind.push_back(std::move(event));
}

Result<> Communicators::wait_until_ready(Deadline deadline) {
  std::unique_lock lock(mutex_);
  const bool told = changed_.wait_until(lock, deadline.at(), [&] { return ready_ || failure_ || end_; });
  if (failure_ || end_) return std::unexpected(ended_error());
  if (told) return {};
  return fail(
      ErrorKind::timed_out,
      "NCCL has not made the communicators of {} by their deadline ({}); it sets them up over a network "
      "interface, which NCCL_SOCKET_IFNAME=lo in the daemon's environment chooses, and NCCL_DEBUG=INFO makes it "
      "say more",
      joined(names_), in_progress());
}

Result<> Communicators::check(Deadline deadline) {
  std::unique_lock lock(mutex_);
  if (failure_ || end_) return std::unexpected(ended_error());
  const auto mine = ++checks_;
  request_ = Request{.what = Request::What::check, .from = 0, .parts = {}};
  changed_.notify_all();
  const bool told = changed_.wait_until(lock, deadline.at(), [&] { return checked_ >= mine || failure_ || end_; });
  if (failure_ || end_) return std::unexpected(ended_error());
  if (told) return {};
  return fail(ErrorKind::timed_out, "the communicators of {} do not tell how they fare ({})", joined(names_),
              in_progress());
}

std::uint64_t Communicators::launched() const {
  std::lock_guard lock(mutex_);
  return launched_;
}

void Communicators::launch(std::uint32_t from, std::vector<Part> parts) {
  order({.what = Request::What::broadcast, .from = from, .parts = std::move(parts)});
}

void Communicators::launch_sum(std::vector<Part> parts) {
  order({.what = Request::What::sum, .from = 0, .parts = std::move(parts)});
}

void Communicators::order(Request request) {
  std::lock_guard lock(mutex_);
  if (failure_ || end_) return;
  request_ = std::move(request);
  streams_in_use_ = true;
  changed_.notify_all();
}

Result<> Communicators::wait_until_launched(std::uint64_t number, Deadline deadline) {
  std::unique_lock lock(mutex_);
  wait_hurried(lock, deadline, false, [&] { return launched_ >= number || failure_ || end_; });
  if (launched_ >= number) return {};
  if (failure_ || end_) return std::unexpected(ended_error());
  return std::unexpected(
      Error{ErrorKind::timed_out, fmt::format("NCCL has not come to an end by the deadline: {}", in_progress())});
}

/// With mutex_. Until the condition, the deadline or what hurry() made of it, also if it is called meanwhile.
template <class Condition>
bool Communicators::wait_hurried(std::unique_lock<std::mutex>& lock, Deadline deadline, bool last, Condition condition) {
  while (!condition()) {
    const auto until = !hurry_ ? deadline : deadline.earlier(last ? hurry_->last : hurry_->first);
    if (until.passed()) return false;
    changed_.wait_until(lock, until.at());
  }
  return true;
}

void Communicators::wait_until_quiet() {
  std::unique_lock lock(mutex_);
  const auto quiet = [&] { return !streams_in_use_; };
  if (wait_hurried(lock, Deadline::in(patience_.stuck), false, quiet)) return;
  if (rescue() && wait_hurried(lock, Deadline::in(patience_.stuck), true, quiet)) return;
  if (std::exchange(given_up_, true)) return;
  const Error why{
      ErrorKind::unavailable,
      fmt::format("NCCL does not return from a call for {} ({}) and may still use their memory: they are not "
                  "used any more until ckptd is restarted",
                  joined(names_), in_progress())};
  lock.unlock();
  spdlog::error("{}", why.sentence);
  for (device::Device* device : devices_) natives_.give_up(*device, why);
}

void Communicators::end(End how, Error reason) noexcept {
  std::lock_guard lock(mutex_);
  if (end_) return;
  end_ = how;
  end_reason_ = std::move(reason);
  changed_.notify_all();
}

void Communicators::end_unless_ready(Error reason) noexcept {
  std::unique_lock lock(mutex_);
  const bool ready = ready_;
  lock.unlock();
  if (!ready) end(End::cut, std::move(reason));
}

void Communicators::hurry(Deadline by) noexcept {
  std::lock_guard lock(mutex_);
  const auto now = Clock::now();
  if (!hurry_ || by.at() < hurry_->last.at()) hurry_ = Hurry{Deadline(now + (by.at() - now) / 2), by};
  changed_.notify_all();
}

bool Communicators::wait_until_ended(Deadline rescue_at, Deadline deadline, bool hurried) {
  std::unique_lock lock(mutex_);
  const auto ended = [&] { return ended_; };
  const auto wait = [&](Deadline until, bool last) {
    if (hurried) return wait_hurried(lock, until, last, ended);
    return changed_.wait_until(lock, until.at(), ended);
  };
  if (wait(rescue_at, false)) return true;
  rescue();  // where there is nothing to rescue our thread may still come to its end
  if (wait(deadline, true)) return true;
  abandoned_ = true;
  spdlog::warn("NCCL does not return from a call for {} ({}); its thread is left behind", joined(names_),
               in_progress());
  return false;
}

/// With mutex_.
std::string Communicators::in_progress() const {
  std::string who;
  for (std::size_t i = 0; i < names_.size(); ++i)
    if (pending_[i]) who += (who.empty() ? "" : ", ") + names_[i];
  return who.empty() ? fmt::format("{}: not begun", step_) : fmt::format("{}: still in progress on {}", step_, who);
}

/// With mutex_.
Error Communicators::ended_error() const {
  return failure_ ? *failure_ : *end_reason_;
}

Result<> Communicators::expect(Result<Code> code, const std::string& what) const {
  if (!code) return std::unexpected(code.error());
  if (*code == Code::success || *code == Code::in_progress) return {};
  return std::unexpected(library_->error(*code, what));
}

void Communicators::work() {
  auto made = make_all();
  {
    std::lock_guard lock(mutex_);
    if (!made && !end_) failure_ = made.error();
    ready_ = made.has_value();
    changed_.notify_all();
  }
  if (made) serve();
  std::unique_lock lock(mutex_);
  const bool complete = made && !failure_ && !streams_in_use_;
  lock.unlock();
  wind_down(complete);
}

Result<> Communicators::make_all() {
  UniqueId id = others_.id;
  if (others_.ranks == 0) CKPTD_TRY(expect(call(&Functions::get_unique_id, &id), "a new communicator"));
  const auto members = devices_.size() + others_.ranks;
  CKPTD_TRY(within_group("make a communicator", [&](std::uint32_t member) -> Result<> {
    Comm comm = nullptr;
    Config config;
    const auto code = call(&Functions::comm_init_rank_config, &comm, static_cast<int>(members), id,
                           static_cast<int>(member), &config);
    {
      std::lock_guard lock(mutex_);
      comms_[member] = comm;
    }
    return expect(code, names_[member] + ": make a communicator");
  }));
  return settle("make a communicator");
}

Result<> Communicators::within_group(const std::string& what, const std::function<Result<>(std::uint32_t)>& act) {
  {
    std::lock_guard lock(mutex_);
    if (lost()) return fail(ErrorKind::cancelled, "{}: given up meanwhile", what);
    // Before the first member's part is begun, not in the middle: what only some have begun ends by an abort alone.
    for (device::Device* device : devices_) CKPTD_TRY(natives_.usable(*device));
    step_ = what;
    std::fill(pending_.begin(), pending_.end(), true);
  }
  CKPTD_TRY(expect(call(&Functions::group_start), what));
  Result<> outcome;
  for (std::uint32_t member = 0; outcome && member < devices_.size(); ++member)
    outcome = natives_.with_current(*devices_[member], [&] { return act(member); });
  // What was begun is ended in any case; a group that holds an error answers it again.
  const auto code = call(&Functions::group_end);
  CKPTD_TRY(std::move(outcome));
  return expect(code, fmt::format("{} on {}", what, joined(names_)));
}

Result<> Communicators::settle(const std::string& what) {
  std::chrono::microseconds pause = kFirstPause;
  std::vector<bool> done(comms_.size());
  while (true) {
    std::optional<Error> error;
    bool remote = false;
    for (std::uint32_t member = 0; member < comms_.size(); ++member) {
      if (done[member]) continue;
      Code state = Code::in_progress;
      CKPTD_TRY(expect(call(&Functions::comm_get_async_error, comms_[member], &state), names_[member] + ": " + what));
      if (state == Code::in_progress) continue;
      done[member] = true;
      if (state == Code::success) continue;
      // Where one device failed, others tell of that and not of themselves.
      if (!error || (remote && state != Code::remote_error))
        error = library_->error(state, names_[member] + ": " + what);
      remote = state == Code::remote_error;
    }
    if (error) return std::unexpected(*error);
    std::unique_lock lock(mutex_);
    for (std::size_t i = 0; i < done.size(); ++i) pending_[i] = !done[i];
    if (std::ranges::find(done, false) == done.end()) return {};
    if (changed_.wait_for(lock, pause, [&] { return end_.has_value() || lost(); }))
      return fail(ErrorKind::cancelled, "{}: ended before it was done", what);
    pause = std::min<std::chrono::microseconds>(pause * 2, kLongestPause);
  }
}

void Communicators::serve() {
  while (true) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return end_ || request_ || lost(); });
    if (lost()) return;
    if (end_) {  // what has not begun need not be cut off
      request_.reset();
      streams_in_use_ = false;
      changed_.notify_all();
      return;
    }
    const Request request = *std::exchange(request_, std::nullopt);
    lock.unlock();
    auto outcome = carry_out(request);
    lock.lock();
    if (!outcome) {
      if (!failure_ && !end_) failure_ = outcome.error();
      changed_.notify_all();
      return;  // with the streams in use, until all is cut off
    }
    if (request.what == Request::What::check) {
      checked_ = checks_;
    } else {
      ++launched_;
      streams_in_use_ = false;
    }
    changed_.notify_all();
  }
}

Result<> Communicators::carry_out(const Request& request) {
  if (request.what == Request::What::check) {
    std::unique_lock lock(mutex_);
    step_ = "look for errors";
    lock.unlock();
    return settle("look for errors");
  }
  const bool sum = request.what == Request::What::sum;
  const auto what = sum ? std::string("queue the sum that all members begin with")
                        : fmt::format("queue a broadcast of {} bytes from {}", request.parts.front().slot.bytes,
                                      names_[request.from]);
  CKPTD_TRY(within_group(what, [&](std::uint32_t member) {
    const Part& part = request.parts[member];
    auto* bytes = reinterpret_cast<void*>(part.slot.address);
    if (sum)
      return expect(call(&Functions::all_reduce, static_cast<const void*>(bytes), bytes,
                         static_cast<std::size_t>(part.slot.bytes) / sizeof(float), kFloat32, kSum, comms_[member],
                         part.native),
                    names_[member] + ": " + what);
    return expect(
        call(&Functions::broadcast, static_cast<const void*>(bytes), bytes, static_cast<std::size_t>(part.slot.bytes),
             kUint8, static_cast<int>(request.from), comms_[member], part.native),
        names_[member] + ": " + what);
  }));
  CKPTD_TRY(settle(what));
  for (std::uint32_t member = 0; member < devices_.size(); ++member)
    if (auto recorded = request.parts[member].stream->record(*queued_[member]); !recorded)
      return std::unexpected(recorded.error().within(names_[member]));
  return {};
}

}  // namespace ckptd::collective::nccl
