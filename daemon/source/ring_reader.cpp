#include "daemon/source/ring_reader.h"

#include <algorithm>
#include <cerrno>
#include <utility>

#include "common/units.h"
#include "daemon/weights/layout.h"

namespace ckptd::source {
namespace {

using weights::kBlockBytes;

bool aligned(const Read& read) {
  return (read.offset | reinterpret_cast<std::uintptr_t>(read.into.data()) | read.into.size()) % kBlockBytes == 0;
}

std::unexpected<Error> cancelled(const OpenedFile& file, std::uint64_t offset) {
  return fail(ErrorKind::cancelled, "reading {} at byte {} was cancelled", file.path().native(), offset);
}

}  // namespace

RingReader::RingReader(std::span<const OpenedFile> files, std::unique_ptr<Ring> ring, unsigned depth)
    : files_(files), ring_(std::move(ring)), slots_(std::max(1U, depth)) {
  ended_.reserve(slots_.size());
  done_.reserve(slots_.size());
}

RingReader::~RingReader() {
  cancel();
  std::vector<Done> nobody_asks;
  done_.clear();
  while (under_way_ != 0) wait(Deadline::in(std::chrono::seconds(1)), nobody_asks);
}

void RingReader::submit(const Read& read) {
  if (read.file >= files_.size()) {
    done_.push_back({read.tag, fail(ErrorKind::internal, "file {} of a checkpoint with {} files was to be read",
                                    read.file, files_.size())});
    return;
  }
  const auto& file = files_[read.file];
  const auto free = std::ranges::find(slots_, false, &Slot::used);
  if (!aligned(read) || read.offset >= file.bytes() || !file.is_direct() || free == slots_.end()) {
    done_.push_back({read.tag, file.read(read.offset, read.into)});
    return;
  }
  *free = {.read = read, .wanted = std::min<std::uint64_t>(read.into.size(), file.bytes() - read.offset), .used = true};
  ++under_way_;
  cancelled_ = false;
  queue_rest(static_cast<std::size_t>(free - slots_.begin()));
}

void RingReader::queue_rest(std::size_t number) {
  const auto& slot = slots_[number];
  const auto rest = slot.read.into.subspan(slot.come, round_up(slot.wanted - slot.come, kBlockBytes));
  ring_->read(files_[slot.read.file].direct_fd(), slot.read.offset + slot.come, rest, number);
}

void RingReader::wait(Deadline deadline, std::vector<Done>& done) {
  if (under_way_ != 0 && done_.empty()) {
    ended_.clear();
    ring_->wait(deadline, ended_);
    for (const auto& each : ended_) settle(each.tag, each.result);
  }
  for (auto& each : done_) done.push_back(std::move(each));
  done_.clear();
}

void RingReader::settle(std::size_t number, int result) {
  auto& slot = slots_[number];
  const auto& file = files_[slot.read.file];
  if (result > 0) slot.come += static_cast<std::uint64_t>(result);
  const auto at = slot.read.offset + slot.come;
  // A file that has grown meanwhile brings more than it had.
  if (slot.come >= slot.wanted) return end(number, slot.wanted);
  if (cancelled_) return end(number, cancelled(file, at));
  const bool cut_short = result > 0 && slot.come % kBlockBytes == 0;
  if (cut_short || result == -EINTR) return queue_rest(number);
  if (result == -EINVAL) file.refuse_direct();
  const bool for_a_blocking_read = result >= 0 || result == -EINVAL || result == -EAGAIN || result == -ECANCELED;
  if (!for_a_blocking_read) return end(number, file.read_error(-result, at));
  end(number, read_rest(slot));
}

Result<std::uint64_t> RingReader::read_rest(const Slot& slot) const {
  const auto come = slot.come;
  const auto more = CKPTD_TRY(files_[slot.read.file].read(slot.read.offset + come, slot.read.into.subspan(come)));
  return come + more;
}

void RingReader::end(std::size_t number, Result<std::uint64_t> bytes) {
  slots_[number].used = false;
  --under_way_;
  done_.push_back({slots_[number].read.tag, std::move(bytes)});
}

void RingReader::cancel() {
  cancelled_ = true;
  for (std::size_t number = 0; number < slots_.size(); ++number)
    if (slots_[number].used) ring_->cancel(number);
}

}  // namespace ckptd::source
