// Which process listens at an address of this machine, as /proc tells it.
//
// A server that restarted at the same address is another process, or the same number with a later start: that is how a
// restart is noticed that nobody saw happen. Absent when nobody on this machine listens there, when the address is of
// another machine or another network namespace, and when this could not be found out just now. Where several processes
// have the socket open (workers that were forked off), the one that started first is meant.
//
// Whose descriptors we may not read (that takes the same user, or CAP_SYS_PTRACE) is told by its socket instead: pid 0,
// and the number of the socket, which another start does not have, in place of the time.
//
// Reads small files and blocks for nothing else; its time grows with the number of open descriptors on the machine. Safe
// from any thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "common/process.h"

namespace ckptd {

/// `host` as it is written in a URL: a numeric address, "localhost", or another name, which is absent unless it is this
/// machine's. `root` stands before /proc.
std::optional<ProcessId> listener_on_tcp(const std::string& host, std::uint16_t port, const std::string& root = {});

std::optional<ProcessId> listener_on_unix(const std::string& path, const std::string& root = {});

}  // namespace ckptd
