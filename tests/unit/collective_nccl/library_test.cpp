#include "daemon/collective/nccl/library.h"

#include <catch2/catch.hpp>
#include <cstdlib>

#include "tests/support/fake_nccl/device_streams.h"
#include "tests/unit/collective_nccl/house.h"

namespace ckptd::tests {

using collective::nccl::kOldestVersion;
using collective::nccl::show_version;

TEST_CASE("a library that is not there is an error that says what to do") {
  const auto opened = Library::open("/nowhere/libnccl.so.2");
  REQUIRE_FALSE(opened);
  CHECK(opened.error().kind == ErrorKind::unavailable);
  CHECK(says(opened.error(), "/nowhere/libnccl.so.2"));
  CHECK(says(opened.error(), "[nccl] library"));
  CHECK(opened.error().vendor != "");
}

TEST_CASE("a library that is no NCCL is told by what it lacks") {
  const auto opened = Library::open("libm.so.6");
  REQUIRE_FALSE(opened);
  CHECK(opened.error().kind == ErrorKind::unsupported);
  CHECK(says(opened.error(), "ncclCommInitRankConfig"));
}

TEST_CASE("a version that is too old is refused with the one that is needed") {
  fake_nccl_begin(&device_streams(), seed_of_run());
  fake_nccl_set_version(kOldestVersion - 1);
  const auto refused = Library::open(CKPTD_FAKE_NCCL);
  REQUIRE_FALSE(refused);
  CHECK(refused.error().kind == ErrorKind::unsupported);
  CHECK(says(refused.error(), "2.22.2"));
  CHECK(says(refused.error(), "2.22.3"));
  fake_nccl_set_version(kOldestVersion);
  const auto opened = Library::open(CKPTD_FAKE_NCCL);
  REQUIRE(opened);
  CHECK((*opened)->version() == 22203);
}

TEST_CASE("a library that does not tell its version is refused") {
  fake_nccl_begin(&device_streams(), seed_of_run());
  fake_nccl_fail("ncclGetVersion", 1, kInternal);
  const auto refused = Library::open(CKPTD_FAKE_NCCL);
  REQUIRE_FALSE(refused);
  CHECK(says(refused.error(), "for its version"));
}

TEST_CASE("versions are shown as people write them") {
  CHECK(show_version(22203) == "2.22.3");
  CHECK(show_version(23203) == "2.32.3");
}

TEST_CASE("NVIDIA's own library opens, where CKPTD_TEST_NCCL names one") {
  const char* path = std::getenv("CKPTD_TEST_NCCL");
  if (path == nullptr) {
    WARN("skipped: CKPTD_TEST_NCCL names no libnccl.so.2");
    return;
  }
  const auto opened = Library::open(path);
  if (!opened) FAIL(opened.error().sentence << " " << opened.error().vendor);
  CHECK((*opened)->version() >= kOldestVersion);
  collective::nccl::UniqueId id{};
  CHECK((*opened)->functions().get_unique_id(&id) == collective::nccl::Code::success);
  CHECK((*opened)->error(collective::nccl::Code::remote_error, "a test").vendor != "");
}

}  // namespace ckptd::tests
