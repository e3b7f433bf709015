// Ranks and engines without processes, for tests of the use cases. What travels is tested elsewhere; here only who
// answers what, and when.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "daemon/fleet/engine.h"
#include "daemon/ranks/endpoints.h"
#include "daemon/ranks/transfer.h"
#include "tests/support/fake_hold.h"

namespace ckptd::tests {

/// A text that a test changes while others read it.
class SharedText {
 public:
  void operator=(std::string text) {
    std::lock_guard lock(mutex_);
    text_ = std::move(text);
  }
  void clear() { *this = std::string(); }
  std::string get() const {
    std::lock_guard lock(mutex_);
    return text_;
  }

 private:
  mutable std::mutex mutex_;
  std::string text_;
};

/// Sessions that acknowledge every step at once, unless told otherwise.
class FakeEndpoints final : public ranks::Endpoints {
 public:
  std::atomic<int> fail_reloads = -1;    ///< how many sessions on that device raise; -1: all
  SharedText fail_reload_on;            ///< device whose rank raises in its first bucket
  std::function<void()> on_raise;       ///< called as one does; set while nothing runs
  std::atomic<bool> connect = true;      ///< false: nobody comes
  std::atomic<int> returns = 0;          ///< how often each rank comes back after its first session
  std::function<void()> on_open;         ///< called for each; set while nothing runs
  std::atomic<bool> open_fails = false;  ///< no endpoint can be bound
  std::vector<ranks::OpenEndpoint> adopted;
  std::atomic<int> opened = 0, discarded = 0, failed = 0;
  SharedText uncarriable;               ///< sentence of check_carriable
  std::map<std::string, std::shared_ptr<FakeHold>> holds;  ///< by device; of memory that a mapping does not keep

  ranks::Traits traits() const override { return {}; }
  Result<> check_carriable(const weights::Manifest&) const override;
  Result<std::unique_ptr<ranks::Session>> open(std::string engine, std::string device) override;
  void adopt(const std::vector<ranks::OpenEndpoint>& open, const Error&) override { adopted = open; }
  std::vector<ranks::OpenEndpoint> in_custody() const override;
  void on_closed(std::function<void(const std::string&)> callback) override;
  Result<> check_alive(Deadline) const override { return {}; }
  std::vector<ranks::OpenEndpoint> drain(Deadline) override { return in_custody(); }

  /// As the custodian does when a rank has gone.
  void close(const std::string& endpoint);
  void keep(ranks::OpenEndpoint open);

  /// How often sessions were finished, of all engines.
  int finished() const { return finished_; }
  void count_finished(const std::string& endpoint);
  void count_failed(const std::string& endpoint);

  /// How often the sessions of these endpoints were finished and failed: what the fake engine waits for.
  struct Ends {
    int finished = 0, failed = 0;
  };
  Ends ends_of(const std::map<std::string, std::string>& endpoints) const;

 private:
  std::atomic<int> finished_ = 0;
  mutable std::mutex mutex_;
  std::map<std::string, Ends> ends_;  ///< by endpoint
  std::vector<ranks::OpenEndpoint> in_custody_;
  std::function<void(const std::string&)> callback_;
};

/// Sessions at which nobody connects: who calls the engine ends when they have finished.
class FakeTransfer final : public ranks::Transfer {
 public:
  explicit FakeTransfer(FakeEndpoints& endpoints) : endpoints_(endpoints), finished_before_(endpoints.finished()) {}
  ranks::Traits traits() const override { return {.gapless = true}; }
  Result<> check_carriable(const weights::Manifest&) const override { return {}; }
  Result<std::unique_ptr<ranks::Session>> open(std::string engine, std::string device) override;
  Result<std::string> run(std::chrono::milliseconds timeout, std::stop_token stop) override;

