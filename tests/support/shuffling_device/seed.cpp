#include "tests/support/shuffling_device/seed.h"

#include <cstdlib>
#include <iostream>
#include <random>

namespace ckptd::tests {
namespace {

std::uint64_t draw() {
  const char* given = std::getenv("CKPTD_TEST_SEED");
  const std::uint64_t seed = given != nullptr ? std::strtoull(given, nullptr, 10) : std::random_device{}();
  std::cerr << "seed " << seed << "; CKPTD_TEST_SEED=" << seed << " repeats it\n";
  return seed;
}

}  // namespace

std::uint64_t seed_of_run() {
  static const std::uint64_t seed = draw();
  return seed;
}

}  // namespace ckptd::tests
