#include "daemon/records/archive.h"

#include <atomic>
#include <catch2/catch.hpp>
#include <thread>
#include <vector>

using namespace ckptd;
using namespace ckptd::records;

namespace {

namespace api = proto::control;

api::JobRecord record_of(const std::string& job) {
  api::JobRecord record;
  record.job = job;
  return record;
}

api::Trace trace_of(const std::string& job, std::size_t events) {
  api::Trace trace;
  trace.job = job;
  trace.events.resize(events);
  return trace;
}

}  // namespace

TEST_CASE("the archive keeps as many jobs as the history does, the oldest leave first") {
  Archive archive(3, 1 << 30);
  for (int i = 0; i < 5; ++i) archive.keep(record_of(std::to_string(i)), trace_of(std::to_string(i), 10));
  CHECK_FALSE(archive.record("1"));
  CHECK_FALSE(archive.trace("1"));
  for (const auto* job : {"2", "3", "4"}) {
    CHECK(archive.record(job));
    CHECK(archive.trace(job)->job == job);
  }
  CHECK_FALSE(archive.record("no such"));
}

TEST_CASE("when memory is short traces go before records, and the bound holds in any case") {
  const auto one_trace = trace_of("x", 1'000).memory_bytes();
  Archive archive(100, 3 * one_trace);
  for (int i = 0; i < 10; ++i) {
    archive.keep(record_of(std::to_string(i)), trace_of(std::to_string(i), 1'000));
    CHECK(archive.bytes() <= 3 * one_trace);
  }
  CHECK(archive.record("0"));
  CHECK_FALSE(archive.trace("0"));
  CHECK(archive.trace("9"));

  Archive tiny(100, 100);  // not even one record
  tiny.keep(record_of("a"), trace_of("a", 1));
  CHECK(tiny.bytes() == 0);
  CHECK_FALSE(tiny.record("a"));

  Archive huge(100, one_trace / 2);
  huge.keep(record_of("a"), trace_of("a", 1'000));
  CHECK(huge.record("a"));
  CHECK_FALSE(huge.trace("a"));
}

TEST_CASE("what was handed out lives on when the archive drops it, and threads may come and go") {
  Archive archive(4, 1 << 20);
  std::atomic<int> wrong = 0;
  std::vector<std::jthread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&archive, &wrong, t] {
      for (int i = 0; i < 200; ++i) {
        const auto job = fmt::format("{}-{}", t, i);
        archive.keep(record_of(job), trace_of(job, 5));
        if (const auto trace = archive.trace(job); trace && trace->events.size() != 5) ++wrong;
        if (const auto record = archive.record(job); record && record->job != job) ++wrong;
      }
    });
  threads.clear();
  CHECK(wrong == 0);
  CHECK(archive.bytes() <= 1 << 20);
}
