#include "daemon/ranks/vllm_nccl/transfer.h"

#include <spdlog/spdlog.h>

#include <future>
#include <system_error>
#include <utility>

#include "common/units.h"
#include "daemon/ranks/vllm_nccl/session.h"

namespace ckptd::ranks::vllm_nccl {
namespace {

namespace wire = proto::vllm::weight_transfer;
using namespace std::chrono_literals;
using vllm::Meeting;
using vllm::Reply;

constexpr auto kPiece = 10ms;  // between two questions whether to go on

class NcclTransfer final : public vllm::Conversation {
 public:
  NcclTransfer(Options options, vllm::Send send, std::shared_ptr<Links> links)
      : Conversation({.engine = options.engine, .weight_version = options.weight_version, .close = options.close},
                     std::move(send)),
        server_(options.server),
        grace_(options.grace),
        words_(options.words),
        links_(std::move(links)),
        sending_(std::make_shared<Sending>()) {}

  Result<std::unique_ptr<Session>> open(std::string engine, std::string device) override {
    if (opened_)
      return fail(ErrorKind::invalid_argument,
                  "engine {} is given weights by NCCL, from one device to all its workers: register it with the one "
                  "device of this node that sends, on which none of its workers runs (ckptctl engine add --devices)",
                  engine);
    const auto member = CKPTD_TRY(meeting()->join(device));
    opened_ = true;
    return std::make_unique<NcclSession>(meeting(), member, std::move(device), sending_);
  }

  void lend(device::Device& device, device::Range arena) override { device_ = &device, arena_ = arena; }

  Result<std::string> run(std::chrono::milliseconds timeout, std::stop_token stop) override {
    auto outcome = Conversation::run(timeout, std::move(stop));
    if (outcome) links_->keep(terms().engine, server_, sending_->link());
    return outcome;
  }

 private:
  std::size_t workers() const override { return workers_; }

  Result<> begin() override {
    CKPTD_TRY(ask_for("nccl"));
    const auto told = told_workers(CKPTD_TRY(ask(wire::kAllWorkersTarget)));
    if (!told)
      return fail(ErrorKind::unsupported,
                  "the server does not tell how many workers it has (GET {}), and NCCL has to know: start vLLM with "
                  "VLLM_SERVER_DEV_MODE=1 in its environment",
                  wire::kAllWorkersTarget);
    workers_ = *told;
    CKPTD_TRY(check_start_route());
    if (auto kept = links_->take(terms().engine, server_, *device_, workers_)) {
      sending_->by(std::move(kept));
      return {};
    }
    auto link = CKPTD_TRY(links_->make(*device_, workers_));
    sending_->by(link);
    const auto start = Clock::now();
    auto joined = together(wire::kInitTarget, wire::nccl_init_body(link->unique_id(), workers_),
                           fmt::format("not all of its {} workers have joined NCCL", workers_),
                           [&](const Link::GoOn& go_on) { return link->open(go_on); });
    if (!joined) return joined;
    spdlog::info("{}: {} workers joined NCCL with {} in {}", terms().engine, workers_, device_->identity().uuid,
                 show_seconds(std::chrono::duration<double>(Clock::now() - start).count()));
    return {};
  }

  Result<> give(const Meeting::Gathered& bucket) override {
    CKPTD_TRY(meeting()->hand_out());
    const auto& memory = bucket.memories.front();
    return together(
        wire::kUpdateTarget, wire::nccl_update_body(vllm::packed_tensors(bucket)),
        fmt::format("not all of its {} workers take part in the broadcast of {} from {}", workers_,
                    show_bytes(memory.bytes), device_->identity().uuid),
        [&](const Link::GoOn& go_on) {
          return sending_->link()->send(arena_.part(memory.offset, memory.bytes), go_on);
        });
  }

