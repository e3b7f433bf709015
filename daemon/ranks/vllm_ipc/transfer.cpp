#include "daemon/ranks/vllm_ipc/transfer.h"

#include <spdlog/spdlog.h>

#include <utility>

#include "daemon/ranks/torch_types.h"
#include "daemon/ranks/vllm_ipc/meeting.h"
#include "daemon/ranks/vllm_ipc/session.h"
#include "proto/vllm/weight_transfer/answers.h"
#include "proto/vllm/weight_transfer/requests.h"

namespace ckptd::ranks::vllm_ipc {
namespace {

namespace wire = proto::vllm::weight_transfer;

wire::Answer view(const Reply& reply) { return {reply.status, reply.body, reply.sent}; }

class IpcTransfer final : public Transfer {
 public:
  IpcTransfer(Options options, Send send, std::shared_ptr<Receipts> receipts)
      : options_(std::move(options)),
        send_(std::move(send)),
        receipts_(std::move(receipts)),
        meeting_(std::make_shared<Meeting>(options_.engine)) {}

  Traits traits() const override { return IpcSession::kTraits; }

  Result<> check_carriable(const weights::Manifest& manifest) const override {
    return check_torch_can_carry(manifest, "vLLM's weight transfer");
  }

  Result<std::unique_ptr<Session>> open(std::string, std::string device) override {
    const auto member = CKPTD_TRY(meeting_->join(device));
    return std::make_unique<IpcSession>(meeting_, member, receipts_, std::move(device), options_.processes);
  }

  Result<std::string> run(std::chrono::milliseconds timeout, std::stop_token stop) override {
    devices_ = meeting_->devices();
    deadline_ = Deadline::in(timeout);
    // The end of the sessions ends a call that is under way, and so does whoever does not want its answer any more.
    std::stop_source ended;
    std::stop_callback on_stop(stop, [&] { ended.request_stop(); });
    std::stop_callback on_end(meeting_->ended(), [&] { ended.request_stop(); });
    stop_ = ended.get_token();
    auto outcome = converse();
    if (outcome) return outcome;
    auto error = std::move(outcome).error();
    // The sessions point to the answer, which says it all; of a wait that was too long they say it themselves.
    meeting_->end(error.kind == ErrorKind::timed_out ? error
                                                     : Error{ErrorKind::cancelled, "the engine ended this update"});
    if (open_) error.sentence += close();
    return std::unexpected(std::move(error));
  }

 private:
  Result<std::string> converse() {
    std::uint32_t calls = 0;
    for (int round = 0;; ++round) {
      CKPTD_TRY(meeting_->gather(deadline_, stop_));
      if (round == 0) CKPTD_TRY(about(begin()));
      const bool last = round == (drafts_ ? 1 : 0);
      meeting_->acknowledge();
      calls += CKPTD_TRY(give(round == 0 ? wire::kStartTarget : wire::kStartDraftTarget));
      CKPTD_TRY(about(post(wire::kFinishTarget, wire::finish_body(last ? options_.weight_version : ""))));
      open_ = false;
      if (last) meeting_->finished();
      meeting_->acknowledge();
      if (last) return fmt::format("{} workers' weight update finished after {} calls", devices_.size(), calls);
      meeting_->acknowledge();  // they may begin again
    }
  }

  /// All buckets and the release, up to the finish.
  Result<std::uint32_t> give(std::string_view start_target) {
    for (std::uint32_t buckets = 0;; ++buckets) {
      const auto gathered = CKPTD_TRY(meeting_->gather(deadline_, stop_));
      if (gathered.step != Step::reload) {
        meeting_->acknowledge();  // the release: the server lets go when it finishes
        CKPTD_TRY(meeting_->gather(deadline_, stop_));
        return buckets;
      }
      if (buckets == 0) CKPTD_TRY(about(start(start_target)));
      CKPTD_TRY(about(update(gathered)));
      meeting_->acknowledge();
    }
  }

  /// What was read of an answer, with whose it was. What a call itself says has that already.
  Result<> about(Result<> read) const {
    if (read || read.error().sentence.starts_with("engine ")) return read;
    return std::unexpected(read.error().within(fmt::format("engine {}", options_.engine)));
  }

  /// Nothing that is asked or said here touches the model.
  Result<> begin() {
    CKPTD_TRY(check_world());
    const auto config = CKPTD_TRY(ask(wire::kServerTarget));
    const auto told = wire::read_config(view(config));
    if (told && told->backend != "ipc")
      return fail(ErrorKind::unsupported,
                  "the server was started {}: start vLLM with --weight-transfer-config '{{\"backend\":\"ipc\"}}', or set "
                  "transfer to checkpoint-engine",
                  told->backend.empty() ? "without weight transfer"
                                        : fmt::format("for weight transfer by {}", told->backend));
    if (told) CKPTD_TRY(wire::check_takes_pickles(*told));
    drafts_ = told && told->drafts_from_checkpoint;
    // Asked for with the wrong method, a route that is there says so.
    const auto start_route = CKPTD_TRY(ask(wire::kStartTarget));
    if (start_route.status == 404) return wire::read_done(wire::kStartTarget, view(start_route));
    form_ = wire::PackedForm::at_init;
    const auto answer = CKPTD_TRY(call("POST", wire::kInitTarget, wire::init_body(true), deadline_, stop_));
    if (!wire::knows_no_packed(view(answer))) return wire::read_done(wire::kInitTarget, view(answer));
    CKPTD_TRY(post(wire::kInitTarget, wire::init_body(false)));
    if (!told || !told->packed) {
      form_ = wire::PackedForm::each_update;
    } else if (*told->packed) {
      form_ = wire::PackedForm::of_server;
    } else {
      return fail(ErrorKind::unsupported,
                  "this vLLM takes packed weights only when it is started with --weight-transfer-config "
                  "'{{\"backend\":\"ipc\",\"packed\":true}}'");
    }
    return {};
  }

