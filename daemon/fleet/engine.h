// An inference server, as its own API shows it: what it is, what state it is in, and the calls of an update.
//
// A kind of engine (SGLang, vLLM, LMDeploy) is one backend. Every call blocks until the engine has answered, its
// deadline has passed or a stop is requested, and says who was asked for what. Backends hold no connection and no state
// between calls; one object may be used by one thread at a time, and many objects may stand for the same server.
//
// The errors of every call: unavailable when the server cannot be reached or the connection broke; denied when it wants
// a key that it was not given, or rejects the one that it was (the sentence tells which, and never the key);
// unsupported when this server has no such call, or was started without the switch for it (the sentence names it);
// peer_failed, with the server's own words as vendor text, when it says no or answers what cannot be understood;
// timed_out; cancelled. What a kind of engine has no words for at all is unsupported as well: that is what the calls below
// do unless a backend does better.
#pragma once

#include <chrono>
#include <map>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

#include "common/http_client.h"
#include "common/process.h"
#include "common/result.h"

namespace ckptd::fleet {

/// What becomes of requests while an engine is given weights.
enum class Pause {
  none,      ///< nothing is paused: requests may be answered by a mixture
  abort,     ///< running requests end at once
  retract,   ///< they go back to the queue and start anew afterwards (SGLang)
  in_place,  ///< they stop where they are and go on with the new weights and the old cache (SGLang)
  keep,      ///< the same of vLLM
  wait,      ///< they end first; new ones wait (vLLM)
};
std::string_view name_of(Pause pause);
std::optional<Pause> pause_named(std::string_view name);

/// What was seen of a server at one moment.
struct Observation {
  enum class State {
    starting,  ///< it listens, but serves nobody yet
    serving,
    paused,    ///< it holds requests back because somebody asked it to
    asleep,    ///< its memory is released: nothing may be pushed before wake()
  };
  State state = State::starting;
  std::string weight_version;         ///< the label that it tells, empty when it tells none
  /// Who listens at its endpoint, see common/listener.h: another one is another start of the server. Absent when it is not
  /// on this machine or could not be told just now, which says nothing.
  std::optional<ProcessId> listener;
};
std::string_view name_of(Observation::State state);

/// What a server tells of itself once: fixed from its start to its end.
struct Description {
  std::string version;  ///< of its software, empty when it does not tell
  std::string model;    ///< what it was started with
  unsigned tensor_parallel = 1, pipeline_parallel = 1, data_parallel = 1;
  unsigned nodes = 1;
  unsigned ranks = 0;  ///< processes that hold weights, on all its nodes, each at an endpoint of its own; 0: it does not tell
  bool data_parallel_attention = false;
  unsigned draft_models = 0;    ///< each opens a session of its own within one update, after the target's
  std::string speculative = {};   ///< how it speculates, by the server's own name, upper case; empty: it does not tell
  std::string quantization = {};  ///< by its own name; empty: none, or it does not tell
  std::string moe_backend = {};   ///< what computes its experts, by its own name; empty: it does not tell
  bool can_sleep = false;
  bool can_verify = false;      ///< it can tell checksums of what it holds
  std::string weight_transfer;  ///< "ipc" or "nccl" when it offers its own way to be given weights, else empty
  bool has_extension = true;    ///< it can be given weights by checkpoint-engine too, as far as it tells
  std::vector<std::string> warnings;  ///< one sentence each: what will go wrong with this server as it was started
  std::optional<Error> unsuitable;    ///< why it cannot be updated at all, with what to change
};

struct UpdateCall {
  std::map<std::string, std::string> endpoints;  ///< device uuid -> endpoint of its session
  std::string weight_version;
  bool flush_cache = true;
};

/// What one rank says of the weights that it holds.
struct RankChecksums {
  std::string rank;                                  ///< as the engine names it
  std::map<std::string, std::string> by_tensor = {};  ///< names of the engine's own, possibly fused and sharded, tensors
};

/// What one rank tells of the first values of a tensor.
struct RankValues {
  std::string rank;
  std::vector<double> values = {};
};

class Engine {
 public:
  virtual ~Engine() = default;

  /// Is somebody there, and in what state? For every few seconds: cheap for the server, and short.
  virtual Result<Observation> observe(std::chrono::milliseconds timeout) = 0;

  /// Once for each process of the server.
  virtual Result<Description> describe(std::chrono::milliseconds timeout);

  /// Who listens at its endpoint, as far as that can be seen from here. Asks the system and not the engine.
  virtual std::optional<ProcessId> listener() const { return {}; }

  /// The endpoints (device uuid -> endpoint) under the names by which its ranks look for them: for whoever calls the
  /// engine themselves. call_update does this by itself.
  virtual std::map<std::string, std::string> handles(const std::map<std::string, std::string>& endpoints) const {
    return endpoints;
  }

  /// Makes the ranks open the sessions of an update; returns when they have ended. An engine that answers early, before
  /// its ranks have finished, has failed them. Success only when the engine says so itself.
  virtual Result<std::string> call_update(const UpdateCall& call, std::chrono::milliseconds timeout,
                                          std::stop_token stop) = 0;

  /// After a successful call_update: flushes the cache and sets the label, as far as call_update does not do it by
  /// itself. unsupported when the server cannot be told a label (and then nothing is lost but the label).
  virtual Result<> conclude(const UpdateCall& call, std::chrono::milliseconds timeout);

  /// invalid_argument when this kind does not know the mode. `none` does nothing.
  virtual Result<> pause(Pause mode, std::chrono::milliseconds timeout, std::stop_token stop);
  virtual Result<> resume(std::chrono::milliseconds timeout);

  /// Of a server that is asleep: what it needs before weights may be pushed, and what it needs after.
  virtual Result<> wake_weights(std::chrono::milliseconds timeout);
  virtual Result<> wake_rest(std::chrono::milliseconds timeout);

  /// What each rank holds, as the server computes it. unsupported where it cannot.
  virtual Result<std::vector<RankChecksums>> checksums(std::chrono::milliseconds timeout);

  /// The first `count` values of a one-dimensional tensor, by the checkpoint's name, of those ranks that the server lets
  /// speak. It may make a list of the whole tensor for that: for small ones. unsupported where it tells none, or none of
  /// this one.
  virtual Result<std::vector<RankValues>> values(const std::string& tensor, std::size_t count,
                                                 std::chrono::milliseconds timeout);
};

/// Where a server is and what it asks of its clients.
struct Address {
  std::string name, kind;
  http::Endpoint endpoint;
  std::string api_key_file, admin_key_file;  ///< see key_file.h; read at each call. Empty: no such key is sent
  std::chrono::milliseconds connect{5'000};  ///< how long it may take to reach the server, within each call's own time
};

/// The kinds that `engine add --kind` accepts.
std::vector<std::string> known_kinds();

/// May an engine of this kind be paused like this for an update that flushes its cache or not? invalid_argument with
/// what to choose instead; pure, so that it is known before anything is touched.
Result<> check_pause(std::string_view kind, Pause mode, bool flush_cache);

}  // namespace ckptd::fleet