 private:
  FakeEndpoints& endpoints_;
  const int finished_before_;  ///< its ranks may be faster than its call
  int sessions_ = 0;
};

/// Answers when its ranks have finished, as a real one does, or as it is told.
class FakeEngine final : public fleet::Engine {
 public:
  struct Behaviour {
    std::atomic<bool> refuses = false, early_success = false, never_answers = false, gone = false;
    std::atomic<int> calls = 0, looks = 0, wakes = 0, full_wakes = 0, pauses = 0, resumes = 0;
    std::atomic<bool> cannot_pause = false;  ///< there is no such call
    std::atomic<bool> tells_pause = true;    ///< false: it looks as if it served, as an old SGLang does
    std::atomic<bool> pause_fails = false, resume_fails = false, conclude_fails = false;
    std::atomic<int> pid = 7;              ///< of the server; 0: nobody can see it
    std::atomic<bool> tells_label = true;  ///< the weight version, which an update sets
    std::atomic<bool> stalls = false;      ///< a look takes as long as its deadline
    std::atomic<int> state = static_cast<int>(fleet::Observation::State::serving);
    std::mutex mutex;
    fleet::UpdateCall last_call;           ///< under mutex, with what follows
    std::string label = "default";
    std::vector<std::string> heard;        ///< calls that change something, in their order
    void hear(std::string call) {
      std::lock_guard lock(mutex);
      heard.push_back(std::move(call));
    }
    std::optional<fleet::Description> about;
    std::atomic<bool> describes = true;  ///< false: it has not the time
    std::optional<std::vector<fleet::RankChecksums>> checksums;  ///< absent: it cannot tell any
    bool drops_checksums = false;                                ///< it has the call, and fails it
    std::map<std::string, std::vector<double>> values;           ///< of tensors that it tells, by name; under mutex
    std::function<void()> while_summing;
    void set_checksums(std::vector<fleet::RankChecksums> to) {
      std::lock_guard lock(mutex);
      checksums = std::move(to);
    }

    /// The server ends and is there again at once, with what it was started with.
    void restart(fleet::Observation::State as = fleet::Observation::State::serving) {
      std::lock_guard lock(mutex);
      ++pid;
      label = "default";
      state = static_cast<int>(as);
    }
    void set_label(std::string to) {
      std::lock_guard lock(mutex);
      label = std::move(to);
    }
    void set_state(fleet::Observation::State to) { state = static_cast<int>(to); }
  };
  FakeEngine(std::shared_ptr<Behaviour> behaviour, FakeEndpoints& endpoints)
      : behaviour_(std::move(behaviour)), endpoints_(endpoints) {}

  std::optional<ProcessId> listener() const override;
  std::map<std::string, std::string> handles(const std::map<std::string, std::string>& endpoints) const override;
  Result<std::string> call_update(const fleet::UpdateCall& call, std::chrono::milliseconds timeout,
                                  std::stop_token stop) override;
  Result<fleet::Observation> observe(std::chrono::milliseconds timeout) override;
  Result<fleet::Description> describe(std::chrono::milliseconds timeout) override;
  Result<> wake_weights(std::chrono::milliseconds timeout) override;
  Result<> wake_rest(std::chrono::milliseconds timeout) override;
  Result<> pause(fleet::Pause mode, std::chrono::milliseconds timeout, std::stop_token stop) override;
  Result<> resume(std::chrono::milliseconds timeout) override;
  Result<> conclude(const fleet::UpdateCall& call, std::chrono::milliseconds timeout) override;
  Result<std::vector<fleet::RankChecksums>> checksums(std::chrono::milliseconds timeout) override;
  Result<std::vector<fleet::RankValues>> values(const std::string& tensor, std::size_t count,
                                                std::chrono::milliseconds timeout) override;

 private:
  Result<std::string> answer_when_ranks_end(const fleet::UpdateCall& call, std::stop_token stop);

  std::shared_ptr<Behaviour> behaviour_;
  FakeEndpoints& endpoints_;
};

}  // namespace ckptd::tests
