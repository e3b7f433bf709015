// How the devices of an update reach each other: which collective, chosen once at the start.
#pragma once

#include <cstddef>
#include <memory>
#include <stop_token>
#include <string>
#include <vector>

#include "common/deadline.h"
#include "common/result.h"
#include "daemon/collective/group.h"
#include "daemon/config/config.h"
#include "daemon/device/device.h"

namespace ckptd {

class Collective {
 public:
  /// By [collective] backend. Logs what auto came to, and why. The devices outlive it.
  static Result<std::unique_ptr<Collective>> choose(const config::Config& config,
                                                    const std::vector<device::Device*>& devices);
  virtual ~Collective() = default;

  /// May take long; a stop request ends that.
  virtual Result<std::vector<std::unique_ptr<collective::Member>>> make_group(
      const std::vector<device::Device*>& devices, const std::vector<std::string>& names, std::stop_token stop) = 0;

  /// Lets go of what is kept for the next group; how many sets of devices that was for.
  virtual std::size_t drop_idle() noexcept { return 0; }
  /// The daemon is ending: nobody is to wait for a group that is being made, nor beyond `by` for one that hangs.
  virtual void close(Deadline by) noexcept { static_cast<void>(by); }
};

}  // namespace ckptd
