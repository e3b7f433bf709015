// What the shuffling device adds to the contract: it shows a missing wait, and it fails on demand.
#include "tests/contract/device_contract.h"

namespace ckptd::tests {
namespace {

/// Uploads on one stream, copies on with another; whether the copy has the uploaded bytes.
bool copies_right_bytes(std::uint64_t seed, bool with_wait) {
  const Bytes bytes(100, std::byte{7});  // outlives the upload, which nobody may wait for
  Shuffler shuffler(seed);
  auto device = shuffler.wrap(device::host::make_host_device(0));
  auto memory = must(device->allocate(200));
  auto up = must(device->make_stream()), across = must(device->make_stream());
  auto uploaded = must(device->make_event());
  must(up->copy_from_host(memory->range().part(0, 100), bytes.data()));
  must(up->record(*uploaded));
  if (with_wait) must(across->wait(*uploaded));
  must(across->copy(memory->range().part(100, 100), memory->range().part(0, 100)));
  must(across->synchronize(patience()));
  return HostBackend::bytes_at(memory->range().part(100, 100)) == bytes;
}

/// Two streams without any order, many copies each: the order in which they got through, as the bytes that remain.
Bytes what_remains(std::uint64_t seed) {
  Shuffler shuffler(seed);
  auto device = shuffler.wrap(device::host::make_host_device(0));
  auto memory = must(device->allocate(64));
  auto one = must(device->make_stream()), two = must(device->make_stream());
  auto join = must(device->make_event());
  const Bytes ones(64, std::byte{1}), twos(64, std::byte{2});
  shuffler.pause();
  for (std::size_t at = 0; at < 64; ++at) {
    must(one->copy_from_host(memory->range().part(at, 1), ones.data()));
    must(two->copy_from_host(memory->range().part(at, 1), twos.data()));
  }
  must(two->record(*join));
  must(one->wait(*join));
  shuffler.resume();
  must(one->synchronize(patience()));
  return HostBackend::bytes_at(memory->range());
}

}  // namespace

TEST_CASE("a missing wait shows as wrong bytes, a wait never does") {
  int wrong = 0;
  for (std::uint64_t i = 0; i < 40; ++i) {
    REQUIRE(copies_right_bytes(seed_of_run() + i, true));
    wrong += copies_right_bytes(seed_of_run() + i, false) ? 0 : 1;
  }
  CHECK(wrong > 5);
}

TEST_CASE("streams without order get through in many orders") {
  std::vector<Bytes> seen;
  for (std::uint64_t i = 0; i < 10; ++i) seen.push_back(what_remains(seed_of_run() + i));
  std::sort(seen.begin(), seen.end());
  CHECK(std::unique(seen.begin(), seen.end()) - seen.begin() > 2);
}

TEST_CASE("nothing moves while paused") {
  Shuffler shuffler(seed_of_run());
  auto device = shuffler.wrap(device::host::make_host_device(0));
  auto stream = must(device->make_stream());
  auto waker = must(Waker::create());
  shuffler.pause();
  must(stream->wake_when_done(waker));
  auto late = stream->synchronize(Deadline::in(20ms));
  shuffler.resume();
  REQUIRE_FALSE(late);
  CHECK(late.error().kind == ErrorKind::timed_out);
  must(stream->synchronize(patience()));
}

TEST_CASE("the n-th call fails, once, on the device that is named") {
  Shuffler shuffler(seed_of_run());
  auto zero = shuffler.wrap(device::host::make_host_device(0));
  auto one = shuffler.wrap(device::host::make_host_device(1));
  auto memory = must(zero->allocate(100));
  const Bytes bytes(100);

  SECTION("a call") {
    shuffler.fail_nth(Call::allocate, 2, "HOST-1");
    CHECK(zero->allocate(10));
    CHECK(one->allocate(10));
    CHECK(zero->allocate(10));
    auto failed = one->allocate(10);
    REQUIRE_FALSE(failed);
    CHECK(failed.error().sentence.find("HOST-1: injected") == 0);
    CHECK(one->allocate(10));
    CHECK(shuffler.calls(Call::allocate) == 6);
  }
  SECTION("work, which then sticks to its stream") {
    auto stream = must(zero->make_stream());
    shuffler.fail_nth(Call::work_copy_from_host, 3);
    for (int i = 0; i < 2; ++i) must(stream->copy_from_host(memory->range(), bytes.data()));
    must(stream->synchronize(patience()));
    must(stream->copy_from_host(memory->range(), bytes.data()));
    auto failed = stream->synchronize(patience());
    REQUIRE_FALSE(failed);
    CHECK(failed.error().sentence.find("injected") != std::string::npos);
    CHECK_FALSE(stream->synchronize(patience()));
  }
  SECTION("nothing, once that is taken back") {
    shuffler.fail_nth(Call::make_stream, 1);
    shuffler.fail_nothing();
    CHECK(zero->make_stream());
  }
}

}  // namespace ckptd::tests
