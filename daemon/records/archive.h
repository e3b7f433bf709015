// Keeps records and traces of ended jobs, bounded by their number and by their bytes. Safe from any thread; never blocks.
//
// The oldest go first. While bytes are short, traces go before records: a trace is large and a record small, and a
// record answers most questions.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "proto/control/record.h"
#include "proto/control/trace.h"

namespace ckptd::records {

class Archive {
 public:
  Archive(std::size_t jobs, std::uint64_t limit_bytes) : jobs_(jobs), limit_bytes_(limit_bytes) {}

  void keep(proto::control::JobRecord record, proto::control::Trace trace);

  std::shared_ptr<const proto::control::JobRecord> record(const std::string& job) const;
  std::shared_ptr<const proto::control::Trace> trace(const std::string& job) const;
  std::uint64_t bytes() const;

 private:
  struct Entry {
    std::shared_ptr<const proto::control::JobRecord> record;
    std::shared_ptr<const proto::control::Trace> trace;
    std::uint64_t record_bytes = 0, trace_bytes = 0;
  };
  void make_room();

  const std::size_t jobs_;
  const std::uint64_t limit_bytes_;
  mutable std::mutex mutex_;  ///< guards everything below
  std::map<std::string, Entry> entries_;
  std::deque<std::string> oldest_first_;
  std::uint64_t bytes_ = 0;
};

}  // namespace ckptd::records
