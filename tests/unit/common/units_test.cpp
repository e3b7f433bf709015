#include "common/units.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <random>

namespace ckptd {
namespace {

using namespace std::chrono_literals;

TEST_CASE("sizes are read with and without units") {
  struct Case {
    const char* text;
    std::uint64_t bytes;
  };
  for (const auto& [text, bytes] : std::vector<Case>{
           {"0", 0},
           {"4096", 4096},
           {"1B", 1},
           {"8GiB", 8 * kGiB},
           {"512 MiB", 512 * kMiB},
           {" 1KiB ", 1024},
           {"1.5GB", 1'500'000'000},
           {"0.5KiB", 512},
           {"2TiB", 2048 * kGiB},
           {"1kB", 1000},
           {"1KB", 1000},
           {"3M", 3 * kMiB},
           {"8388607TiB", 8388607 * (1024 * kGiB)},
       }) {
    INFO(text);
    auto read = parse_bytes(text);
    REQUIRE(read);
    CHECK(*read == bytes);
  }
}

TEST_CASE("what is no size is refused with an example") {
  for (auto text : {"", " ", "GiB", "8 gigs", "8GiB8", "-1", "-1GiB", "+1", "0x10", "1e3", "1,5GB", "8gib", "1 2",
                    "nan", "nanGiB", "-nan", "inf", "infinity", "1..5", ".", "8GiB\n"}) {
    INFO(text);
    auto read = parse_bytes(text);
    REQUIRE_FALSE(read);
    CHECK(read.error().kind == ErrorKind::invalid_argument);
    CHECK(read.error().sentence.find(std::string("'") + text + "'") != std::string::npos);
  }
  CHECK_FALSE(parse_bytes(std::string_view("8\0GiB", 5)));
}

TEST_CASE("sizes that do not fit 63 bits are refused") {
  for (auto text : {"8388608TiB", "9223372036854775808", "99999999999999999999999999TiB"}) {
    INFO(text);
    CHECK_FALSE(parse_bytes(text));
  }
  CHECK_FALSE(parse_bytes(std::string(400, '9')));
  CHECK_FALSE(parse_bytes(std::string(400, '9') + "TiB"));
}

TEST_CASE("durations are read in whole milliseconds") {
  CHECK(*parse_duration("250ms") == 250ms);
  CHECK(*parse_duration("30s") == 30s);
  CHECK(*parse_duration("2m") == 2min);
  CHECK(*parse_duration("1h") == 1h);
  CHECK(*parse_duration("1.5 s") == 1500ms);
  CHECK(*parse_duration("0s") == 0ms);
  for (auto text : {"", "30", "s", "-1s", "1d", "30S", "1 minute", "nan", "nans", "infs", "inf", "1e3s",
                    "99999999999999999999s"}) {
    INFO(text);
    auto read = parse_duration(text);
    REQUIRE_FALSE(read);
    CHECK(read.error().sentence.find(text) != std::string::npos);
  }
}

TEST_CASE("sizes are shown with at most three significant digits") {
  CHECK(show_bytes(0) == "0 B");
  CHECK(show_bytes(1023) == "1023 B");
  CHECK(show_bytes(1024) == "1.00 KiB");
  CHECK(show_bytes(1536) == "1.50 KiB");
  CHECK(show_bytes(10 * kKiB) == "10.0 KiB");
  CHECK(show_bytes(999 * kKiB) == "999 KiB");
  CHECK(show_bytes(1000 * kKiB) == "0.98 MiB");
  CHECK(show_bytes(5 * kGiB / 4) == "1.25 GiB");
  CHECK(show_bytes(~std::uint64_t{0}) == "16.0 EiB");
}

TEST_CASE("no size is shown with more than three digits") {
  const auto seed = std::random_device{}();
  INFO("seed " << seed);
  std::mt19937_64 random(seed);
  for (int round = 0; round < 20'000; ++round) {
    // Near a power, where rounding changes the number of digits, as well as anywhere.
    auto bytes = round % 2 ? random() >> random() % 54 : (std::uint64_t{1000} << random() % 5 * 10) - random() % 2048;
    if (bytes < kKiB) continue;
    auto text = show_bytes(bytes);
    auto digits = std::count_if(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
    INFO(bytes << " -> " << text);
    REQUIRE(digits <= 3);
  }
}

TEST_CASE("what is shown is read back to nearly the same") {
  const auto seed = std::random_device{}();
  INFO("seed " << seed);
  std::mt19937_64 random(seed);
  for (int round = 0; round < 2000; ++round) {
    auto bytes = random() >> (random() % 40 + 15);
    auto read = parse_bytes(show_bytes(bytes));
    INFO(bytes << " -> " << show_bytes(bytes));
    REQUIRE(read);
    CHECK(static_cast<double>(*read) == Approx(static_cast<double>(bytes)).epsilon(0.01));
  }
}

TEST_CASE("rates are decimal, and no time makes none") {
  CHECK(show_rate(1'250'000'000, 1) == "1.25 GB/s");
  CHECK(show_rate(1'500'000, 1) == "1.5 MB/s");
  CHECK(show_rate(0, 1) == "0.0 MB/s");
  CHECK(show_rate(100, 0) == "-");
  CHECK(show_rate(100, -1) == "-");
}

TEST_CASE("spans of time are shown in the unit that suits them") {
  CHECK(show_seconds(0) == "0 ms");
  CHECK(show_seconds(0.42) == "420 ms");
  CHECK(show_seconds(1.5) == "1.50 s");
  CHECK(show_seconds(185) == "3 m 05 s");
  CHECK(show_seconds(3720) == "1 h 02 m");
}

TEST_CASE("rounding goes to multiples of any step") {
  CHECK(round_up(0, 4096) == 0);
  CHECK(round_up(1, 4096) == 4096);
  CHECK(round_up(4096, 4096) == 4096);
  CHECK(round_up(7, 3) == 9);
  CHECK(round_down(4095, 4096) == 0);
  CHECK(round_down(8, 3) == 6);
}

}  // namespace
}  // namespace ckptd
