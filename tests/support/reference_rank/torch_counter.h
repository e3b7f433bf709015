// How torch tells the owner of CUDA memory that it has unmapped it: a counter in a file of shared memory, named by
// arguments 11 and 12 of the offer. Shares no code with the daemon.
#pragma once

#include <cstdint>
#include <string>

namespace ckptd::reference_rank {

/// Counts down by one, as torch does it and as silently: what cannot be opened is left.
void count_down(const std::string& file, std::int64_t index);

}  // namespace ckptd::reference_rank
