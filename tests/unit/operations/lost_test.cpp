// A device of which nothing works any more: what is said of it, and that the others go on.
#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

#include "tests/unit/operations/house.h"

using namespace ckptd;
using tests::CudaLikeDevice;
using tests::FakeHold;
using tests::House;

namespace {

/// Two devices, of which the first gets lost, each with an engine.
struct TwoGpus : House {
  TwoGpus() : House(64 * kMiB, true) {
    for (const auto* name : {"HOST-0", "HOST-1"}) {
      endpoints.holds[name] = std::make_shared<FakeHold>("e", name, 4242);
      endpoints.holds[name]->released = true;
    }
    load_or_die("1", 1);
    add_engine("a", {"HOST-0"});
    add_engine("b", {"HOST-1"});
    dynamic_cast<CudaLikeDevice&>(*devices[0]).loss =
        device::Loss{std::chrono::system_clock::time_point(std::chrono::seconds(1'700'000'000)),
                     Error{ErrorKind::unavailable, "HOST-0: copy failed; restart ckptd"}.with_vendor("CUDA_ERROR_X (1)")};
  }
};

bool says(const std::string& text, const std::string& part) {
  INFO(text);
  return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("an engine on a lost device is told so before its server is called, and other engines go on") {
  TwoGpus gpus;
  const auto job = gpus.run_update(House::to("1"));
  CHECK(job.state == "failed");
  REQUIRE(job.error);
  CHECK(job.error->kind == ErrorKind::partial);
  for (const auto* part : {"1 of 2 engines were updated", "engine a cannot be updated, its HOST-0 is lost since 2023-11-14T22:13:20",
                           "copy failed; restart ckptd"})
    CHECK(says(job.error->sentence, part));
  CHECK(job.error->vendor == "CUDA_ERROR_X (1)");
  CHECK(gpus.operations->engine("b")->serving == "m@1");
  const auto lost = gpus.operations->engine("a");
  CHECK(lost->serving.empty());
  CHECK(lost->target.empty());  // nothing was begun
  CHECK(lost->poisoned.empty());
  const auto preview = gpus.operations->preview_update(House::to("1"));
  REQUIRE_FALSE(preview);
  CHECK(says(preview.error().sentence, "lost since"));
}

TEST_CASE("status tells which device is lost, since when, why and what to do") {
  TwoGpus gpus;
  const auto status = gpus.operations->status();
  REQUIRE(status.devices.size() == 2);
  REQUIRE(status.devices[0].lost);
  CHECK(status.devices[0].lost->since.time_since_epoch() == std::chrono::seconds(1'700'000'000));
  CHECK(status.devices[0].lost->why == "HOST-0: copy failed; restart ckptd");
  CHECK(status.devices[0].lost->vendor == "CUDA_ERROR_X (1)");
  CHECK_FALSE(status.devices[1].lost);
  REQUIRE(status.warnings.size() == 1);
  CHECK(says(status.warnings[0], "HOST-0 is lost since 2023-11-14T22:13:20"));
}
