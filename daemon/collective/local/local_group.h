// A group whose members are threads of this process and whose bytes travel by copies between the members' devices.
// Serves host devices and, where the devices can reach each other's memory, GPUs of one node.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "daemon/collective/group.h"

namespace ckptd::collective::local {

/// One member for each device, in order; `names` are for messages ("HOST-0"). The devices must outlive the members;
/// the members share the group's state and may be destroyed in any order.
Result<std::vector<std::unique_ptr<Member>>> make_group(const std::vector<device::Device*>& devices,
                                                        const std::vector<std::string>& names);

}  // namespace ckptd::collective::local
