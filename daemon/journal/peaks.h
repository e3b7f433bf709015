// What the machine reached at best, remembered over restarts: <state-dir>/peaks.json.
//
// A convenience and no state that anything depends on: a file that is missing, damaged or of another format counts as
// empty, and the next probe writes it anew. Safe from any thread; remember() blocks for the disk's sync. Belongs to
// whoever holds the state directory's lock (see journal.h).
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "common/result.h"

namespace ckptd::journal {

struct PeakRecord {
  std::string stage = {};   ///< "copy", "spread", "hash"
  std::string device = {};  ///< uuid; empty for what concerns no device
  double bytes_per_second = 0;
  std::uint64_t bytes = 0;  ///< that one round moved
  std::chrono::sys_seconds measured{};
  bool operator==(const PeakRecord&) const = default;
};

std::string peaks_to_json(const std::vector<PeakRecord>& peaks);
/// corrupt for what is not the file of peaks_to_json(), numbers that cannot be rates included.
Result<std::vector<PeakRecord>> peaks_from_json(std::string_view text);

class Peaks {
 public:
  /// Reads what is there. Never fails: what cannot be read is told in the log.
  explicit Peaks(std::filesystem::path file);

  std::vector<PeakRecord> all() const;

  /// Replaces those of the same stage and device, keeps the others. When writing fails they hold for this process.
  Result<> remember(const std::vector<PeakRecord>& measured);

 private:
  const std::filesystem::path file_;
  std::mutex writing_;        ///< held for the whole of remember()
  mutable std::mutex mutex_;  ///< guards peaks_
  std::vector<PeakRecord> peaks_;
};

}  // namespace ckptd::journal
