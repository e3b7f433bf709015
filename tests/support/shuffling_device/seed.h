// The seed of a run of tests: CKPTD_TEST_SEED, or drawn and printed, so that a failure can be repeated.
#pragma once

#include <cstdint>

namespace ckptd::tests {

/// The same number at every call in one process.
std::uint64_t seed_of_run();

}  // namespace ckptd::tests
