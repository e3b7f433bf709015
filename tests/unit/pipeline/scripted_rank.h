// A rank without a process or a socket: a Session whose other side is a script.
//
// It reads the offered memory late, from a thread of its own, like a rank that loads a bucket: what the pipeline
// overwrites too early, or announces before it is there, arrives as wrong bytes.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "common/waker.h"
#include "daemon/ranks/session.h"

namespace ckptd::tests {

struct Model;

struct Script {
  std::chrono::microseconds load{200};       ///< how long a bucket takes, at most; drawn from the seed
  std::uint64_t seed = 1;
  std::optional<std::uint32_t> fail_at_bucket, stall_at_bucket;
  bool gives_up_at_once = false;  ///< its session says that it has timed out, long before our deadline
  bool never_connects = false, fails_open = false, fails_finish = false;
  std::shared_ptr<struct Model> connects_after = nullptr;  ///< when this rank has had its first session
  std::chrono::milliseconds finish_after{0};  ///< how long its post hook takes
  unsigned returns = 0;                      ///< how often the rank comes back for another session
  std::chrono::milliseconds return_after{0};
  std::shared_ptr<Model> returns_after = nullptr;  ///< not before this other rank is waited for once more
  bool fails_return = false;                 ///< its later sessions fail in their first bucket
  bool stranger_returns = false;             ///< in its place another process comes
  std::shared_ptr<ranks::Hold> hold = nullptr;  ///< what the session has to say of its rank's mapping
};

/// What the rank has seen; outlives the session.
struct Model {
  std::mutex mutex;
  std::map<std::string, std::vector<std::byte>> tensors;
  std::vector<std::string> steps;           ///< "offer", "reload 0", ..., "release", "finish", "fail: ..."
  std::string failed;                       ///< the reason given to fail()
  std::string retired;                      ///< the one given to retire()
  std::atomic<bool> discarded = false;
  std::atomic<bool> outstanding = false;    ///< a step was sent and not yet answered
  std::atomic<bool> broke_lockstep = false;
  std::atomic<unsigned> sessions = 0;       ///< finished
  std::atomic<bool> waited_again = false;
  std::atomic<bool> peer_asked = false;     ///< a lane asks at its session's end, well or not, and for its errors
};

/// `arena` is where the offered memory lies in this process: scripted ranks share it.
std::unique_ptr<ranks::Session> make_scripted_session(std::string device, device::Range arena, Script script,
                                                      std::shared_ptr<Model> model);

}  // namespace ckptd::tests
