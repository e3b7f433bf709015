// A group whose members are threads of this process and whose bytes travel by copies between the members' devices.
// Serves host devices and, where the devices can reach each other's memory, GPUs of one node.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "daemon/collective/group.h"

namespace ckptd::collective::local {

/// How long an owner whose broadcast failed waits for members that are queuing copies from its slot at that moment.
/// Queuing does not block, so only a device that hangs makes this pass.
inline constexpr std::chrono::milliseconds kReadersGrace{5'000};

/// One member for each device, in order; `names` are for messages ("HOST-0"). The devices must outlive the members;
/// the members share the group's state and may be destroyed in any order.
Result<std::vector<std::unique_ptr<Member>>> make_group_with(std::chrono::milliseconds readers_grace,
                                                             const std::vector<device::Device*>& devices,
                                                             const std::vector<std::string>& names);

/// The same with kReadersGrace.
Result<std::vector<std::unique_ptr<Member>>> make_group(const std::vector<device::Device*>& devices,
                                                        const std::vector<std::string>& names);

}  // namespace ckptd::collective::local
