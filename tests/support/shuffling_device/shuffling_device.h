// Devices that are as unkind as the contract of daemon/device/device.h allows, and that fail on demand.
//
// Shuffler::wrap() decorates a device. Memory is the wrapped device's; streams and events are not: queued work lies
// there until somebody waits for it, or until a random burst, and runs in any order that streams and event waits allow,
// drawn from a seed. A wait that is missing then shows as wrong bytes and not as luck. One thread of the Shuffler does
// the work of all its devices, so that devices of one Shuffler can wait for each other's events, and lanes may run in
// threads of their own. The seed fixes the choices; which items are there to choose from depends on the callers.
//
//   Shuffler shuffler(seed_of_run());
//   auto device = shuffler.wrap(make_host_device(0));
//   shuffler.fail_nth(Call::record, 3);
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "daemon/device/device.h"

namespace ckptd::tests {

class Order;

/// What can be made to fail. The last two fail where the work is done, as sticky errors of the stream; the others fail
/// the call, which then has done nothing.
enum class Call {
  allocate,
  open,
  export_to_processes,
  make_stream,
  make_event,
  register_host,
  free_bytes,
  copy_from_host,
  copy,
  record,
  wait,
  wake_when_done,
  synchronize,
  event_wait,
  work_copy_from_host,
  work_copy,
};

/// Queues work of the caller's making on a stream of a wrapped device, as a library's kernel is. Left out, like copies,
/// once the stream has failed.
Result<> queue_work(device::Stream& stream, std::function<Result<>()> work);

class Shuffler {
 public:
  explicit Shuffler(std::uint64_t seed);
  Shuffler(const Shuffler&) = delete;
  Shuffler& operator=(const Shuffler&) = delete;
  /// Ends the thread. Everything made from the wrapped devices must be gone.
  ~Shuffler();

  std::unique_ptr<device::Device> wrap(std::unique_ptr<device::Device> under);

  /// The `n`-th such call from now on, counted from 1, fails with ErrorKind::io and a sentence that says "injected" and
  /// names the device. Empty `device`: calls of all devices are counted together. Replaces an earlier order for `call`.
  void fail_nth(Call call, unsigned n, std::string device = "");
  void fail_nothing();
  /// How many such calls there were so far, on all devices: where fail_nth() can aim.
  unsigned calls(Call call) const;

  /// No work is done from here on until resume(), whoever waits: for deadlines.
  void pause();
  void resume();

 private:
  std::shared_ptr<Order> order_;
};

}  // namespace ckptd::tests
