// What every test of sessions needs: a directory, memory to offer, ranks as threads, and the walk through an update.
//
// The suite states the contract of ranks::Session and ranks::Endpoints; make_backend() is the one place that names a
// backend, the reference rank of tests/support is its other side.
#pragma once

#include <atomic>
#include <chrono>
#include <filesystem>
#include <future>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/unique_fd.h"
#include "daemon/ranks/endpoints.h"
#include "tests/support/reference_rank/rank.h"

namespace ckptd::test {

/// Far more than any step takes, so that a slow machine fails no test; only a hang reaches it.
inline constexpr std::chrono::seconds kPatience{60};
inline constexpr double kUntilTold = 60;  ///< seconds of a fault that RankThread::go_on() ends

class TemporaryDirectory {
 public:
  TemporaryDirectory();
  ~TemporaryDirectory();
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

/// As long as a rank of the newest dialect is watched for whether it leaves, in tests of other things.
inline constexpr std::chrono::milliseconds kShortParting{50};

/// As long as an endpoint waits for a rank that may come back, in tests in which none does.
inline constexpr std::chrono::milliseconds kNoReturn{0};

std::unique_ptr<ranks::Endpoints> make_backend(const std::filesystem::path& directory,
                                               std::chrono::milliseconds keep_bound = kPatience,
                                               const std::string& rank_group = "",
                                               std::chrono::milliseconds parting_wait = kShortParting,
                                               std::chrono::milliseconds stay_for_return = kNoReturn);

/// A memfd filled with a pattern that is different at each byte of 64 KiB.
class Memory {
 public:
  explicit Memory(std::uint64_t bytes = 1 << 16);
  device::Export exported() const;
  std::vector<std::byte> part(std::uint64_t offset, std::uint64_t bytes) const;

 private:
  UniqueFd fd_;
  std::uint64_t bytes_;
};

/// A reference rank in its own thread, in one update. Its destructor makes it give up; a rank that does not even then
/// end, because its ZeroMQ context cannot, ends the program with a message.
class RankThread {
 public:
  explicit RankThread(const std::string& endpoint, reference_rank::Fault fault = {},
                      reference_rank::Options options = {});
  ~RankThread();
  RankThread(const RankThread&) = delete;
  RankThread& operator=(const RankThread&) = delete;

  /// Nothing when the update has not ended within the patience.
  std::optional<reference_rank::Outcome> outcome(std::chrono::seconds patience = kPatience);
  /// Ends the time of its fault: with a long one, nothing that a test does before is a race against it.
  void go_on() { goes_on_ = true; }
  const reference_rank::Rank& rank() const { return rank_; }

 private:
  std::atomic<bool> given_up_ = false, goes_on_ = false;
  reference_rank::Rank rank_;
  std::future<reference_rank::Outcome> future_;
  std::optional<reference_rank::Outcome> outcome_;
};

/// Steps of an update, in order; `reload` is one list of two tensors.
enum class Reached { opened, connected, offered, ready, reloading, reloaded, releasing, released, finishing, finished };
inline constexpr Reached kAllReached[] = {Reached::opened,    Reached::connected, Reached::offered,
                                          Reached::ready,     Reached::reloading, Reached::reloaded,
                                          Reached::releasing, Reached::released,  Reached::finishing};

/// Waits for an acknowledgement; an error is returned, a waker cannot occur.
Result<> acknowledged(ranks::Session& session, std::chrono::milliseconds patience = kPatience);

/// As a GPU exports memory. Nobody can open it but ranks that only pretend to.
device::Export exported_by_gpu();

/// Walks from a fresh session to the given point. In `reloading`, `releasing` and `finishing` the step is sent and its
/// acknowledgement not awaited.
Result<> walk(ranks::Session& session, const Memory& memory, Reached to);
Result<> walk(ranks::Session& session, const device::Export& memory, Reached to);

Result<> reload_two(ranks::Session& session, std::uint32_t number = 0);

bool mentions(const Error& error, std::string_view text);
std::string fact(const Error& error, std::string_view name);
Error test_failure();  ///< "the test gave up", cancelled

}  // namespace ckptd::test
