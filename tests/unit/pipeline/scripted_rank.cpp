#include "tests/unit/pipeline/scripted_rank.h"

#include <poll.h>

#include <cstring>
#include <random>

namespace ckptd::tests {
namespace {

class ScriptedSession final : public ranks::Session {
 public:
  ScriptedSession(std::string device, device::Range arena, Script script, std::shared_ptr<Model> model)
      : device_(std::move(device)), arena_(arena), script_(script), model_(std::move(model)), random_(script.seed) {}

  const std::string& endpoint() const override { return device_; }
  const std::string& device() const override { return device_; }
  ranks::Traits traits() const override { return {}; }
  std::optional<ranks::Peer> peer() const override {
    model_->peer_asked = true;
    return ranks::Peer{42, 0};
  }
  bool touched() const override { return touched_; }

  Result<> offer(const device::Export&) override {
    note("offer");
    if (script_.never_connects) return {};
    answer_later(script_.fails_open ? "cannot open" : "", [this](std::stop_token ended) {
      while (script_.connects_after && script_.connects_after->sessions == 0 && !ended.stop_requested())
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    });
    return {};
  }
  Result<> reload(std::span<const ranks::TensorView> tensors, std::uint32_t number) override {
    note(fmt::format("reload {}", number));
    touched_ = true;
    struct Wanted {
      std::string name;
      std::uint64_t offset, bytes;
    };
    std::vector<Wanted> wanted;
    for (const auto& tensor : tensors) {
      std::uint64_t bytes = weights::bits_of(tensor.dtype) / 8;
      for (auto n : tensor.shape) bytes *= n;
      wanted.push_back({std::string(tensor.name), tensor.offset, bytes});
    }
    if (script_.stall_at_bucket == number) return {};
    const bool fails = script_.fail_at_bucket == number || (script_.fails_return && model_->sessions > 0);
    answer_later(fails ? "load_weights raised" : "", [this, wanted](std::stop_token) {
      std::lock_guard lock(model_->mutex);
      for (const auto& [name, offset, bytes] : wanted) {
        auto& content = model_->tensors[name];
        content.resize(bytes);
        if (bytes) std::memcpy(content.data(), reinterpret_cast<const std::byte*>(arena_.address) + offset, bytes);
      }
    });
    return {};
  }
  Result<> release() override {
    note("release");
    answer_later("", {});
    return {};
  }
  Result<> finish() override {
    note("finish");
    answer_later(script_.fails_finish ? "post hook raised" : "", [this](std::stop_token) {
      std::this_thread::sleep_for(script_.finish_after);
      ++model_->sessions;
    });
    return {};
  }

  Result<Woken> wait(std::span<const int> wakers, Deadline deadline) override {
    if (script_.gives_up_at_once) return fail(ErrorKind::timed_out, "{}: the engine's own call has timed out", device_);
    std::vector<pollfd> polled{{answered_.fd(), POLLIN, 0}};
    for (int fd : wakers) polled.push_back({fd, POLLIN, 0});
    if (::poll(polled.data(), polled.size(), deadline.poll_timeout_ms()) == 0)
      return fail(ErrorKind::timed_out, "{} did not answer in time", device_);
    if (!(polled[0].revents & POLLIN)) return Woken::by_waker;
    answered_.drain();
    model_->outstanding = false;
    if (!trouble_.empty()) return fail(ErrorKind::peer_failed, "{}: {}", device_, trouble_);
    return Woken::acknowledged;
  }

  Result<Woken> wait_again(std::span<const int> wakers, Deadline deadline) override {
    model_->waited_again = true;
    if (script_.returns == 0) return Session::wait_again(wakers, deadline);
    while (script_.returns_after && !script_.returns_after->waited_again && !deadline.passed())
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    if (!returning_) returning_ = Clock::now() + script_.return_after;
    const auto comes = Deadline(*returning_);
    if (!comes.passed()) {
      auto woken = Session::wait_again(wakers, comes.earlier(deadline));
      if (woken || !comes.passed()) return woken;
    }
    --script_.returns;
    returning_.reset();
    if (script_.stranger_returns) return fail(ErrorKind::peer_failed, "{}: another process connected", device_);
    std::lock_guard lock(model_->mutex);
    model_->tensors.clear();
    return Woken::acknowledged;
  }

  std::shared_ptr<ranks::Hold> hold() const override { return script_.hold; }
  void fail(const Error& reason) noexcept override {
    std::lock_guard lock(model_->mutex);
    model_->failed = reason.sentence;
  }
  void retire(const Error& reason) noexcept override {
    std::lock_guard lock(model_->mutex);
    model_->retired = reason.sentence;
  }
  void discard() noexcept override { model_->discarded = true; }

 private:
  template <class... Args>
  static std::unexpected<Error> fail(ErrorKind kind, fmt::format_string<Args...> text, Args&&... args) {
    return ckptd::fail(kind, text, std::forward<Args>(args)...);
  }

  void note(std::string step) {
    if (model_->outstanding.exchange(true)) model_->broke_lockstep = true;
    std::lock_guard lock(model_->mutex);
    model_->steps.push_back(std::move(step));
  }

  void answer_later(std::string trouble, std::function<void(std::stop_token)> load) {
    trouble_ = std::move(trouble);
    const auto span = std::chrono::microseconds(random_() % static_cast<unsigned>(script_.load.count() + 1));
    thread_ = std::jthread([this, span, load = std::move(load)](std::stop_token ended) {
      std::this_thread::sleep_for(span);
      if (load) load(std::move(ended));
      answered_.wake();
    });
  }

  std::string device_;
  device::Range arena_;
  Script script_;
  std::shared_ptr<Model> model_;
  std::mt19937 random_;
  Waker answered_ = *Waker::create();
  std::string trouble_;
  std::optional<Clock::time_point> returning_;
  bool touched_ = false;
  std::jthread thread_;
};

}  // namespace

std::unique_ptr<ranks::Session> make_scripted_session(std::string device, device::Range arena, Script script,
                                                      std::shared_ptr<Model> model) {
  return std::make_unique<ScriptedSession>(std::move(device), arena, script, std::move(model));
}

}  // namespace ckptd::tests
