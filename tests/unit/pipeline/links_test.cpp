// That every device uploads its share over its own link: what it uploads for all waits for nobody else's upload.
#include <catch2/catch.hpp>
#include <mutex>
#include <set>
#include <utility>

#include "tests/unit/pipeline/bench.h"
#include "tests/unit/pipeline/streams_around.h"

using namespace ckptd;
using tests::Bench;
using tests::DeviceAround;
using tests::Script;
using tests::StreamAround;

namespace {

/// Streams by what was queued in them.
struct Seen {
  std::mutex mutex;
  std::set<const device::Stream*> uploads, spreads;
};

class SeenStream final : public StreamAround {
 public:
  SeenStream(std::unique_ptr<device::Stream> under, Seen& seen) : StreamAround(std::move(under)), seen_(seen) {}

  Result<> copy_from_host(device::Range to, const std::byte* from) override {
    note(seen_.uploads);
    return under().copy_from_host(to, from);
  }
  Result<> copy(device::Range to, device::Range from) override {
    note(seen_.spreads);
    return under().copy(to, from);
  }

 private:
  void note(std::set<const device::Stream*>& streams) {
    std::lock_guard lock(seen_.mutex);
    streams.insert(this);
  }
  Seen& seen_;
};

}  // namespace

TEST_CASE("what a device uploads for all is in no stream with what it is given by others") {
  Seen seen;
  Bench bench(3);
  for (auto& each : bench.devices)
    each = std::make_unique<DeviceAround>(
        std::move(each), [&](auto stream) { return std::make_unique<SeenStream>(std::move(stream), seen); });
  REQUIRE(bench.run(plan::FanOut::broadcast, std::vector<Script>(3)));
  for (const auto& model : bench.models) bench.check_model(*model);
  CHECK(seen.uploads.size() == 3);  // one of each device
  CHECK(seen.spreads.size() == 3);
  for (const auto* stream : seen.uploads) CHECK_FALSE(seen.spreads.contains(stream));
}
