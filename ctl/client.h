// The control API as typed calls. Every call is one request, blocks until its answer is here, a limit is reached or the
// stop token is signalled, and may be made from any thread.
//
// An answer is kept both as the JSON that came, which --json prints with members that we do not know, and as the value
// that we understood of it. Errors: what the daemon said, with its kind; unavailable or denied when no daemon can be
// reached on the socket, with what to check; timed_out; cancelled by the stop token; corrupt for an answer that is not
// what the API promises.
#pragma once

#include <chrono>
#include <functional>
#include <nlohmann/json.hpp>
#include <stop_token>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/http_client.h"
#include "common/result.h"
#include "proto/control/api.h"
#include "proto/control/events.h"

namespace ckptd::ctl {

namespace api = proto::control;

/// NAME@VERSION, taken apart at its one '@'. What else the parts may contain is the daemon's to judge.
struct CheckpointName {
  std::string name, version;
  std::string show() const { return name + "@" + version; }
};

template <class T>
struct Answer {
  nlohmann::json json;
  T value;
};

/// What a stream of events tells. Called on the thread that follows it.
struct EventSink {
  std::function<void()> opened = [] {};                        ///< the daemon has begun to answer
  std::function<bool(const api::WireEvent&)> event;            ///< false: enough
};

class Client {
 public:
  Client(std::string socket_path, std::stop_token stop)
      : socket_path_(std::move(socket_path)), stop_(std::move(stop)) {}

  Result<Answer<api::Job>> load(const api::LoadRequest& request) const;
  Result<Answer<api::Job>> update(const api::UpdateRequest& request) const;
  Result<Answer<api::UpdatePreview>> preview_update(const api::UpdateRequest& request) const;  ///< dry_run is set

  Result<Answer<std::vector<api::Version>>> versions() const;
  Result<Answer<api::Version>> version(const CheckpointName& checkpoint, bool tensors) const;
  Result<nlohmann::json> evict(const CheckpointName& checkpoint, bool forget) const;
  Result<Answer<api::Version>> set_kept(const CheckpointName& checkpoint, bool kept) const;
  Result<Answer<api::Trimmed>> trim() const;

  Result<Answer<std::vector<api::Job>>> jobs() const;
  /// As it is now, or, with a wait, as soon as it has ended or the wait is over.
  Result<Answer<api::Job>> job(const std::string& id, std::chrono::seconds wait = std::chrono::seconds(0)) const;
  Result<Answer<api::Job>> cancel_job(const std::string& id, bool force) const;

  Result<nlohmann::json> trace(const std::string& id) const;
  Result<Answer<api::Job>> probe() const;
  Result<Answer<api::Job>> verify(const std::string& engine) const;
  /// Follow what happens, or one job, until the daemon ends the stream or the sink has enough; with a deadline, that ends
  /// it with timed_out. A `last_event_id` that is not empty goes on behind that event.
  Result<> follow_all(const std::string& last_event_id, const EventSink& sink) const;
  Result<> follow_job(const std::string& id, const EventSink& sink, Deadline until) const;

  Result<Answer<std::vector<api::Engine>>> engines() const;
  Result<Answer<api::Engine>> engine(const std::string& name) const;
  Result<Answer<api::Engine>> put_engine(const api::EngineRequest& request) const;
  Result<nlohmann::json> remove_engine(const std::string& name) const;
  Result<Answer<api::Engine>> change_engine(const std::string& name, const api::EngineChange& change) const;
  Result<Answer<api::Job>> roll_back(const api::RollbackRequest& request) const;
  Result<Answer<api::Engine>> set_drained(const std::string& engine, bool drained) const;
  Result<Answer<api::Status>> set_node_drained(bool drained) const;

  Result<Answer<api::Status>> status() const;
  Result<Answer<api::Reload>> reload() const;

 private:
  Result<> follow(http::Request request, const EventSink& sink, Deadline until) const;
  Result<nlohmann::json> call(const http::Request& request,
                              std::chrono::seconds longer = std::chrono::seconds(0)) const;

  std::string socket_path_;
  std::stop_token stop_;
};

}  // namespace ckptd::ctl
