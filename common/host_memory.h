// What the machine and the control group still allow, read from /proc and /sys below a root that tests replace.
//
// The parsing functions are pure. The reading functions block for a few small files; what is missing or unreadable
// counts as "no such limit", because a machine without it (no cgroup, no huge pages) is an ordinary machine.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace ckptd {

inline constexpr std::uint64_t kHugePageBytes = 2 << 20;

/// Somebody who bounds how much new memory may be touched: the machine, or one level of the control group.
struct Ceiling {
  std::string name;  ///< as a sentence names it: "this machine", "the control group /sys/fs/cgroup/x"
  std::uint64_t total_bytes = 0;
  std::uint64_t available_bytes = 0;
};

/// MemTotal and MemAvailable of /proc/meminfo; nothing unless both are there, in kB.
std::optional<Ceiling> parse_meminfo(std::string_view text);

/// Where this process is, from /proc/self/cgroup. "/" when the text points out of what we can see ("/..").
struct CgroupPaths {
  std::optional<std::string> unified;    ///< version 2
  std::optional<std::string> memory_v1;  ///< version 1's memory controller
};
CgroupPaths parse_proc_cgroup(std::string_view text);

/// A limit in bytes; nothing for "max", for version 1's huge values and for what is no number.
std::optional<std::uint64_t> parse_cgroup_limit(std::string_view text);

/// The value of "key value" in a memory.stat; 0 when it is not there.
std::uint64_t parse_stat_value(std::string_view text, std::string_view key);

/// The machine and every level of the control group that has a limit. Page cache that the group can drop at once
/// (inactive_file) counts as available, since reading a checkpoint through the page cache is charged to the group.
std::vector<Ceiling> read_ceilings(const std::filesystem::path& system_root);

/// The machine alone; nothing when its /proc/meminfo does not tell.
std::optional<Ceiling> read_machine(const std::filesystem::path& system_root);

/// Pages of 2 MiB in the machine's pool that nobody has taken or reserved.
std::uint64_t read_free_huge_pages(const std::filesystem::path& system_root);

}  // namespace ckptd
