#include "daemon/ranks/vllm_ipc/transfer.h"

#include <utility>

#include "daemon/ranks/vllm_ipc/session.h"

namespace ckptd::ranks::vllm_ipc {
namespace {

namespace wire = proto::vllm::weight_transfer;
using vllm::Meeting;

wire::Answer view(const Reply& reply) { return {reply.status, reply.body, reply.sent}; }

class IpcTransfer final : public vllm::Conversation {
 public:
  IpcTransfer(Options options, Send send, std::shared_ptr<Receipts> receipts)
      : Conversation({.engine = std::move(options.engine),
                      .weight_version = std::move(options.weight_version),
                      .close = options.close},
                     std::move(send)),
        processes_(std::move(options.processes)),
        receipts_(std::move(receipts)) {}

  Result<std::unique_ptr<Session>> open(std::string, std::string device) override {
    const auto member = CKPTD_TRY(meeting()->join(device));
    return std::make_unique<IpcSession>(meeting(), member, receipts_, std::move(device), processes_);
  }

 private:
  std::size_t workers() const override { return devices().size(); }

  Result<> begin() override {
    CKPTD_TRY(check_world());
    const auto told = CKPTD_TRY(ask_for("ipc"));
    if (told) CKPTD_TRY(wire::check_takes_pickles(*told));
    CKPTD_TRY(check_start_route());
    form_ = wire::PackedForm::at_init;
    const auto answer = CKPTD_TRY(call("POST", wire::kInitTarget, wire::init_body(true), deadline(), stopped()));
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
    const auto workers = told_workers(CKPTD_TRY(ask(wire::kWorldTarget)));
    if (!workers || *workers <= devices().size()) return {};
    return fail(ErrorKind::invalid_argument,
                "it has {} workers, and this update has memory on {} devices: give the engine the devices of all its "
                "workers; workers on other nodes cannot be reached by CUDA IPC",
                *workers, devices().size());
  }

  Result<> give(const Meeting::Gathered& bucket) override {
    CKPTD_TRY(meeting()->hand_out());
    std::vector<wire::DeviceBytes> memories;
    for (std::size_t i = 0; i < devices().size(); ++i) {
      const auto& memory = bucket.memories[i];
      memories.push_back({devices()[i],
                          {.handle = memory.handle,
                           .storage_bytes = memory.storage_bytes,
                           .offset = memory.offset,
                           .bytes = memory.bytes,
                           .counter_name = memory.counter_name,
                           .counter_index = memory.counter_index}});
    }
    auto updated = post(wire::kUpdateTarget, wire::update_body(vllm::packed_tensors(bucket), memories, form_));
    // Refused for what the request is: no worker has opened anything, so no receipt will come.
    if (!updated && bucket.number == 0 &&
        (updated.error().kind == ErrorKind::unsupported || updated.error().kind == ErrorKind::denied))
      meeting()->handles_were_not_opened();
    return updated;
  }

  const std::vector<Peer> processes_;
  const std::shared_ptr<Receipts> receipts_;
  wire::PackedForm form_ = wire::PackedForm::at_init;
};

}  // namespace

std::unique_ptr<Transfer> make_transfer(Options options, Send send, std::shared_ptr<Receipts> receipts) {
  return std::make_unique<IpcTransfer>(std::move(options), std::move(send), std::move(receipts));
}

}  // namespace ckptd::ranks::vllm_ipc
