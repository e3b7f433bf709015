#include <catch2/catch.hpp>

#include "daemon/ranks/checkpoint_engine/custodian.h"

namespace ckptd::ranks::checkpoint_engine {

using namespace std::chrono_literals;

TEST_CASE("how long an endpoint in custody stays bound") {
  const auto taken = Clock::time_point(100s), changed = Clock::time_point(500s);
  CHECK(closing_time({taken, taken, false, 0}, 30min) == taken + 30min);
  CHECK(closing_time({taken, changed, true, 1}, 30min) == Clock::time_point::max());
  CHECK(closing_time({taken, changed, true, 2}, 0ms) == Clock::time_point::max());
  CHECK(closing_time({taken, changed, true, 0}, 30min) == changed + kStayBound);
  // A rank that may be on its way back has its time from when it left: its post hook may have lasted for long.
  CHECK(closing_time({taken, changed, true, 0, kStayForReturn}, 30min) == changed + kStayForReturn);
  CHECK(closing_time({taken, taken + 1s, true, 0, kStayForReturn}, 30min) == taken + 1s + kStayForReturn);
  CHECK(closing_time({taken, changed, true, 1, kStayForReturn}, 30min) == Clock::time_point::max());
  CHECK(closing_time({taken, changed, false, 0, kStayForReturn}, 30min) == taken + 30min);
  // Whoever opened the socket without a handshake is nobody, but something did change then.
  CHECK(closing_time({taken, changed, false, 0}, 1s) == taken + 1s);
}

}  // namespace ckptd::ranks::checkpoint_engine
