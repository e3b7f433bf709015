// The digests of a source's bytes without keeping them: for the question whether changed files are still the same
// version. Reads through one buffer of 4 MiB, on the calling thread, within the budget of all loads.
#pragma once

#include <atomic>
#include <cstdint>
#include <stop_token>
#include <vector>

#include "common/result.h"
#include "daemon/prefetch/throttle.h"
#include "daemon/source/source.h"

namespace ckptd::prefetch {

/// One digest for each tensor, in the manifest's order. `read_bytes` counts on. cancelled by the stop token between two
/// pieces; the source's own errors; corrupt when a file changed meanwhile.
Result<std::vector<weights::Digest>> identify(const source::Source& source, std::atomic<std::uint64_t>& read_bytes,
                                              std::stop_token stop, Throttle* throttle = nullptr);

}  // namespace ckptd::prefetch
