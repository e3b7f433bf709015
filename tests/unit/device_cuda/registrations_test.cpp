// Host memory: one registration for all devices, in pieces that are undone when one fails.
#include "daemon/device/cuda/registrations.h"

#include <algorithm>
#include <thread>
#include <vector>

#include "daemon/device/cuda/stream.h"
#include "tests/unit/device_cuda/fake.h"

namespace ckptd::device::cuda {
namespace {

constexpr std::uint64_t kPiece = 64 * kKiB;

std::shared_ptr<Context> context_of(int gpu) {
  auto driver = Driver::open(tests::FakeCuda::path()).value();
  return Context::retain(driver, gpu, gpu, "GPU " + std::to_string(gpu)).value();
}

}  // namespace

TEST_CASE("memory is registered in pieces, once for all devices, until the last share is gone") {
  CleanFake fake;
  auto all = std::make_shared<Registrations>(kPiece);
  auto zero = context_of(0), one = context_of(1);
  const unsigned before = fake->objects();
  std::vector<std::byte> memory(3 * kPiece + 100);
  auto first = all->add(memory, zero).value();
  CHECK(fake->objects() == before + 4);
  auto second = all->add(memory, one).value();
  CHECK(fake->objects() == before + 4);
  first.reset();
  CHECK(fake->objects() == before + 4);
  second.reset();
  CHECK(fake->objects() == before);
  CHECK(all->add(memory, zero));
}

TEST_CASE("a piece that fails undoes those before it, and all can be had again") {
  CleanFake fake;
  auto all = std::make_shared<Registrations>(kPiece);
  auto zero = context_of(0);
  const unsigned before = fake->objects();
  std::vector<std::byte> memory(4 * kPiece);
  const auto failing = GENERATE(1U, 2U, 4U);
  fake->fail("cuMemHostRegister_v2", failing, CUDA_ERROR_OUT_OF_MEMORY, -1);
  auto refused = all->add(memory, zero);
  REQUIRE_FALSE(refused);
  CHECK(refused.error().kind == ErrorKind::no_space);
  says(refused.error(), "LimitMEMLOCK");
  CHECK(fake->objects() == before);
  CHECK(all->add(memory, zero));
}

TEST_CASE("memory is registered side by side, and whoever comes for the same waits for it") {
  CleanFake fake;
  auto all = std::make_shared<Registrations>(kPiece);
  auto zero = context_of(0), one = context_of(1);
  const unsigned before = fake->objects();
  std::vector<std::vector<std::byte>> memory(3, std::vector<std::byte>(kPiece));
  const auto add_each_twice = [&] {
    std::vector<Result<std::unique_ptr<HostRegistration>>> shares(2 * memory.size());
    {
      std::vector<std::jthread> threads;
      for (std::size_t i = 0; i < shares.size(); ++i)
        threads.emplace_back([&, i] { shares[i] = all->add(memory[i / 2], i % 2 == 0 ? zero : one); });
    }
    return shares;
  };
  SECTION("it succeeds") {
    fake->gather("cuMemHostRegister_v2", 3);
    auto shares = add_each_twice();
    for (const auto& share : shares) CHECK(share);
    CHECK(fake->gathered() == 3);
    CHECK(fake->objects() == before + 3);
    fake->gather("cuMemHostUnregister", 3);
    std::vector<std::jthread> threads;
    for (auto& share : shares) threads.emplace_back([&share] { share->reset(); });
    threads.clear();
    CHECK(fake->gathered() == 3);
  }
  SECTION("one fails, and whoever waited for it tries itself") {
    fake->fail("cuMemHostRegister_v2", 2, CUDA_ERROR_OUT_OF_MEMORY, -1);
    const auto shares = add_each_twice();
    CHECK(std::ranges::count_if(shares, [](const auto& share) { return share.has_value(); }) == 5);
    CHECK(fake->objects() == before + 3);
  }
  CHECK(all->add(memory[0], zero));
}

TEST_CASE("memory that somebody else has registered is a conflict") {
  CleanFake fake;
  auto ours = std::make_shared<Registrations>(kPiece), others = std::make_shared<Registrations>(kPiece);
  auto zero = context_of(0);
  std::vector<std::byte> memory(3 * kPiece);
  auto taken = others->add(std::span(memory).subspan(2 * kPiece, 10), zero).value();
  const unsigned before = fake->objects();
  auto refused = ours->add(memory, zero);
  REQUIRE_FALSE(refused);
  CHECK(refused.error().kind == ErrorKind::conflict);
  says(refused.error(), "somebody else");
  CHECK(fake->objects() == before);
  taken.reset();
  CHECK(ours->add(memory, zero));
}

TEST_CASE("a copy is cut where two pieces meet") {
  CleanFake fake;
  auto all = std::make_shared<Registrations>(kPiece);
  auto zero = context_of(0);
  std::vector<std::byte> memory(3 * kPiece, std::byte{7});
  const std::byte* start = memory.data();
  CHECK(all->piece_at(start, 10 * kPiece) == 10 * kPiece);
  auto registered = all->add(memory, zero).value();
  CHECK(all->piece_at(start, 10) == 10);
  CHECK(all->piece_at(start, 3 * kPiece) == kPiece);
  CHECK(all->piece_at(start + 10, kPiece) == kPiece - 10);
  CHECK(all->piece_at(start + kPiece, kPiece) == kPiece);
  CHECK(all->piece_at(start - 1, 5) == 5);

  auto watcher = Watcher::start(zero).value();
  auto stream = CudaStream::create(zero, watcher, all).value();
  CUdeviceptr target = 0;
  REQUIRE(zero->call("allocate", &Functions::mem_alloc, &target, std::size_t{2 * kMiB}));
  REQUIRE(stream->copy_from_host({target, 2 * kPiece}, start + kPiece / 2));
  REQUIRE(stream->synchronize(Deadline::in(30s)));
  CHECK(fake->complaints() == 0);
  REQUIRE(zero->call("free", &Functions::mem_free, target));
}

TEST_CASE("the share of a device that is lost is undone by another one") {
  CleanFake fake;
  auto all = std::make_shared<Registrations>(kPiece);
  std::vector<std::byte> memory(2 * kPiece);
  {
    auto zero = context_of(0), one = context_of(1);
    auto of_zero = all->add(memory, zero).value(), of_one = all->add(memory, one).value();
    fake->fail("cuMemGetInfo_v2", 1, CUDA_ERROR_ILLEGAL_ADDRESS, 0);
    std::size_t free_bytes = 0, total_bytes = 0;
    CHECK_FALSE(zero->call("ask", &Functions::mem_get_info, &free_bytes, &total_bytes));
    of_one.reset();
    of_zero.reset();
    CHECK(all->add(memory, one));
    CHECK_FALSE(all->add(memory, zero));
  }
}

}  // namespace ckptd::device::cuda
