#include "daemon/ranks/vllm_nccl/link.h"

#include <spdlog/spdlog.h>

#include <array>
#include <mutex>
#include <utility>
#include <vector>

#include "common/units.h"

namespace ckptd::ranks::vllm_nccl {
namespace {

namespace nccl = collective::nccl;
using namespace std::chrono_literals;

constexpr auto kPiece = 10ms;        // between two questions whether to go on
constexpr auto kLook = 200ms;        // between two looks at what NCCL tells of its peers
constexpr std::uint64_t kSumBytes = sizeof(float);
constexpr std::array<std::byte, kSumBytes> kZero{};

/// A wait of ours that has come to its end before what it waits for. What NCCL or the driver call a time-out has their words.
bool is_early(const Error& error) { return error.kind == ErrorKind::timed_out && error.vendor.empty(); }

}  // namespace

Result<std::shared_ptr<Link>> Link::make(std::shared_ptr<const nccl::Library> library, const nccl::Natives& natives,
                                         nccl::Patience patience, device::Device& device, unsigned workers) {
  // What is queued when we give up waits for workers that have not come: there is nothing to let run.
  patience.drain = 0ms;
  CKPTD_TRY(natives.usable(device));
  const auto id = CKPTD_TRY(nccl::new_unique_id(*library));
  std::shared_ptr<Link> link(new Link(device, workers, id, patience));
  link->first_sum_ = CKPTD_TRY(device.allocate(kSumBytes));
  link->stream_ = CKPTD_TRY(device.make_stream());
  link->done_ = CKPTD_TRY(device.make_event());
  CKPTD_TRY(link->stream_->copy_from_host(link->first_sum_->range().part(0, kSumBytes), kZero.data()));
  link->native_ = natives.stream(*link->stream_);
  if (link->native_ == nullptr)
    return fail(ErrorKind::unsupported, "NCCL sends from CUDA devices, and {} is none: set [device] kind (--device) to cuda",
                device.identity().uuid);
  link->communicators_ = CKPTD_TRY(nccl::Communicators::start(std::move(library), natives, patience, {&device},
                                                              {device.identity().uuid}, {workers, id}));
  return link;
}

Link::~Link() {
  abort(Error{ErrorKind::cancelled, "this link to the workers is not needed any more"});
  if (ended_ || !communicators_) return;
  // NCCL has not returned and may use them: they are left to the end of the process.
  struct Used {
    std::unique_ptr<device::Allocation> memory;
    std::unique_ptr<device::Stream> stream;
    std::unique_ptr<device::Event> event;
  };
  static std::mutex& mutex = *new std::mutex;
  static auto& left_behind = *new std::vector<Used>;
  std::lock_guard lock(mutex);
  left_behind.push_back({std::move(first_sum_), std::move(stream_), std::move(done_)});
}

Result<> Link::open(const GoOn& go_on) {
  const auto limit = Deadline::in(patience_.start);
  const auto by_then = [&]() -> Result<> {
    CKPTD_TRY(go_on());
    if (!limit.passed()) return {};
    return fail(ErrorKind::timed_out,
                "of {} workers not all have joined NCCL with {} within {}: each has to reach this node over the network "
                "interface that NCCL chose (NCCL_SOCKET_IFNAME, here and there), and NCCL_DEBUG=INFO makes both sides say "
                "more; timeouts.nccl_start is how long they have",
                workers_, device_.identity().uuid, show_seconds(std::chrono::duration<double>(patience_.start).count()));
  };
  for (;;) {
    auto ready = communicators_->wait_until_ready(Deadline::in(kPiece));
    if (ready) break;
    if (is_early(ready.error()) && !limit.passed()) {
      CKPTD_TRY(by_then());
      continue;
    }
    if (is_early(ready.error())) CKPTD_TRY(by_then());
    auto error = std::move(ready).error();
    if (error.vendor.find("Duplicate GPU") != error.vendor.npos)
      error.sentence += fmt::format("; {} is the GPU of one of the workers: NCCL sends from a GPU that none of them runs on, "
                                    "so give the engine another one of this node (ckptctl engine add --devices)",
                                    device_.identity().uuid);
    return std::unexpected(std::move(error));
  }
  return carry_out(first_sum_->range().part(0, kSumBytes), true, by_then);
}

Result<> Link::send(device::Range bytes, const GoOn& go_on) { return carry_out(bytes, false, go_on); }

Result<> Link::carry_out(device::Range bytes, bool sum, const GoOn& go_on) {
  const nccl::Part part{.stream = stream_.get(), .native = native_, .slot = bytes};
  const auto number = communicators_->launched() + 1;
  busy_ = true;
  if (sum)
    communicators_->launch_sum({part});
  else
    communicators_->launch(0, {part});
  CKPTD_TRY(launched(number, go_on));
  CKPTD_TRY(stream_->record(*done_));
  auto look = Deadline::in(kLook);
  for (;;) {
    auto done = done_->wait(Deadline::in(kPiece));
    if (done) break;
    if (!is_early(done.error())) return done;
    CKPTD_TRY(go_on());
    if (!look.passed()) continue;
    if (auto well = communicators_->check(Deadline::in(kLook)); !well && !is_early(well.error())) return well;
    look = Deadline::in(kLook);
  }
  busy_ = false;
  return {};
}

/// Until NCCL has queued it on the stream, which may be long before its workers come.
Result<> Link::launched(std::uint64_t number, const GoOn& go_on) {
  for (;;) {
    auto queued = communicators_->wait_until_launched(number, Deadline::in(kPiece));
    if (queued || !is_early(queued.error())) return queued;
    CKPTD_TRY(go_on());
  }
}

Result<> Link::check() { return communicators_->check(Deadline::in(patience_.stuck)); }

void Link::abort(const Error& reason) noexcept {
  if (ended_ || !communicators_) return;
  communicators_->end(nccl::Communicators::End::cut, reason);
  ended_ = communicators_->wait_until_ended(Deadline::in(patience_.stuck), Deadline::in(2 * patience_.stuck), true);
  if (ended_) busy_ = false;
}

void Link::hurry(Deadline by) noexcept {
  communicators_->hurry(by);
  communicators_->end(nccl::Communicators::End::cut, Error{ErrorKind::unavailable, "ckptd is ending"});
}

}  // namespace ckptd::ranks::vllm_nccl
