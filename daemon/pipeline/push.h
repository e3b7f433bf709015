// Carries out a plan: upload, spread, reload, overlapped.
//
// One thread for each lane, alive during the push; everything that a lane needs is allocated before the first bucket
// moves. While its rank reloads bucket i, a lane's stream uploads the next buckets into the slots that are free; a lane
// sleeps in one poll over its session, its stream and the stop token. Uploads begin at once, before anybody is told of
// the update: what they fill is ours alone. With broadcast fan-out the lanes walk in lockstep through the collective,
// from when all ranks are there. The first failure of any lane, or a stop, ends all lanes: the group is aborted, for lanes
// that wait within it; their sessions are failed, so that no rank is left waiting; and the error of the lane that failed
// first is returned.
//
// A rank that has finished may come back for another session as long as its engine has not answered (SGLang, for the
// worker of a draft model). Each lane waits for that by itself and serves whoever comes: the whole plan again, whatever
// the fan-out was, uploaded for this rank alone. Nobody who does not come is waited for once the engine has answered. Where
// nobody hears of the engine's answer, how many sessions a rank has is said beforehand (Gates::sessions), each of them is
// waited for, and a rank that comes for one more is told that it was not.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <stop_token>
#include <string>
#include <vector>

#include "common/deadline.h"
#include "common/result.h"
#include "daemon/collective/group.h"
#include "daemon/device/device.h"
#include "daemon/plan/plan.h"
#include "daemon/ranks/session.h"
#include "daemon/weights/manifest.h"

namespace ckptd::pipeline {

/// Where the resting space is in this process: the bytes from `offset` that lie together, at most `limit`.
using Resting = std::function<std::span<const std::byte>(std::uint64_t offset, std::uint64_t limit)>;

/// Everything that one local device owns during one update. Not owned here: device and arena. The session dies with the
/// push.
struct Lane {
  device::Device* device = nullptr;
  device::Allocation* arena = nullptr;
  std::unique_ptr<ranks::Session> session;
  std::unique_ptr<collective::Member> member;  ///< null with independent fan-out
};

struct Deadlines {
  /// From the start until the rank has connected and opened the memory. Long: a busy engine finishes its requests first. With
  /// Gates::in_turn: from the end of the rank before it.
  std::chrono::milliseconds connect{300'000};
  std::chrono::milliseconds reload{120'000};  ///< one bucket
  std::chrono::milliseconds release{60'000};
  std::chrono::milliseconds finish{600'000};  ///< post hook: quantisation may be slow
  std::chrono::milliseconds upload{60'000};   ///< one bucket onto the device, or one step of the collective
  std::chrono::milliseconds receipt{5'000};   ///< after the push, until the rank's memory is seen to be unmapped
  std::chrono::milliseconds answer{600'000};  ///< since no rank is in a session, until the engine has answered; with
                                              ///< Gates::sessions: until a rank has come back
};

/// Counted by the lanes, read by anybody.
struct Progress {
  std::atomic<std::uint64_t> uploaded_bytes = 0;
  std::atomic<std::uint64_t> reloaded_bytes = 0;   ///< acknowledged by ranks, summed over lanes
  std::atomic<std::uint32_t> connected = 0;
  std::atomic<bool> touched = false;               ///< some rank was sent a bucket
  std::atomic<std::uint32_t> finished = 0;         ///< ranks whose first session has ended
  std::atomic<std::uint32_t> returned = 0;         ///< sessions beyond the first that were begun, summed over lanes
};

/// One stretch of a lane's time, for the update's record and trace. Spans of different kinds overlap. The step that was
/// under way when a push failed has one too, which ends with the push.
struct Span {
  enum class What : std::uint8_t {
    connect,  ///< from the offer until the rank has connected and opened the memory
    upload,   ///< the device copies a bucket: from when the copy could start until it was there
    reload,   ///< the rank loads a bucket: from the announcement until its acknowledgement
    release,
    finish,
    receipt,  ///< after the push: until the rank is seen to have unmapped the memory, see receipts.h
  };
  What what = What::connect;
  std::uint32_t bucket = 0;  ///< of upload and reload
  std::uint64_t bytes = 0;   ///< of upload and reload
  Clock::time_point begin, end;
};

struct LaneReport {
  enum class Receipt : std::uint8_t {
    not_needed,  ///< a mapping keeps the memory, or the lane did not come so far
    seen,
    missing,     ///< nobody has seen it: the rank may still map the memory
  };
  std::string device;
  int pid = 0;
  std::uint32_t sessions = 0;   ///< that the rank finished. What follows is of the first
  std::uint64_t bytes = 0;
  double connect_seconds = 0;   ///< from the offer until the rank had opened the memory
  double upload_wait_seconds = 0, reload_wait_seconds = 0;  ///< the lane's thread was idle, waiting for this
  double push_seconds = 0;      ///< from then until the last bucket was acknowledged
  double finish_seconds = 0;    ///< release and finish
  double receipt_seconds = 0;   ///< from when somebody looked for it until it was seen, or the deadline
  bool finished = false;        ///< every step was acknowledged, of each session that was begun
  Receipt receipt = Receipt::not_needed;
  std::vector<Span> spans;      ///< in the order of their ends
};

struct Report {
  std::vector<LaneReport> lanes;
  /// By lane: the hold on its arena, which then may be neither freed nor used until Hold::let_go(). Null: nobody's, or it
  /// has let go.
  std::vector<std::shared_ptr<ranks::Hold>> holds;
  double seconds = 0;            ///< until the last rank had finished its first session, or the failure
  Clock::time_point ranks_done;  ///< when that was
};

/// What the caller does at two points of no return. Each is called once, on the thread of the lane that comes first;
/// the others wait for its answer. An error ends the push.
struct Gates {
  /// While the first buckets are uploaded, before any rank is offered memory: makes the endpoints known. As long as this
  /// has not succeeded nobody can wait on them, and a push that ends closes its sessions without the custodian.
  std::function<Result<>()> before_offers;
  /// Before the first bucket is announced to any rank: records that the engine is touched from here on.
  std::function<Result<>()> before_first_bucket;
  /// Ranks may come one after the other, as pipeline stages do: who has not come is waited for while another is served.
  bool in_turn = false;
  /// Requested when the engine has answered. Without one no rank is waited for after its session.
  std::stop_token answered = {};
  /// How many sessions a rank has, as far as its engine tells; 0: it does not. One that the engine has answered too early for
  /// is told so, if it comes all the same.
  std::uint32_t told_sessions = 0;
  /// Not 0: this many sessions of each rank are the update, and the engine's answer is not waited for.
  std::uint32_t sessions = 0;
};

/// Blocks until every rank acknowledged every step and the engine has answered (or each had its Gates::sessions), or its deadline for that has passed (which
/// is the caller's to judge: the ranks are well), or the first failure, or a stop request (cancelled). no_space when there is
/// not a thread for each lane; then none has begun. `report` is filled
/// either way, with as much as happened. Receipts are not waited for: the ranks have their weights, and whoever called
/// writes that down before await_receipts().
Result<> push(const plan::Plan& plan, const weights::Manifest& manifest, const Resting& resting,
              std::vector<Lane> lanes, const Deadlines& deadlines, const Gates& gates, Progress& progress,
              std::stop_token stop, Report& report);

}  // namespace ckptd::pipeline
