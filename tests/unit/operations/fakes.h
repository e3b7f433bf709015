// Ranks and engines without processes, for tests of the use cases. What travels is tested elsewhere; here only who
// answers what, and when.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "daemon/fleet/engine.h"
#include "daemon/ranks/endpoints.h"
#include "daemon/ranks/transfer.h"
#include "tests/support/fake_hold.h"

namespace ckptd::tests {

/// Sessions that acknowledge every step at once, unless told otherwise.
class FakeEndpoints final : public ranks::Endpoints {
 public:
  std::string fail_reload_on;            ///< device whose rank raises in its first bucket
  std::atomic<bool> connect = true;      ///< false: nobody comes
  std::vector<ranks::OpenEndpoint> adopted;
  std::atomic<int> opened = 0, discarded = 0, failed = 0;
  std::string uncarriable;               ///< sentence of check_carriable
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

  /// How often all sessions of an engine were finished: what the fake engine waits for.
  int finished() const { return finished_; }
  void count_finished() { ++finished_; }

 private:
  std::atomic<int> finished_ = 0;
  mutable std::mutex mutex_;
  std::vector<ranks::OpenEndpoint> in_custody_;
  std::function<void(const std::string&)> callback_;
};

/// Sessions at which nobody connects: who calls the engine ends when they have finished.
class FakeTransfer final : public ranks::Transfer {
 public:
  explicit FakeTransfer(FakeEndpoints& endpoints) : endpoints_(endpoints) {}
  ranks::Traits traits() const override { return {.gapless = true}; }
  Result<> check_carriable(const weights::Manifest&) const override { return {}; }
  Result<std::unique_ptr<ranks::Session>> open(std::string engine, std::string device) override;
  Result<std::string> run(std::chrono::milliseconds timeout, std::stop_token stop) override;

 private:
  FakeEndpoints& endpoints_;
  int sessions_ = 0;
};

/// Answers when its ranks have finished, as a real one does, or as it is told.
class FakeEngine final : public fleet::Engine {
 public:
  struct Behaviour {
    std::atomic<bool> refuses = false, early_success = false, never_answers = false, gone = false;
    std::atomic<int> calls = 0, described = 0;
    std::string weight_transfer;  ///< what it tells that it offers
    std::mutex mutex;
    fleet::UpdateCall last_call;
  };
  FakeEngine(std::shared_ptr<Behaviour> behaviour, FakeEndpoints& endpoints)
      : behaviour_(std::move(behaviour)),
        endpoints_(endpoints),
        failed_before_(endpoints.failed),
        finished_before_(endpoints.finished()) {}

  Result<std::string> call_update(const fleet::UpdateCall& call, std::chrono::milliseconds timeout,
                                  std::stop_token stop) override;
  Result<fleet::Observation> observe(std::chrono::milliseconds timeout) override;
  Result<fleet::Description> describe(std::chrono::milliseconds timeout) override;

 private:
  std::shared_ptr<Behaviour> behaviour_;
  FakeEndpoints& endpoints_;
  int failed_before_, finished_before_;  ///< at its making: its ranks may be faster than its call
};

}  // namespace ckptd::tests
