#include "daemon/ranks/vllm/conversation.h"

#include <spdlog/spdlog.h>

#include <utility>

#include "daemon/ranks/torch_types.h"
#include "daemon/ranks/vllm/session.h"

namespace ckptd::ranks::vllm {
namespace {

namespace wire = proto::vllm::weight_transfer;

wire::Answer view(const Reply& reply) { return {reply.status, reply.body, reply.sent}; }

}  // namespace

std::vector<wire::PackedTensor> packed_tensors(const Meeting::Gathered& bucket) {
  std::vector<wire::PackedTensor> tensors;
  tensors.reserve(bucket.tensors.size());
  for (const auto& tensor : bucket.tensors)
    tensors.push_back({tensor.name, tensor.torch_dtype, tensor.shape, tensor.bytes});
  return tensors;
}

Conversation::Conversation(Terms terms, Send send)
    : terms_(std::move(terms)), send_(std::move(send)), meeting_(std::make_shared<Meeting>(terms_.engine)) {}

Traits Conversation::traits() const { return MeetingSession::kTraits; }

Result<> Conversation::check_carriable(const weights::Manifest& manifest) const {
  return check_torch_can_carry(manifest, "vLLM's weight transfer");
}

Result<std::string> Conversation::run(std::chrono::milliseconds timeout, std::stop_token stop) {
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
  const auto aftermath = give_up(error);
  // The sessions point to the answer, which says it all; of a wait that was too long they say it themselves.
  meeting_->end(error.kind == ErrorKind::timed_out ? error
                                                   : Error{ErrorKind::cancelled, "the engine ended this update"});
  if (open_) error.sentence += close();
  error.sentence += aftermath;
  return std::unexpected(std::move(error));
}

std::string Conversation::give_up(const Error&) { return {}; }

Result<std::string> Conversation::converse() {
  std::uint32_t calls = 0;
  for (int round = 0;; ++round) {
    CKPTD_TRY(meeting_->gather(deadline_, stop_));
    if (round == 0) CKPTD_TRY(about(begin()));
    const bool last = round == (drafts_ ? 1 : 0);
    meeting_->acknowledge();
    calls += CKPTD_TRY(give_all(round == 0 ? wire::kStartTarget : wire::kStartDraftTarget));
    CKPTD_TRY(about(post(wire::kFinishTarget, wire::finish_body(last ? terms_.weight_version : ""))));
    open_ = false;
    if (last) meeting_->finished();
    meeting_->acknowledge();
    if (last) return fmt::format("{} workers' weight update finished after {} calls", workers(), calls);
    meeting_->acknowledge();  // they may begin again
  }
}

/// All buckets and the release, up to the finish.
Result<std::uint32_t> Conversation::give_all(std::string_view start_target) {
  for (std::uint32_t buckets = 0;; ++buckets) {
    const auto gathered = CKPTD_TRY(meeting_->gather(deadline_, stop_));
    if (gathered.step != Step::reload) {
      meeting_->acknowledge();  // the release: the server lets go when it finishes
      CKPTD_TRY(meeting_->gather(deadline_, stop_));
      return buckets;
    }
    if (buckets == 0) CKPTD_TRY(about(start(start_target)));
    CKPTD_TRY(about(give(gathered)));
    meeting_->acknowledge();
  }
}

Result<> Conversation::about(Result<> read) const {
  if (read || read.error().sentence.starts_with("engine ")) return read;
  return std::unexpected(read.error().within(fmt::format("engine {}", terms_.engine)));
}

std::optional<unsigned> Conversation::told_workers(const Reply& world) const { return wire::read_world_size(view(world)); }

Result<std::optional<wire::Config>> Conversation::ask_for(std::string_view backend) {
  const auto config = CKPTD_TRY(ask(wire::kServerTarget));
  auto told = wire::read_config(view(config));
  if (told && told->backend != backend)
    return fail(ErrorKind::unsupported,
                "the server was started {}: start vLLM with --weight-transfer-config '{{\"backend\":\"{}\"}}', or set "
                "transfer to checkpoint-engine",
                told->backend.empty() ? "without weight transfer"
                                      : fmt::format("for weight transfer by {}", told->backend),
                backend);
  drafts_ = told && told->drafts_from_checkpoint;
  return told;
}

/// Asked for with the wrong method, a route that is there says so.
Result<> Conversation::check_start_route() {
  const auto start_route = CKPTD_TRY(ask(wire::kStartTarget));
  if (start_route.status == 404) return wire::read_done(wire::kStartTarget, view(start_route));
  return {};
}

/// From the first answer to this on the model is taken apart, and only a finished update puts it together again.
Result<> Conversation::start(std::string_view target) {
  open_ = true;
  auto answer = CKPTD_TRY(call("POST", target, wire::start_body(), deadline_, stop_));
  if (!wire::is_already_active(view(answer))) return wire::read_done(target, view(answer));
  // Whoever began it is gone: there is one that gives weights to a server, and that is us.
  spdlog::warn("{}: an earlier weight update was never finished in the server; it is ended before this one begins",
               terms_.engine);
  CKPTD_TRY(post(wire::kFinishTarget, wire::finish_body({})));
  return post(target, wire::start_body());
}

Result<Reply> Conversation::call(std::string_view method, std::string_view target, std::string body, Deadline deadline,
                                 std::stop_token stop, std::string named) {
  meeting_->calling(named.empty() ? fmt::format("{} {}", method, target) : std::move(named));
  answered_ = false;
  auto reply = send_(method, target, std::move(body), deadline, std::move(stop));
  answered_ = reply.has_value();
  return reply;
}

Result<> Conversation::post(std::string_view target, std::string body) {
  const auto reply = CKPTD_TRY(call("POST", target, std::move(body), deadline_, stop_));
  return wire::read_done(target, view(reply));
}

Result<Reply> Conversation::ask(std::string_view target) { return call("GET", target, {}, deadline_, stop_); }

/// A server whose update was started and not finished holds layers without memory, and its next request kills it
/// (vllm-project/vllm#57854). Finishing gives each layer that got nothing its old weights back. A vLLM that has ended
/// the session by itself, as it does when a worker has raised, takes a new start and that one's finish for it. Not
/// while a call may still be running. What comes of it is a mixture in any case, and the sentence says what else.
std::string Conversation::close() {
  if (!answered_) return "; the server was in the middle of a call, so its weight update stays open";
  const auto deadline = Deadline::in(terms_.close);
  auto closed = close_by(deadline);
  if (closed) return "; its weight update was closed, so that it lives on with what it got";
  spdlog::warn("{}: the weight update that failed could not be closed: {}", terms_.engine, closed.error().sentence);
  return fmt::format("; its weight update could not be closed either, so it may die of its next request: {}",
                     closed.error().sentence);
}

Result<> Conversation::close_by(Deadline deadline) {
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

}  // namespace ckptd::ranks::vllm
