// First touch: makes the kernel find a page for every address, by several threads, so that no later access can fault.
//
// Small pages are gathered in huge ones (MADV_COLLAPSE, Linux 6.1) where the mapping has room for them and the kernel finds
// some: a direct read into 4 KiB pages falls into many small requests. Decision 0010 has what it costs and brings.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <stop_token>

#include "common/result.h"

namespace ckptd::store {

/// Blocks until every page of `memory` (a shared, writable mapping; its content stays) is there. `touched` is called
/// from this thread with the bytes done so far. cancelled at a stop request, between pieces of 16 MiB; no_space or io
/// when the kernel has no page, never a SIGBUS where it knows MADV_POPULATE_WRITE (Linux 5.14).
Result<> touch(std::span<std::byte> memory, std::stop_token stop, const std::function<void(std::uint64_t)>& touched);

}  // namespace ckptd::store
