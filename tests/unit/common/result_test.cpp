#include "common/result.h"

#include <catch2/catch.hpp>
#include <cerrno>
#include <memory>
#include <set>

namespace ckptd {
namespace {

TEST_CASE("every kind has one spelling, and the spelling leads back") {
  std::set<std::string_view> names;
  for (int i = 0; i <= static_cast<int>(ErrorKind::internal); ++i) {
    auto kind = static_cast<ErrorKind>(i);
    CHECK(error_kind_named(name_of(kind)) == kind);
    CHECK(names.insert(name_of(kind)).second);
  }
  CHECK(error_kind_named("") == ErrorKind::internal);
  CHECK(error_kind_named("Not_found") == ErrorKind::internal);
}

TEST_CASE("an error keeps what it is while its sentence grows") {
  auto error = Error{ErrorKind::busy, "in use"}.with_fact("job", "load-1").with_vendor("raw");
  auto within = error.within("evicting m@1");
  CHECK(within.sentence == "evicting m@1: in use");
  CHECK(within.kind == ErrorKind::busy);
  CHECK(within.vendor == "raw");
  CHECK(within.facts == error.facts);
  CHECK(error.sentence == "in use");
}

TEST_CASE("errors of the system have a kind and the system's words") {
  CHECK(system_error(ENOENT, "open /x").kind == ErrorKind::not_found);
  CHECK(system_error(ENOTDIR, "open /x").kind == ErrorKind::not_found);
  CHECK(system_error(EACCES, "open /x").kind == ErrorKind::denied);
  CHECK(system_error(EPERM, "open /x").kind == ErrorKind::denied);
  CHECK(system_error(ENOSPC, "open /x").kind == ErrorKind::no_space);
  CHECK(system_error(EDQUOT, "open /x").kind == ErrorKind::no_space);
  CHECK(system_error(ENOMEM, "open /x").kind == ErrorKind::no_space);
  auto io = system_error(EIO, "open /x");
  CHECK(io.kind == ErrorKind::io);
  CHECK(io.sentence.starts_with("open /x: "));
  CHECK(io.sentence.size() > std::string("open /x: ").size());
}

Result<int> half_of(int value) {
  if (value % 2 != 0) return fail(ErrorKind::invalid_argument, "{} is odd", value);
  return value / 2;
}
Result<> check_even(int value) {
  (void)CKPTD_TRY(half_of(value));
  return {};
}
Result<int> quarter_of(int value) {
  CKPTD_TRY(check_even(value));
  const auto half = CKPTD_TRY(half_of(value));
  return CKPTD_TRY(half_of(half));
}
Result<std::unique_ptr<int>> boxed(int value) { return std::make_unique<int>(CKPTD_TRY(half_of(value))); }
Result<int> unboxed(int value) {
  auto box = CKPTD_TRY(boxed(value));
  return *box;
}

TEST_CASE("CKPTD_TRY takes the value or returns the error") {
  CHECK(*quarter_of(8) == 2);
  CHECK(quarter_of(7).error().sentence == "7 is odd");
  CHECK(quarter_of(6).error().sentence == "3 is odd");
  CHECK(*unboxed(4) == 2);
  CHECK_FALSE(unboxed(3));
}

}  // namespace
}  // namespace ckptd
