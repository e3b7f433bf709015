// That an upload which makes progress is waited for, however long all of them together take.
#include <catch2/catch.hpp>
#include <thread>
#include <utility>

#include "tests/unit/pipeline/bench.h"
#include "tests/unit/pipeline/streams_around.h"

using namespace ckptd;
using tests::Bench;
using tests::DeviceAround;
using tests::Script;
using tests::StreamAround;
using namespace std::chrono_literals;

namespace {

constexpr auto kEach = 150ms;

/// As over a slow link: what is queued before an event takes its time.
class SlowStream final : public StreamAround {
 public:
  using StreamAround::StreamAround;

  Result<> record(device::Event& event) override {
    CKPTD_TRY(tests::queue_work(under(), []() -> Result<> {
      std::this_thread::sleep_for(kEach);
      return {};
    }));
    return under().record(event);
  }
};

}  // namespace

TEST_CASE("buckets that are queued together each have the whole deadline of an upload") {
  Bench bench(1);
  bench.devices[0] = std::make_unique<DeviceAround>(
      std::move(bench.devices[0]), [](auto stream) { return std::make_unique<SlowStream>(std::move(stream)); });
  bench.deadlines.upload = 8 * kEach;
  const auto pushed = bench.run(plan::FanOut::independent, std::vector<Script>(1), {}, 4096, 16 * 4096);
  INFO((pushed ? "" : pushed.error().sentence));
  REQUIRE(pushed);
  bench.check_model(*bench.models[0]);
  CHECK(bench.plan.buckets.size() > 8);  // together they take longer than the deadline
}
