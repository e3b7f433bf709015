// A rank's hold on memory that lets go when the test says so.
#pragma once

#include <atomic>
#include <memory>
#include <string>

#include "daemon/ranks/session.h"

namespace ckptd::tests {

class FakeHold final : public ranks::Hold {
 public:
  explicit FakeHold(std::string engine = "e", std::string device = "HOST-0", int pid = 42)
      : holder_{std::move(engine), std::move(device), {ranks::Peer{pid, 0}}} {}

  std::atomic<bool> released = false;
  std::atomic<int> looks_until_release = -1;  ///< counted down by each look; negative: never
  std::atomic<int> looks = 0;

  bool let_go() override {
    ++looks;
    if (looks_until_release >= 0 && looks_until_release-- == 0) released = true;
    return released;
  }
  ranks::Holder holder() const override { return holder_; }
  std::string why() const override { return "the rank has not unmapped the memory"; }

 private:
  ranks::Holder holder_;
};

}  // namespace ckptd::tests
