#include <catch2/catch.hpp>

#include "daemon/ranks/session.h"

TEST_CASE("steps have the names that operators read") {
  using ckptd::ranks::name_of;
  using ckptd::ranks::Step;
  CHECK(name_of(Step::connect) == "connect");
  CHECK(name_of(Step::offer) == "offer");
  CHECK(name_of(Step::reload) == "reload");
  CHECK(name_of(Step::release) == "release");
  CHECK(name_of(Step::finish) == "finish");
}
