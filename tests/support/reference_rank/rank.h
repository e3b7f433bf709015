// One inference rank: a REP socket that lives through one update as the Python worker of checkpoint-engine 0.4 does,
// state by state, down to a context that is made for the update and terminated with unlimited linger after it.
//
// update() blocks for the whole session, as the worker does, and has no time-out, as the worker has none; only
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
  double seconds = 0;

  static bool is_known(const std::string& kind);
};

struct Outcome {
  bool ok = false;
  std::string error;  ///< a traceback, if not ok
};

struct Options {
  std::string device = "HOST-0";
  bool acknowledge_only = false;                          ///< map the memory but copy nothing, for benchmarks
  bool pretend_cuda = false;  ///< without any libcuda: memory that a CUDA handle names counts as opened, all zeros
  std::function<bool()> given_up = [] { return false; };  ///< true: leave at once, whatever the session waits for
};

class Rank {
 public:
  explicit Rank(Options options);
  ~Rank();

  /// The fault applies to this update alone.
  Outcome update(const std::string& endpoint, const Fault& fault = {});

  const Model& model() const { return model_; }
  void forget();  ///< the model, and what the fault keep_memory has kept
  std::uint64_t updates() const { return updates_; }  ///< completed
  std::uint64_t buckets() const { return buckets_; }  ///< lists received in all updates

 private:
  class Conversation;
  class Buffer;

  Options options_;
  Model model_;
  std::uint64_t updates_ = 0, buckets_ = 0;
  std::vector<std::unique_ptr<Buffer>> kept_;  ///< still mapped, by the fault keep_memory
};

}  // namespace ckptd::reference_rank
