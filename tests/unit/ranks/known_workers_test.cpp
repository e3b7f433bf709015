#include "daemon/ranks/checkpoint_engine/known_workers.h"

#include <catch2/catch.hpp>

namespace ckptd::ranks::checkpoint_engine {

TEST_CASE("what a worker takes is remembered for its process and for no other") {
  KnownWorkers known;
  const Peer worker{.pid = 10, .uid = 0, .started = 100}, restarted{.pid = 10, .uid = 0, .started = 101},
      other{.pid = 11, .uid = 0, .started = 100};
  CHECK_FALSE(known.take_two_nones(worker));
  known.took_two_nones(worker);
  known.took_two_nones(worker);
  CHECK(known.take_two_nones(worker));
  CHECK_FALSE(known.take_two_nones(restarted));  // the same number, given to the engine that was started again
  CHECK_FALSE(known.take_two_nones(other));
}

TEST_CASE("a process that cannot be recognised is never remembered") {
  KnownWorkers known;
  const auto peer = GENERATE(Peer{.pid = 0, .uid = 5, .started = 0}, Peer{.pid = 10, .uid = 5, .started = 0});
  known.took_two_nones(peer);
  CHECK_FALSE(known.take_two_nones(peer));
}

TEST_CASE("the memory is bounded, and the oldest go first") {
  KnownWorkers known;
  for (int pid = 1; pid <= static_cast<int>(KnownWorkers::kMost) + 1; ++pid)
    known.took_two_nones({.pid = pid, .uid = 0, .started = 1});
  CHECK_FALSE(known.take_two_nones({.pid = 1, .uid = 0, .started = 1}));
  CHECK(known.take_two_nones({.pid = 2, .uid = 0, .started = 1}));
}

}  // namespace ckptd::ranks::checkpoint_engine
