#include "daemon/ranks/checkpoint_engine/endpoints.h"

#include <spdlog/spdlog.h>

#include <utility>

#include "common/random_name.h"
#include "daemon/ranks/checkpoint_engine/custodian.h"
#include "daemon/ranks/receipts/receipts.h"
#include "daemon/ranks/checkpoint_engine/wire_types.h"
#include "daemon/ranks/checkpoint_engine/worker_session.h"
#include "proto/checkpoint_engine/messages.h"

namespace ckptd::ranks::checkpoint_engine {
namespace {

class WorkerEndpoints : public Endpoints {
 public:
  WorkerEndpoints(SocketDirectory directory, const Options& options, Waker waker)
      : directory_(std::make_shared<SocketDirectory>(std::move(directory))),
        context_(std::make_shared<zmq::context_t>()),
        shared_{.custodian = std::make_shared<Custodian>(options.keep_bound, std::move(waker)),
                .receipts = std::make_shared<Receipts>(Receipts::Options{
                    .group = options.rank_group.empty() ? std::nullopt : std::optional(directory_->gid()),
                    .directory = options.shared_memory}),
                .known_workers = std::make_shared<KnownWorkers>(),
                .parting_wait = options.parting_wait,
                .stay_for_return = options.stay_for_return} {
    context_->set(zmq::ctxopt::max_sockets, kMostSockets);
  }
  ~WorkerEndpoints() override { shared_.custodian->stop(); }

  Traits traits() const override { return WorkerSession::kTraits; }

  Result<> check_carriable(const weights::Manifest& manifest) const override {
    return checkpoint_engine::check_carriable(manifest);
  }

  Result<std::unique_ptr<Session>> open(std::string engine, std::string device) override try {
    auto socket = CKPTD_TRY(BoundSocket::bind(context_, directory_, random_name(SocketDirectory::kNameLength)));
    return std::make_unique<WorkerSession>(std::move(socket), shared_, std::move(engine), std::move(device));
  } catch (const std::exception& error) {
    return fail(ErrorKind::io, "no endpoint for a rank could be opened: {}", error.what());
  }

  void adopt(const std::vector<OpenEndpoint>& open, const Error& reason) override {
    for (const auto& endpoint : open) {
      if (auto adopted = adopt_one(endpoint, reason); !adopted)
        spdlog::warn("endpoint {} of engine {}, device {}, which an earlier ckptd left, is not answered: {}",
                     endpoint.endpoint, endpoint.engine, endpoint.device, adopted.error().sentence);
    }
    directory_->remove_unused();
  }

  std::vector<OpenEndpoint> in_custody() const override { return shared_.custodian->held(); }
  void on_closed(std::function<void(const std::string&)> callback) override {
    shared_.custodian->on_closed(std::move(callback));
  }
  Result<> check_alive(Deadline deadline) const override { return shared_.custodian->check_alive(deadline); }
  std::vector<OpenEndpoint> drain(Deadline deadline) override { return shared_.custodian->drain(deadline); }

 private:
  /// Two sockets for each session; ZeroMQ's own bound of 1023 would be 500 ranks.
  static constexpr int kMostSockets = 16'384;

  /// To a rank that comes once more after an update that had succeeded.
  static Error no_further_session() {
    return Error{ErrorKind::invalid_argument,
                 "its update has succeeded and is over, and this session is one more than was said: say as many as the engine "
                 "opens, one and one more for each draft model"};
  }

  Result<> adopt_one(const OpenEndpoint& open, const Error& reason) try {
    auto name = directory_->name_in(open.endpoint);
    if (!name) return fail(ErrorKind::denied, "it is not one of ours in {}", directory_->path().native());
    auto socket = CKPTD_TRY(BoundSocket::bind(context_, directory_, *name));
    // How far its rank has come is not known: it may be in its post hook, and come back for another session.
    shared_.custodian->take(
        {std::move(socket), open, farewell(open.failed ? reason : no_further_session()), shared_.stay_for_return});
    return {};
  } catch (const std::exception& error) {
    return fail(ErrorKind::io, "{}", error.what());
  }

  std::shared_ptr<SocketDirectory> directory_;
  std::shared_ptr<zmq::context_t> context_;
  const Shared shared_;
};

}  // namespace

Result<std::unique_ptr<Endpoints>> make_endpoints(const Options& options) try {
  auto directory = CKPTD_TRY(SocketDirectory::create(options.directory, options.rank_group));
  auto waker = CKPTD_TRY(Waker::create());
  return std::make_unique<WorkerEndpoints>(std::move(directory), options, std::move(waker));
} catch (const std::exception& error) {
  return fail(ErrorKind::io, "rank sockets in {} could not be set up: {}", options.directory.native(), error.what());
}

}  // namespace ckptd::ranks::checkpoint_engine
