// One inference rank: a REP socket that lives through one session as the Python worker of checkpoint-engine does, in any of
// its dialects, state by state, down to a context that is made for the session and terminated with unlimited linger after
// it. With a draft model an update has further sessions, one after the other on the same endpoint, as SGLang has them.
//
// update() blocks for all sessions, as the worker does, and has no time-out, as the worker has none; only
// `given_up` ends it, asked some times a second. Not thread-safe but for that.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "tests/support/reference_rank/model.h"

namespace ckptd::reference_rank {

struct Fault {
  std::string kind = "none";  ///< see is_known() for the others
  std::uint32_t bucket = 0;   ///< the list that it happens in, from 0
  double seconds = 0;         ///< how long those sleep that sleep
  std::uint32_t session = 0;  ///< of the update, from 0
  std::string gate = {};      ///< a path: a sleep makes GATE.DEVICE when it begins, and ends early once GATE is there

  static bool is_known(const std::string& kind);
};

struct Outcome {
  bool ok = false;
  std::string error;  ///< a traceback, if not ok
};

/// By the version of checkpoint-engine; docs/worker_protocol.md has the differences.
enum class Dialect {
  a,  ///< 0.1.1 to 0.2.0
  b,  ///< 0.2.1
  c,  ///< 0.2.2 to 0.3.4
  d,  ///< from 0.4.0 on
};

struct Options {
  std::string device = "HOST-0";
  Dialect dialect = Dialect::d;
  std::uint32_t sessions = 1;  ///< of each update: the model's, then one for each draft model
  bool acknowledge_only = false;                          ///< map the memory but copy nothing, for benchmarks
  bool pretend_cuda = false;  ///< without any libcuda: memory that a CUDA handle names counts as opened, all zeros
  std::function<bool()> given_up = [] { return false; };  ///< true: leave at once, whatever the session waits for
  std::function<bool()> goes_on = [] { return false; };   ///< true: the time of a fault is over
};

class Rank {
 public:
  explicit Rank(Options options);
  ~Rank();

  /// The fault applies to this update alone.
  Outcome update(const std::string& endpoint, const Fault& fault = {});

  const Model& model() const { return model_; }
  const Model& draft() const { return draft_; }  ///< what the last session but the first has loaded
  void forget();  ///< the model, and what the fault keep_memory has kept
  std::uint64_t updates() const { return updates_; }  ///< completed
  std::uint64_t buckets() const { return buckets_; }  ///< lists received in all updates
  std::uint64_t sessions() const { return sessions_; }  ///< completed, in all updates

 private:
  class Conversation;
  class Buffer;

  static Fault fault_in(std::uint32_t session, const Fault& fault);

  Options options_;
  Model model_, draft_;
  std::uint64_t updates_ = 0, buckets_ = 0, sessions_ = 0;
  std::vector<std::unique_ptr<Buffer>> kept_;  ///< still mapped, by the fault keep_memory
};

}  // namespace ckptd::reference_rank
