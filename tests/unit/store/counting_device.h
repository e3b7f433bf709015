// A device that can only register host memory, counts what is registered and fails when told to.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <limits>
#include <memory>
#include <mutex>
#include <string>

#include "daemon/device/device.h"

namespace ckptd::test {

class CountingDevice : public device::Device {
 public:
  explicit CountingDevice(std::string uuid) : identity_{.kind = "counting", .uuid = std::move(uuid)} {}

  std::atomic<int> registered = 0;                ///< now
  std::atomic<int> registrations = 0;             ///< ever
  std::atomic<int> fail_after = std::numeric_limits<int>::max();
  std::atomic<bool> lost = false;
  int together = 1;                               ///< so many registrations are to be under way at once

  std::mutex mutex;  // guards what follows
  std::condition_variable changed;
  int inside = 0, most_inside = 0;

  const device::Identity& identity() const override { return identity_; }
  Result<std::unique_ptr<device::HostRegistration>> register_host(std::span<std::byte> memory) override {
    if (lost) return fail(ErrorKind::unavailable, "lost until a restart");
    if (registrations++ >= fail_after) {  // several segments are registered at once
      --registrations;
      return fail(ErrorKind::io, "out of registrations");
    }
    if (together > 1) {  // until so many are in it at once, or it is clear that they will not be
      std::unique_lock lock(mutex);
      ++inside;
      changed.notify_all();
      most_inside = std::max(most_inside, inside);
      changed.wait_for(lock, std::chrono::seconds(30), [&] { return most_inside >= together; });
      --inside;
    }
    memory.back() = memory.back();  // a fault here would mean that the memory is not mapped
    return std::make_unique<Registration>(registered);
  }
  Result<std::unique_ptr<device::Allocation>> allocate(std::uint64_t) override { return no(); }
  Result<std::unique_ptr<device::Allocation>> open(const device::Export&) override { return no(); }
  Result<std::unique_ptr<device::Stream>> make_stream() override { return no(); }
  Result<std::unique_ptr<device::Event>> make_event() override { return no(); }
  Result<std::uint64_t> free_bytes() const override { return no(); }

 private:
  struct Registration : device::HostRegistration {
    explicit Registration(std::atomic<int>& count) : count(count) { ++count; }
    ~Registration() override { --count; }
    std::atomic<int>& count;
  };
  static std::unexpected<Error> no() { return fail(ErrorKind::unsupported, "this device only counts"); }

  device::Identity identity_;
};

}  // namespace ckptd::test
