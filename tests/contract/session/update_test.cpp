#include <unistd.h>

#include <array>
#include <catch2/catch.hpp>
#include <numeric>

#include "common/waker.h"
#include "tests/contract/session/harness.h"

namespace ckptd::test {
namespace {

using ranks::Session;
using ranks::TensorView;
using weights::Dtype;
using namespace std::chrono_literals;

struct Setup {
  TemporaryDirectory directory;
  std::unique_ptr<ranks::Endpoints> endpoints = make_backend(directory.path() / "r");
  Memory memory;
  std::unique_ptr<Session> session = *endpoints->open("sglang-0", "HOST-3");
};

#define REQUIRE_OK(expression)                        \
  do {                                                \
    auto ok_result = (expression);                    \
    if (!ok_result) FAIL(ok_result.error().sentence); \
  } while (false)

}  // namespace

TEST_CASE("a rank loads what it is told, and the session ends clean") {
  Setup setup;
  auto& session = *setup.session;
  CHECK(session.device() == "HOST-3");
  CHECK(session.endpoint().starts_with("ipc:///"));
  CHECK_FALSE(session.peer());
  RankThread rank(session.endpoint());
  REQUIRE_OK(walk(session, setup.memory, Reached::ready));
  CHECK(session.peer()->pid == ::getpid());
  CHECK(session.peer()->uid == ::getuid());
  CHECK_FALSE(session.touched());
  REQUIRE_OK(reload_two(session));
  CHECK(session.touched());
  REQUIRE_OK(acknowledged(session));
  REQUIRE_OK(session.release());
  REQUIRE_OK(acknowledged(session));
  REQUIRE_OK(session.finish());
  REQUIRE_OK(acknowledged(session));
  auto outcome = rank.outcome();
  REQUIRE(outcome);
  CHECK(outcome->ok);
  const auto& model = rank.rank().model();
  REQUIRE(model.size() == 2);
  CHECK(model.at("model.norm.weight").bytes == setup.memory.part(256, 30));
  CHECK(model.at("model.norm.weight").shape == std::vector<std::int64_t>{3, 5});
  CHECK(model.at("scalar").bytes == setup.memory.part(1024, 4));
  CHECK(model.at("scalar").shape.empty());
  setup.session.reset();
  CHECK(setup.endpoints->in_custody().empty());
  CHECK(std::filesystem::is_empty(setup.directory.path() / "r"));
}

TEST_CASE("many buckets, of none, one and hundreds of tensors") {
  Setup setup;
  auto& session = *setup.session;
  RankThread rank(session.endpoint());
  REQUIRE_OK(walk(session, setup.memory, Reached::ready));
  static constexpr std::array<std::uint64_t, 1> shape{8};
  std::uint64_t sent = 0;
  for (std::uint32_t bucket = 0; bucket < 40; ++bucket) {
    std::vector<std::string> names(bucket == 7 ? 300 : bucket % 3);
    std::vector<TensorView> tensors;
    for (auto& name : names) {
      name = fmt::format("layers.{}.größe", sent);
      tensors.push_back({name, Dtype::i64, shape, sent++ * 64});
    }
    REQUIRE_OK(session.reload(tensors, bucket));
    REQUIRE_OK(acknowledged(session));
  }
  REQUIRE_OK(session.release());
  REQUIRE_OK(acknowledged(session));
  REQUIRE_OK(session.finish());
  REQUIRE_OK(acknowledged(session));
  REQUIRE(rank.outcome());
  CHECK(rank.outcome()->ok);
  CHECK(rank.rank().buckets() == 40);
  REQUIRE(rank.rank().model().size() == sent);
  for (std::uint64_t i = 0; i < sent; ++i)
    CHECK(rank.rank().model().at(fmt::format("layers.{}.größe", i)).bytes == setup.memory.part(i * 64, 64));
}

TEST_CASE("every type that torch has arrives, with torch's shape") {
  Setup setup;
  auto& session = *setup.session;
  RankThread rank(session.endpoint());
  REQUIRE_OK(walk(session, setup.memory, Reached::ready));
  static constexpr std::array<std::uint64_t, 2> shape{2, 4}, empty{0, 4};
  const std::array tensors{
      TensorView{"boolean", Dtype::boolean, shape, 0}, TensorView{"f4", Dtype::f4, shape, 256},
      TensorView{"scale", Dtype::f8_e8m0, shape, 512}, TensorView{"complex", Dtype::c64, shape, 768},
      TensorView{"u64", Dtype::u64, shape, 1024},      TensorView{"nothing", Dtype::bf16, empty, 1 << 16},
  };
  REQUIRE_OK(session.reload(tensors, 0));
  REQUIRE_OK(acknowledged(session));
  session.fail(test_failure());
  REQUIRE(rank.outcome());
  const auto& model = rank.rank().model();
  REQUIRE(model.size() == tensors.size());
  CHECK(model.at("f4").dtype == "float4_e2m1fn_x2");
  CHECK(model.at("f4").shape == std::vector<std::int64_t>{2, 2});
  CHECK(model.at("f4").bytes == setup.memory.part(256, 4));
  CHECK(model.at("scale").dtype == "float8_e8m0fnu");
  CHECK(model.at("complex").bytes == setup.memory.part(768, 64));
  CHECK(model.at("nothing").shape == std::vector<std::int64_t>{0, 4});
}

TEST_CASE("the offer waits for a rank that connects late") {
  Setup setup;
  RankThread rank(setup.session->endpoint(), {.kind = "connect_late", .bucket = 0, .seconds = 0.3});
  REQUIRE_OK(setup.session->offer(setup.memory.exported()));
  REQUIRE_OK(acknowledged(*setup.session));
  CHECK(setup.session->peer());
}

TEST_CASE("several sessions at once do not see each other") {
  Setup setup;
  std::vector<std::unique_ptr<Session>> sessions;
  std::vector<std::unique_ptr<RankThread>> ranks;
  for (int i = 0; i < 8; ++i) {
    sessions.push_back(*setup.endpoints->open("sglang-0", fmt::format("HOST-{}", i)));
    ranks.push_back(std::make_unique<RankThread>(sessions.back()->endpoint()));
  }
  for (auto& session : sessions) REQUIRE_OK(session->offer(setup.memory.exported()));
  for (auto& session : sessions) REQUIRE_OK(acknowledged(*session));
  for (auto& session : sessions) REQUIRE_OK(session->release());
  for (auto& session : sessions) REQUIRE_OK(acknowledged(*session));
  for (auto& session : sessions) REQUIRE_OK(session->finish());
  for (auto& session : sessions) REQUIRE_OK(acknowledged(*session));
  for (auto& rank : ranks) {
    REQUIRE(rank->outcome());
    CHECK(rank->outcome()->ok);
  }
}

TEST_CASE("a waker ends a wait, whether a step is outstanding or not") {
  Setup setup;
  auto& session = *setup.session;
  auto waker = *Waker::create();
  const std::array wakers{waker.fd()};
  waker.wake();
  CHECK(*session.wait(wakers, Deadline::in(kPatience)) == Session::Woken::by_waker);
  RankThread rank(session.endpoint(), {.kind = "stall", .bucket = 0, .seconds = kUntilTold});
  waker.drain();
  REQUIRE_OK(walk(session, setup.memory, Reached::reloading));
  waker.wake();
  CHECK(*session.wait(wakers, Deadline::in(kPatience)) == Session::Woken::by_waker);
  waker.drain();
  rank.go_on();
  CHECK(*session.wait(wakers, Deadline::in(kPatience)) == Session::Woken::acknowledged);
}

TEST_CASE("an acknowledgement that is here comes before a waker") {
  Setup setup;
  auto& session = *setup.session;
  auto waker = *Waker::create();
  const std::array wakers{waker.fd()};
  waker.wake();
  RankThread rank(session.endpoint());
  REQUIRE_OK(session.offer(setup.memory.exported()));
  int wakes = 0;
  while (*session.wait(wakers, Deadline::in(kPatience)) != Session::Woken::acknowledged) ++wakes;
  INFO(wakes << " wakes before the acknowledgement");
  REQUIRE_OK(session.release());
  REQUIRE_OK(acknowledged(session));
}

TEST_CASE("a wait with nothing outstanding ends at its deadline") {
  Setup setup;
  RankThread rank(setup.session->endpoint());
  REQUIRE_OK(walk(*setup.session, setup.memory, Reached::ready));
  auto waited = setup.session->wait({}, Deadline::in(10ms));
  REQUIRE_FALSE(waited);
  CHECK(waited.error().kind == ErrorKind::timed_out);
  REQUIRE_OK(reload_two(*setup.session));  // a deadline does not end the session
  REQUIRE_OK(acknowledged(*setup.session));
}

TEST_CASE("steps out of order are refused and do not reach the rank") {
  Setup setup;
  auto& session = *setup.session;
  CHECK(session.release().error().kind == ErrorKind::internal);
  CHECK(session.finish().error().kind == ErrorKind::internal);
  CHECK(reload_two(session).error().kind == ErrorKind::internal);
  CHECK_FALSE(session.touched());
  RankThread rank(session.endpoint(), {.kind = "stall", .bucket = 0, .seconds = 0.2});
  REQUIRE_OK(walk(session, setup.memory, Reached::reloading));
  CHECK(reload_two(session, 1).error().kind == ErrorKind::internal);
  CHECK(session.release().error().kind == ErrorKind::internal);
  REQUIRE_OK(acknowledged(session));
  session.fail(test_failure());
  REQUIRE(rank.outcome());
  CHECK(rank.rank().buckets() == 1);
}

TEST_CASE("a session can be handed from thread to thread between steps") {
  Setup setup;
  RankThread rank(setup.session->endpoint());
  auto& session = *setup.session;
  auto on_another_thread = [&](auto step) {
    return std::async(std::launch::async,
                      [&]() -> Result<> {
                        CKPTD_TRY(step());
                        return acknowledged(session);
                      })
        .get();
  };
  REQUIRE_OK(on_another_thread([&] { return session.offer(setup.memory.exported()); }));
  REQUIRE_OK(on_another_thread([&] { return reload_two(session); }));
  REQUIRE_OK(on_another_thread([&] { return session.release(); }));
  REQUIRE_OK(on_another_thread([&] { return session.finish(); }));
  REQUIRE(rank.outcome());
  CHECK(rank.outcome()->ok);
}

TEST_CASE("what torch has no type for is refused by name before anything is sent") {
  Setup setup;
  auto& session = *setup.session;
  RankThread rank(session.endpoint());
  REQUIRE_OK(walk(session, setup.memory, Reached::ready));
  static constexpr std::array<std::uint64_t, 1> four{4}, odd{3};
  auto six_bits = session.reload(std::array{TensorView{"experts.w6", Dtype::f6_e2m3, four, 0}}, 0);
  REQUIRE_FALSE(six_bits);
  CHECK(six_bits.error().kind == ErrorKind::unsupported);
  CHECK(mentions(six_bits.error(), "experts.w6"));
  auto odd_f4 = session.reload(std::array{TensorView{"experts.w4", Dtype::f4, odd, 0}}, 0);
  REQUIRE_FALSE(odd_f4);
  CHECK(mentions(odd_f4.error(), "experts.w4"));
  CHECK_FALSE(session.touched());
  REQUIRE_OK(reload_two(session));
  REQUIRE_OK(acknowledged(session));
}

}  // namespace ckptd::test
