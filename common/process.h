// Whether a process that we have met is still there.
//
// The kernel gives numbers again, so a process is a number and the moment of its start. Where /proc does not tell the
// latter (hidepid, another pid namespace) a number that was given again looks like the old process: alive, which is the
// safe mistake for whoever waits for an end. Nothing here blocks.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace ckptd {

struct ProcessId {
  int pid = 0;                ///< 0: of a process that our pid namespace does not know
  std::uint64_t started = 0;  ///< clock ticks from the machine's boot; 0: not told
  bool operator==(const ProcessId&) const = default;
};

/// The process that has this number now. `root` stands before /proc.
ProcessId process_with(int pid, const std::string& root = {});

/// Certain: its memory and its descriptors are given up, whether or not its parent has taken note. False when nobody can
/// tell.
bool is_gone(const ProcessId& process);

/// The process and all that descend from it now, as far as /proc shows them; just the process when it shows nothing.
/// Reads one small file for each process of the machine.
std::vector<ProcessId> with_descendants(const ProcessId& process, const std::string& root = {});

/// Whether it has a file open now whose path begins so. False also of one whose descriptors we may not read.
bool has_open(const ProcessId& process, std::string_view path_begin, const std::string& root = {});

/// A variable of the environment that it was started with. Absent: it has none of that name, or we may not read it.
std::optional<std::string> variable_of(const ProcessId& process, std::string_view name);

}  // namespace ckptd
