#include "daemon/journal/peaks.h"

#include <catch2/catch.hpp>
#include <fstream>

#include "common/files.h"
#include "tests/support/checkpoint_files/folder.h"

using namespace ckptd;
using namespace ckptd::journal;

namespace {

PeakRecord peak(std::string stage, std::string device, double rate) {
  return {std::move(stage), std::move(device), rate, 256 << 20, std::chrono::sys_seconds(std::chrono::seconds(1'900'000'000))};
}

}  // namespace

TEST_CASE("peaks outlive the process, and a new measurement replaces the old one of its thing alone") {
  tests::Folder folder;
  {
    Peaks peaks(folder / "peaks.json");
    CHECK(peaks.all().empty());
    REQUIRE(peaks.remember({peak("copy", "GPU-\"</x>", 1e10), peak("hash", "", 8e9)}));
    REQUIRE(peaks.remember({peak("copy", "HOST-1", 2e10), peak("hash", "", 9e9)}));
  }
  const auto all = Peaks(folder / "peaks.json").all();
  CHECK(all == std::vector<PeakRecord>{peak("copy", "GPU-\"</x>", 1e10), peak("copy", "HOST-1", 2e10), peak("hash", "", 9e9)});
}

TEST_CASE("copies from host memory and from another device are two things of one device") {
  tests::Folder folder;
  Peaks peaks(folder / "peaks.json");
  REQUIRE(peaks.remember({peak("copy", "HOST-0", 1e10)}));
  REQUIRE(peaks.remember({peak("spread", "HOST-0", 2e10)}));
  CHECK(Peaks(folder / "peaks.json").all() ==
        std::vector<PeakRecord>{peak("copy", "HOST-0", 1e10), peak("spread", "HOST-0", 2e10)});
}

TEST_CASE("a damaged file counts as none and is written anew") {
  tests::Folder folder;
  const auto good = peaks_to_json({peak("copy", "HOST-0", 1e10)});
  std::vector<std::string> damaged{"", "{", "[]", "null", R"({"format":2,"peaks":[]})", R"({"peaks":[]})",
                                   R"({"format":1,"peaks":[{}]})", R"({"format":1,"peaks":7})", std::string(100, '\0')};
  for (const auto* value : {"0", "-1", "\"x\"", "null", "1e999"}) {
    auto text = good;
    const auto at = text.find("10000000000.0");
    REQUIRE(at != text.npos);
    damaged.push_back(text.replace(at, 13, value));
  }
  damaged.push_back(good.substr(0, good.size() / 2));
  auto text = good;
  damaged.push_back(text.replace(text.find("1900000000"), 10, "99999999999999"));
  for (const auto& each : damaged) {
    INFO(each);
    CHECK_FALSE(peaks_from_json(each));
    std::ofstream(folder / "peaks.json") << each;
    Peaks peaks(folder / "peaks.json");
    CHECK(peaks.all().empty());
    REQUIRE(peaks.remember({peak("hash", "", 1)}));
    CHECK(Peaks(folder / "peaks.json").all().size() == 1);
  }
  CHECK(peaks_from_json(good));
}

TEST_CASE("what cannot be written holds for this process") {
  tests::Folder folder;
  Peaks peaks(folder / "no/such/directory/peaks.json");
  CHECK_FALSE(peaks.remember({peak("hash", "", 1)}));
  CHECK(peaks.all().size() == 1);
}
