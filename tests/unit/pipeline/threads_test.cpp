// Pushes that the machine has no threads or no memory for.
#include <catch2/catch.hpp>
#include <new>

#include "tests/support/few_threads.h"
#include "tests/unit/pipeline/bench.h"

using namespace ckptd;
using namespace ckptd::pipeline;
using tests::Bench;
using tests::Script;

namespace {

/// A session whose offer finds no memory.
class Throwing final : public ranks::Session {
 public:
  explicit Throwing(std::unique_ptr<ranks::Session> under) : under_(std::move(under)) {}

  const std::string& endpoint() const override { return under_->endpoint(); }
  const std::string& device() const override { return under_->device(); }
  ranks::Traits traits() const override { return under_->traits(); }
  std::optional<ranks::Peer> peer() const override { return under_->peer(); }
  bool touched() const override { return under_->touched(); }
  Result<> offer(const device::Export&) override { throw std::bad_alloc(); }
  Result<> reload(std::span<const ranks::TensorView>, std::uint32_t) override { return {}; }
  Result<> release() override { return {}; }
  Result<> finish() override { return {}; }
  Result<Woken> wait(std::span<const int> wakers, Deadline deadline) override { return under_->wait(wakers, deadline); }
  std::shared_ptr<ranks::Hold> hold() const override { return under_->hold(); }
  void fail(const Error& reason) noexcept override { under_->fail(reason); }
  void discard() noexcept override { under_->discard(); }

 private:
  std::unique_ptr<ranks::Session> under_;
};

}  // namespace

TEST_CASE("without a thread for each lane none begins, and the error says what could not be had") {
  const auto lanes = GENERATE(0u, 1u, 2u);  // that have one
  CAPTURE(lanes);
  const auto outcome = tests::with_few_threads(lanes + 1, [] {  // and the one that works for all devices
    Bench bench(3);
    const auto pushed = bench.run(plan::FanOut::broadcast, std::vector<Script>(3));
    if (pushed || pushed.error().kind != ErrorKind::no_space) return 1;
    if (pushed.error().sentence.find("no thread could be started") == std::string::npos) return 2;
    for (const auto& model : bench.models)
      if (!model->discarded || !model->steps.empty() || !model->failed.empty()) return 3;
    for (const auto& hold : bench.report.holds)
      if (hold) return 4;
    return bench.offers == 0 && bench.touches == 0 ? 0 : 5;
  });
  if (!outcome) {
    WARN("skipped: this takes root, and no ThreadSanitizer");
    return;
  }
  CHECK(*outcome == 0);
}

TEST_CASE("an exception in a lane is a failure of the update as any other") {
  Bench bench(2);
  SECTION("in its session") {
    bench.meddle = [](std::vector<Lane>& lanes) {
      lanes[1].session = std::make_unique<Throwing>(std::move(lanes[1].session));
    };
  }
  SECTION("in what makes the endpoints known") {
    bench.gates.before_offers = []() -> Result<> { throw std::bad_alloc(); };
  }
  SECTION("in what writes down that ranks are touched") {
    bench.gates.before_first_bucket = []() -> Result<> { throw std::bad_alloc(); };
  }
  const auto pushed = bench.run(plan::FanOut::independent, std::vector<Script>(2));
  REQUIRE_FALSE(pushed);
  CHECK(pushed.error().kind == ErrorKind::internal);
  CHECK(pushed.error().sentence.find("bad_alloc") != std::string::npos);
  for (const auto& model : bench.models) CHECK((model->discarded || !model->failed.empty()));
}
