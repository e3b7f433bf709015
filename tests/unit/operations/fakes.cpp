#include "tests/unit/operations/fakes.h"

#include <poll.h>

#include <algorithm>
#include <thread>

#include "common/waker.h"

namespace ckptd::tests {
namespace {

class FakeSession final : public ranks::Session {
 public:
  FakeSession(FakeEndpoints& endpoints, std::string endpoint, std::string engine, std::string device)
      : endpoints_(endpoints), open_{std::move(endpoint), engine, device} {}

  const std::string& endpoint() const override { return open_.endpoint; }
  const std::string& device() const override { return open_.device; }
  ranks::Traits traits() const override { return {}; }
  std::optional<ranks::Peer> peer() const override { return ranks::Peer{7, 0}; }
  bool touched() const override { return false; }

  Result<> offer(const device::Export& memory) override {
    if (!device::kept_by_mapping(memory)) hold_ = endpoints_.holds[open_.device];
    return step(endpoints_.connect);
  }
  Result<> reload(std::span<const ranks::TensorView>, std::uint32_t) override {
    raises_ = endpoints_.fail_reload_on.get() == open_.device && endpoints_.fail_reloads != 0;
    if (raises_ && endpoints_.fail_reloads > 0) --endpoints_.fail_reloads;
    if (raises_ && endpoints_.on_raise) endpoints_.on_raise();
    return step(true);
  }
  Result<> release() override { return step(true); }
  Result<> finish() override {
    endpoints_.count_finished(open_.endpoint);
    return step(true);
  }

  Result<Woken> wait(std::span<const int> wakers, Deadline deadline) override {
    std::vector<pollfd> polled{{answered_.fd(), POLLIN, 0}};
    for (int fd : wakers) polled.push_back({fd, POLLIN, 0});
    if (::poll(polled.data(), polled.size(), deadline.poll_timeout_ms()) == 0)
      return ckptd::fail(ErrorKind::timed_out, "{} did not answer", open_.device);
    if (!(polled[0].revents & POLLIN)) return Woken::by_waker;
    answered_.drain();
    if (raises_) return ckptd::fail(ErrorKind::peer_failed, "{} raised in load_weights", open_.device);
    return Woken::acknowledged;
  }

  Result<Woken> wait_again(std::span<const int> wakers, Deadline deadline) override {
    if (returned_ < endpoints_.returns) return ++returned_, Woken::acknowledged;
    std::vector<pollfd> polled;
    for (int fd : wakers) polled.push_back({fd, POLLIN, 0});
    if (::poll(polled.data(), polled.size(), deadline.poll_timeout_ms()) > 0) return Woken::by_waker;
    return ckptd::fail(ErrorKind::timed_out, "{} did not come back", open_.device);
  }

  std::shared_ptr<ranks::Hold> hold() const override { return hold_; }
  void fail(const Error&) noexcept override {
    endpoints_.count_failed(open_.endpoint);
    endpoints_.keep(open_);
  }
  void retire(const Error&) noexcept override {
    open_.failed = false;
    endpoints_.keep(open_);
  }
  void discard() noexcept override { ++endpoints_.discarded; }

 private:
  Result<> step(bool answer) {
    if (answer) answered_.wake();
    return {};
  }

