#include "ctl/progress.h"

#include <catch2/catch.hpp>

#include "common/units.h"
#include "ctl/text.h"

namespace ckptd::ctl {
namespace {

namespace api = proto::control;

api::Job job_at(std::uint64_t done, std::uint64_t total) {
  api::Job job;
  job.id = "load-17";
  job.state = "running";
  job.stage = "reading";
  job.done_bytes = done;
  job.total_bytes = total;
  return job;
}

bool holds(const std::string& text, std::string_view part) {
  return text.find(part) != std::string::npos;
}

TEST_CASE("a wide line holds everything") {
  CHECK(progress_line(job_at(kGiB / 2, kGiB), {100, false, 2, 1e9}) ==
        "load-17  reading  [###############               ]   50%  512 MiB / 1.00 GiB  1.00 GB/s  ETA 1 s");
  CHECK(holds(progress_line(job_at(kGiB / 2, kGiB), {100, true, 2, 1e9}), "[███████████████               ]"));
}

TEST_CASE("a line gives up ETA, rate, bytes and bar in this order and never reaches the last column") {
  auto job = job_at(kGiB / 2, kGiB);
  for (bool utf8 : {false, true})
    for (std::size_t width = 1; width < 200; ++width) {
      auto line = progress_line(job, {width, utf8, 2, 1e9});
      CAPTURE(width, line);
      CHECK(display_width(line) <= std::max<std::size_t>(1, width - 1));
      CHECK((holds(line, "GB/s") || !holds(line, "ETA")));
      CHECK((holds(line, "GiB") || !holds(line, "GB/s")));
      CHECK((holds(line, "[") || !holds(line, "GiB")));
      if (width >= 30) CHECK(holds(line, "50%"));
    }
}

TEST_CASE("partial cells need UTF-8") {
  auto line = progress_line(job_at(1, 1000), {100, true, 2, std::nullopt});
  CHECK(holds(line, "[                              ]"));
  CHECK(holds(progress_line(job_at(20, 1000), {100, true, 2, std::nullopt}), "[▌"));
  for (char c : progress_line(job_at(20, 1000), {100, false, 2, std::nullopt}))
    CHECK(static_cast<unsigned char>(c) < 0x80);
}

TEST_CASE("hundred per cent is said only when all is done, and never more") {
  CHECK(holds(progress_line(job_at(999'999, 1'000'000), {100, false, 2, {}}), " 99%"));
  CHECK(holds(progress_line(job_at(1'000'000, 1'000'000), {100, false, 2, {}}), "100%"));
  CHECK(holds(progress_line(job_at(3'000'000, 1'000'000), {100, true, 2, 5.0}), "100%"));
  CHECK_FALSE(holds(progress_line(job_at(3'000'000, 1'000'000), {100, true, 2, 5.0}), "ETA"));
}

TEST_CASE("without a total the line shows how long it takes already") {
  auto line = progress_line(job_at(0, 0), {100, false, 3.7, std::nullopt});
  CHECK(line == "load-17  reading  3 s");
  CHECK(progress_line(job_at(0, 0), {100, false, -5, std::nullopt}) == "load-17  reading  0 s");
  CHECK(progress_line(job_at(10, 0), {100, false, 3.7, std::nullopt}) == "load-17  reading  10 B");
}

TEST_CASE("a stage cannot drive the terminal") {
  auto job = job_at(1, 2);
  job.stage = "waiting\r\n\x1b[2J";
  for (char c : progress_line(job, {200, false, 1, {}})) CHECK(c >= ' ');
  for (char c : plain_progress_line(job, {200, false, 1, {}})) CHECK(c >= ' ');
}

TEST_CASE("plain lines") {
  CHECK(plain_progress_line(job_at(kGiB / 2, kGiB), {80, false, 2, 1e9}) ==
        "load-17: reading, 512 MiB of 1.00 GiB (50%), 1.00 GB/s, ETA 1 s");
  CHECK(plain_progress_line(job_at(0, 0), {80, false, 2, {}}) == "load-17: reading");
}

TEST_CASE("the rate is that of the last seconds of one stage") {
  RateMeter meter;
  auto start = Clock::now();
  auto at = [&](int seconds) { return start + std::chrono::seconds(seconds); };
  CHECK_FALSE(meter.add(job_at(0, 100'000), at(0)));
  CHECK(meter.add(job_at(1000, 100'000), at(1)).value() == Approx(1000));
  for (int second = 2; second <= 20; ++second) meter.add(job_at(1000 + 10 * (second - 1), 100'000), at(second));
  CHECK(meter.add(job_at(1200, 100'000), at(21)).value() == Approx(10));

  auto next = job_at(1200, 100'000);
  next.stage = "hashing";
  CHECK_FALSE(meter.add(next, at(22)));
  next.done_bytes = 5;  // counts afresh within the stage
  CHECK_FALSE(meter.add(next, at(23)));
  next.done_bytes = 25;
  CHECK(meter.add(next, at(24)).value() == Approx(20));
  CHECK(meter.add(next, at(24)).value() == Approx(20));
}

TEST_CASE("a transfer that stands still has no rate rather than an old one") {
  RateMeter meter;
  auto start = Clock::now();
  meter.add(job_at(0, 100), start);
  meter.add(job_at(50, 100), start + std::chrono::seconds(1));
  std::optional<double> rate;
  for (int second = 2; second < 12; ++second) rate = meter.add(job_at(50, 100), start + std::chrono::seconds(second));
  CHECK_FALSE(rate);
}

}  // namespace
}  // namespace ckptd::ctl
