#include "proto/control/outcome.h"

#include <catch2/catch.hpp>
#include <set>

using namespace ckptd;
namespace control = proto::control;

TEST_CASE("every kind has a row of its own, and exit codes tell kinds apart") {
  std::set<ErrorKind> kinds;
  std::set<int> codes{control::kExitSuccess, 1, control::kExitUsage, control::kExitDetached};
  for (const auto& outcome : control::outcomes()) {
    CHECK(kinds.insert(outcome.kind).second);
    CHECK(codes.insert(outcome.exit_code).second);
    CHECK(outcome.http_status >= 400);
    CHECK(outcome.http_status < 600);
    CHECK_FALSE(outcome.meaning.empty());
    CHECK(control::outcome_of(outcome.kind).exit_code == outcome.exit_code);
  }
  for (int kind = 0; kind <= static_cast<int>(ErrorKind::internal); ++kind)
    CHECK(kinds.contains(static_cast<ErrorKind>(kind)));
}