  /// A worker without memory of its own device fails an update half way.
  Result<> check_world() {
    const auto answer = CKPTD_TRY(ask(wire::kWorldTarget));
    const auto workers = wire::read_world_size(view(answer));
    if (!workers || *workers <= devices_.size()) return {};
    return fail(ErrorKind::invalid_argument,
                "it has {} workers, and this update has memory on {} devices: give the engine the devices of all its "
                "workers; workers on other nodes cannot be reached by CUDA IPC",
                *workers, devices_.size());
  }

  /// From the first answer to this on the model is taken apart, and only a finished update puts it together again.
  Result<> start(std::string_view target) {
    open_ = true;
    auto answer = CKPTD_TRY(call("POST", target, wire::start_body(), deadline_, stop_));
    if (!wire::is_already_active(view(answer))) return wire::read_done(target, view(answer));
    // Whoever began it is gone: there is one that gives weights to a server, and that is us.
    spdlog::warn("{}: an earlier weight update was never finished in the server; it is ended before this one begins",
                 options_.engine);
    CKPTD_TRY(post(wire::kFinishTarget, wire::finish_body({})));
    return post(target, wire::start_body());
  }

  Result<> update(const Meeting::Gathered& bucket) {
    std::vector<wire::PackedTensor> tensors;
    tensors.reserve(bucket.tensors.size());
    for (const auto& tensor : bucket.tensors)
      tensors.push_back({tensor.name, tensor.torch_dtype, tensor.shape, tensor.bytes});
    std::vector<wire::DeviceBytes> devices;
    for (std::size_t i = 0; i < devices_.size(); ++i) {
      const auto& memory = bucket.memories[i];
      devices.push_back({devices_[i],
                         {.handle = memory.handle,
                          .storage_bytes = memory.storage_bytes,
                          .offset = memory.offset,
                          .bytes = memory.bytes,
                          .counter_name = memory.counter_name,
                          .counter_index = memory.counter_index}});
    }
    auto updated = post(wire::kUpdateTarget, wire::update_body(tensors, devices, form_));
    // Refused for what the request is: no worker has opened anything, so no receipt will come.
    if (!updated && bucket.number == 0 &&
        (updated.error().kind == ErrorKind::unsupported || updated.error().kind == ErrorKind::denied))
      meeting_->handles_were_not_opened();
    return updated;
  }

  Result<Reply> call(std::string_view method, std::string_view target, std::string body, Deadline deadline,
                              const std::stop_token& stop) {
    meeting_->calling(fmt::format("{} {}", method, target));
    answered_ = false;
    auto reply = send_(method, target, std::move(body), deadline, stop);
    answered_ = reply.has_value();
    return reply;
  }

  Result<> post(std::string_view target, std::string body) {
    const auto reply = CKPTD_TRY(call("POST", target, std::move(body), deadline_, stop_));
    return wire::read_done(target, view(reply));
  }

  Result<Reply> ask(std::string_view target) { return call("GET", target, {}, deadline_, stop_); }

  /// A server whose update was started and not finished holds layers without memory, and its next request kills it
  /// (vllm-project/vllm#57854). Finishing gives each layer that got nothing its old weights back. A vLLM that has ended
  /// the session by itself, as it does when a worker has raised, takes a new start and that one's finish for it. Not
  /// while a call may still be running. What comes of it is a mixture in any case, and the sentence says what else.
  std::string close() {
    if (!answered_) return "; the server was in the middle of a call, so its weight update stays open";
    const auto deadline = Deadline::in(options_.close);
    auto closed = close_by(deadline);
    if (closed) return "; its weight update was closed, so that it lives on with what it got";
    spdlog::warn("{}: the weight update that failed could not be closed: {}", options_.engine, closed.error().sentence);
    return fmt::format("; its weight update could not be closed either, so it may die of its next request: {}",
                       closed.error().sentence);
  }

  Result<> close_by(Deadline deadline) {
    const auto say = [&](std::string_view target, std::string body) -> Result<Reply> {
      return call("POST", target, std::move(body), deadline, {});
    };
    auto answer = CKPTD_TRY(say(wire::kFinishTarget, wire::finish_body({})));
    if (!wire::has_no_session(view(answer))) return wire::read_done(wire::kFinishTarget, view(answer));
    answer = CKPTD_TRY(say(wire::kStartTarget, wire::start_body()));
    CKPTD_TRY(wire::read_done(wire::kStartTarget, view(answer)));
    answer = CKPTD_TRY(say(wire::kFinishTarget, wire::finish_body({})));
    return wire::read_done(wire::kFinishTarget, view(answer));
  }

  const Options options_;
  const Send send_;
  const std::shared_ptr<Receipts> receipts_;
  const std::shared_ptr<Meeting> meeting_;
  std::vector<std::string> devices_;
  Deadline deadline_ = Deadline::in({});
  std::stop_token stop_;
  wire::PackedForm form_ = wire::PackedForm::at_init;
  bool drafts_ = false;   ///< everything is given a second time, to the draft model
  bool open_ = false;     ///< the server was told to start, and not seen to finish
  bool answered_ = true;  ///< the last call
};

}  // namespace

std::unique_ptr<Transfer> make_transfer(Options options, Send send, std::shared_ptr<Receipts> receipts) {
  return std::make_unique<IpcTransfer>(std::move(options), std::move(send), std::move(receipts));
}

}  // namespace ckptd::ranks::vllm_ipc