  /// A call that the workers answer only when NCCL has carried what they wait for, and what NCCL carries only when the
  /// call has brought the workers to it. `missing` is what a wait for both is told.
  Result<> together(std::string_view target, std::string body, const std::string& missing,
                    const std::function<Result<>(const Link::GoOn&)>& carry) {
    std::stop_source give_up;
    std::future<Result<Reply>> answer;
    try {
      answer = std::async(std::launch::async, [&, body = std::move(body)]() mutable {
        return call("POST", target, std::move(body), deadline(), give_up.get_token(),
                    fmt::format("POST {} ({})", target, missing));
      });
    } catch (const std::system_error& error) {
      return fail(ErrorKind::no_space, "no thread could be started to call the server: {}", error.what());
    }
    std::optional<Reply> reply;
    std::optional<Deadline> grace;
    const auto go_on = [&]() -> Result<> {
      if (!reply && answer.wait_for(0ms) == std::future_status::ready) {
        reply = CKPTD_TRY(answer.get());
        CKPTD_TRY(read(target, *reply));
        grace = Deadline::in(grace_);
      }
      if (!grace && stopped().stop_requested()) grace = Deadline::in(grace_);
      if (!grace || !grace->passed()) return {};
      if (reply)
        return fail(ErrorKind::peer_failed, "the server answered success to POST {}, and {}", target, missing);
      return fail(ErrorKind::cancelled, "the update of engine {} was given up, and {}", terms().engine, missing);
    };
    auto carried = carry(go_on);
    if (!carried) return std::unexpected(failed(target, std::move(carried).error(), answer, give_up));
    if (!reply) {
      meeting()->calling(fmt::format("POST {} (NCCL has done its part)", target));
      while (answer.wait_for(kPiece) != std::future_status::ready) {
        if (!grace && stopped().stop_requested()) grace = Deadline::in(grace_);
        if (grace && grace->passed()) give_up.request_stop();
      }
      reply = CKPTD_TRY(answer.get());
    }
    return read(target, *reply);
  }

  /// What to say when NCCL did not carry: the server's own words if it has any, for it knows which worker it was.
  Error failed(std::string_view target, Error error, std::future<Result<Reply>>& answer, std::stop_source& give_up) {
    sending_->link()->abort(error);
    if (!answer.valid()) return error;  // it has been heard, and is the error
    if (answer.wait_for(words_) != std::future_status::ready) give_up.request_stop();
    const auto reply = answer.get();
    if (!reply) return error;
    auto done = read(target, *reply);
    if (done) return error;
    auto said = std::move(done).error();
    said.sentence += fmt::format(" (and NCCL: {})", error.sentence);
    return said;
  }

  Result<> read(std::string_view target, const Reply& reply) const {
    const wire::Answer answer{reply.status, reply.body, reply.sent};
    if (target == wire::kInitTarget && wire::knows_no_unique_id(answer))
      return fail(ErrorKind::unsupported,
                  "this vLLM's NCCL can be joined only through a store of torch's, which ckptd does not have: it takes one "
                  "with nccl_unique_id_b64 (vllm-project/vllm#53784). Until then start it with "
                  "--weight-transfer-config '{{\"backend\":\"ipc\"}}', or with checkpoint-engine's worker extension");
    return wire::read_done(target, answer);
  }

  std::string give_up(const Error& reason) override {
    const auto link = sending_->link();
    if (!link) return {};
    link->abort(reason);
    // One that was between two calls left nobody in NCCL, nor did one whose every worker has answered.
    if (answered()) return {};
    return "; workers that wait in NCCL for a sender that has gone are not given up by vLLM: if the server does not answer, "
           "restart it";
  }

  const std::optional<ProcessId> server_;
  const std::chrono::milliseconds grace_, words_;
  const std::shared_ptr<Links> links_;
  const std::shared_ptr<Sending> sending_;
  device::Device* device_ = nullptr;
  device::Range arena_;
  unsigned workers_ = 0;
  bool opened_ = false;
};

}  // namespace

std::unique_ptr<Transfer> make_transfer(Options options, vllm::Send send, std::shared_ptr<Links> links) {
  return std::make_unique<NcclTransfer>(std::move(options), std::move(send), std::move(links));
}

}  // namespace ckptd::ranks::vllm_nccl