  FakeEndpoints& endpoints_;
  ranks::OpenEndpoint open_;
  Waker answered_ = *Waker::create();
  std::shared_ptr<ranks::Hold> hold_;
  bool raises_ = false;
  int returned_ = 0;
};

}  // namespace

Result<> FakeEndpoints::check_carriable(const weights::Manifest&) const {
  const auto why = uncarriable.get();
  if (why.empty()) return {};
  return fail(ErrorKind::unsupported, "{}", why);
}

Result<std::unique_ptr<ranks::Session>> FakeEndpoints::open(std::string engine, std::string device) {
  ++opened;
  if (on_open) on_open();
  if (open_fails) return fail(ErrorKind::no_space, "no descriptor is left for the endpoint of {}", device);
  return std::make_unique<FakeSession>(*this, fmt::format("ipc:///fake/{}", opened.load()), std::move(engine), std::move(device));
}

void FakeEndpoints::count_finished(const std::string& endpoint) {
  std::lock_guard lock(mutex_);
  ++finished_;
  ++ends_[endpoint].finished;
}

void FakeEndpoints::count_failed(const std::string& endpoint) {
  std::lock_guard lock(mutex_);
  ++failed;
  ++ends_[endpoint].failed;
}

FakeEndpoints::Ends FakeEndpoints::ends_of(const std::map<std::string, std::string>& endpoints) const {
  std::lock_guard lock(mutex_);
  Ends sum;
  for (const auto& [device, endpoint] : endpoints)
    if (const auto at = ends_.find(endpoint); at != ends_.end()) {
      sum.finished += at->second.finished;
      sum.failed += at->second.failed;
    }
  return sum;
}

std::vector<ranks::OpenEndpoint> FakeEndpoints::in_custody() const {
  std::lock_guard lock(mutex_);
  return in_custody_;
}

void FakeEndpoints::on_closed(std::function<void(const std::string&)> callback) {
  std::lock_guard lock(mutex_);
  callback_ = std::move(callback);
}

void FakeEndpoints::keep(ranks::OpenEndpoint open) {
  std::lock_guard lock(mutex_);
  in_custody_.push_back(std::move(open));
}

void FakeEndpoints::close(const std::string& endpoint) {
  std::function<void(const std::string&)> callback;
  {
    std::lock_guard lock(mutex_);
    std::erase_if(in_custody_, [&](const auto& open) { return open.endpoint == endpoint; });
    callback = callback_;
  }
  if (callback) callback(endpoint);
}

std::optional<ProcessId> FakeEngine::listener() const {
  if (behaviour_->pid == 0) return {};
  return ProcessId{behaviour_->pid, 1};
}

std::map<std::string, std::string> FakeEngine::handles(const std::map<std::string, std::string>& endpoints) const {
  std::map<std::string, std::string> spelled;
  for (const auto& [device, endpoint] : endpoints) spelled["as fake wants " + device] = endpoint;
  return spelled;
}

Result<std::string> FakeEngine::call_update(const fleet::UpdateCall& call, std::chrono::milliseconds,
                                            std::stop_token stop) {
  ++behaviour_->calls;
  behaviour_->hear("update to " + call.weight_version);
  {
    std::lock_guard lock(behaviour_->mutex);
    behaviour_->last_call = call;
  }
  return answer_when_ranks_end(call, std::move(stop));
}

Result<std::string> FakeEngine::answer_when_ranks_end(const fleet::UpdateCall& call, std::stop_token stop) {
  if (behaviour_->refuses) return fail(ErrorKind::peer_failed, "engine fake: it said no");
  if (behaviour_->early_success) return "fine";
  const auto wanted = static_cast<int>(call.endpoints.size());
  while (!stop.stop_requested()) {
    const auto ends = endpoints_.ends_of(call.endpoints);  // a lane of the call before may be ending still
    if (!behaviour_->never_answers && ends.failed > 0)
      return fail(ErrorKind::peer_failed, "engine fake: its ranks raised");
    if (!behaviour_->never_answers && ends.finished >= wanted) {
      behaviour_->set_label(call.weight_version);
      return "done";
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return fail(ErrorKind::cancelled, "engine fake: the call was given up");
}

Result<fleet::Observation> FakeEngine::observe(std::chrono::milliseconds timeout) {
  ++behaviour_->looks;
  if (behaviour_->stalls) {
    std::this_thread::sleep_for(timeout);
    return fail(ErrorKind::timed_out, "engine fake: no answer");
  }
  if (behaviour_->gone) return fail(ErrorKind::unavailable, "engine fake: nobody listens");
  std::lock_guard lock(behaviour_->mutex);
  fleet::Observation seen{.state = static_cast<fleet::Observation::State>(behaviour_->state.load()),
                          .weight_version = behaviour_->tells_label ? behaviour_->label : "",
                          .listener = {}};
  if (seen.state == fleet::Observation::State::paused && !behaviour_->tells_pause)
    seen.state = fleet::Observation::State::serving;
  if (behaviour_->pid != 0) seen.listener = ProcessId{behaviour_->pid, 1};
  return seen;
}

Result<fleet::Description> FakeEngine::describe(std::chrono::milliseconds timeout) {
  if (behaviour_->gone) return fail(ErrorKind::unavailable, "engine fake: nobody listens");
  if (!behaviour_->describes) return fail(ErrorKind::timed_out, "engine fake: no answer");
  std::lock_guard lock(behaviour_->mutex);
  if (behaviour_->about) return *behaviour_->about;
  return fleet::Engine::describe(timeout);
}

Result<> FakeEngine::wake_weights(std::chrono::milliseconds) {
  ++behaviour_->wakes;
  behaviour_->hear("wake weights");
  return {};
}

Result<> FakeEngine::wake_rest(std::chrono::milliseconds) {
  ++behaviour_->full_wakes;
  behaviour_->set_state(fleet::Observation::State::serving);
  return {};
}

Result<> FakeEngine::pause(fleet::Pause mode, std::chrono::milliseconds timeout, std::stop_token stop) {
  if (behaviour_->cannot_pause) return fleet::Engine::pause(mode, timeout, std::move(stop));
  ++behaviour_->pauses;
  behaviour_->hear("pause " + std::string(fleet::name_of(mode)));
  if (behaviour_->pause_fails) return fail(ErrorKind::peer_failed, "engine fake: it will not pause");
  behaviour_->set_state(fleet::Observation::State::paused);
  return {};
}

Result<> FakeEngine::resume(std::chrono::milliseconds) {
  ++behaviour_->resumes;
  behaviour_->hear("resume");
  if (behaviour_->resume_fails) return fail(ErrorKind::peer_failed, "engine fake: it will not go on");
  behaviour_->set_state(fleet::Observation::State::serving);
  return {};
}

Result<> FakeEngine::conclude(const fleet::UpdateCall&, std::chrono::milliseconds) {
  behaviour_->hear("conclude");
  if (behaviour_->conclude_fails) return fail(ErrorKind::peer_failed, "engine fake: its cache is in use");
  return {};
}

Result<std::unique_ptr<ranks::Session>> FakeTransfer::open(std::string engine, std::string device) {
  ++sessions_;
  return std::make_unique<FakeSession>(endpoints_, "", std::move(engine), std::move(device));
}

Result<std::string> FakeTransfer::run(std::chrono::milliseconds timeout, std::stop_token stop) {
  for (const auto deadline = Deadline::in(timeout); endpoints_.finished() < finished_before_ + sessions_;) {
    if (stop.stop_requested() || deadline.passed()) return fail(ErrorKind::cancelled, "given up");
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return "done";
}

Result<std::vector<fleet::RankChecksums>> FakeEngine::checksums(std::chrono::milliseconds timeout) {
  std::function<void()> meanwhile;
  {
    std::lock_guard lock(behaviour_->mutex);
    if (behaviour_->checksums) behaviour_->heard.push_back("checksums");
    meanwhile = behaviour_->while_summing;
  }
  if (meanwhile) meanwhile();
  std::lock_guard lock(behaviour_->mutex);
  if (behaviour_->drops_checksums) return fail(ErrorKind::peer_failed, "engine fake: its checker has failed");
  if (behaviour_->checksums) return *behaviour_->checksums;
  return fleet::Engine::checksums(timeout);
}

Result<std::vector<fleet::RankValues>> FakeEngine::values(const std::string& tensor, std::size_t count,
                                                          std::chrono::milliseconds timeout) {
  std::lock_guard lock(behaviour_->mutex);
  const auto at = behaviour_->values.find(tensor);
  if (at == behaviour_->values.end()) return fleet::Engine::values(tensor, count, timeout);
  auto told = at->second;
  told.resize(std::min(count, told.size()));
  return std::vector<fleet::RankValues>{{"tp0", std::move(told)}};
}

}  // namespace ckptd::tests
