// Memory of host devices: one memfd for each allocation, reserved, sealed and mapped shared.
//
//   memfd_create -> ftruncate -> fallocate -> seal (no shrink, no growth, no further seals) -> mmap
//
// A memfd over-commits: without fallocate its pages are found when they are first written, and a page that is not there
// is a SIGBUS in the middle of an update. Reserving costs the first touch of every page, about a second for 4 GiB, but
// it is paid before the first bucket moves and its failure is an error. What then still costs, entering the pages into
// our page table, goes on in the background while the memory is used. Everything here is safe from any thread.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string_view>

#include "common/result.h"
#include "daemon/device/device.h"

namespace ckptd::device::host {

/// What the machine and each level of the control group still allow, the least of them, as proc and sys below
/// `system_root` tell; io when proc/meminfo does not.
Result<std::uint64_t> free_memory_bytes(const std::filesystem::path& system_root);

/// no_space, with both numbers, when more than free_memory_bytes() is asked for. `device` is for messages. Blocks for
/// the first touch of the pages; one caller at a time in the whole process, so that two cannot count the same memory.
Result<std::unique_ptr<Allocation>> allocate_memory(std::uint64_t bytes, std::string_view device,
                                                    const std::filesystem::path& system_root);

/// Maps the whole of an exported allocation. Refuses a file that is not sealed against shrinking or whose size is not
/// the one exported: reading such a mapping could end this process.
Result<std::unique_ptr<Allocation>> open_memory(const HostExport& exported);

/// Whether the whole range lies in one mapping made by the functions above, of any host device of this process. An
/// empty range lies everywhere.
bool is_host_memory(Range range);

}  // namespace ckptd::device::host
