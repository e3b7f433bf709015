#include "daemon/probe/probe.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "common/deadline.h"
#include "common/units.h"
#include "common/host_memory.h"
#include "daemon/weights/digest.h"

namespace ckptd::probe {
namespace {

constexpr std::uint64_t kLeastBytes = 4 * kMiB;
constexpr std::uint64_t kPart = 8;  ///< of what is free, so much stays for others
constexpr int kLeastRounds = 2;     ///< the first touches the device's memory and shows nothing

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

/// `wanted`, halved until it is a small part of what is free.
Result<std::uint64_t> affordable(std::uint64_t wanted, std::uint64_t free, std::string_view whose) {
  auto bytes = wanted;
  while (bytes > free / kPart) bytes /= 2;
  if (bytes >= std::min(wanted, kLeastBytes)) return bytes;
  return fail(ErrorKind::no_space, "{} has {} free: a measurement takes at most an eighth of that, and {} are too few",
              whose, show_bytes(free), show_bytes(bytes));
}

/// Runs rounds and keeps the fastest. The rate of the first does not count: it pays for first touches.
Result<Rate> best_of(std::uint64_t bytes, const Limits& limits, const MayGoOn& may_go_on,
                     const std::function<Result<>()>& round) {
  Rate best{.bytes_per_second = 0, .bytes = bytes};
  const auto end = Deadline::in(limits.working);
  for (int done = 0; done < kLeastRounds || !end.passed(); ++done) {
    CKPTD_TRY(may_go_on());
    const auto start = Clock::now();
    CKPTD_TRY(round());
    const auto seconds = seconds_since(start);
    if (done > 0 && seconds > 0) best.bytes_per_second = std::max(best.bytes_per_second, static_cast<double>(bytes) / seconds);
  }
  return best;
}

}  // namespace

HostMemory::HostMemory(UniqueFd memfd, std::span<std::byte> bytes) : memfd_(std::move(memfd)), bytes_(bytes) {}

HostMemory::~HostMemory() { ::munmap(bytes_.data(), bytes_.size()); }

Result<std::unique_ptr<HostMemory>> HostMemory::make(const Limits& limits) {
  auto bytes = limits.bytes;
  for (const auto& ceiling : read_ceilings(limits.system_root))
    bytes = CKPTD_TRY(affordable(bytes, ceiling.available_bytes, ceiling.name));
  UniqueFd memfd(::memfd_create("ckptd-probe", MFD_CLOEXEC));
  if (!memfd) return std::unexpected(system_error(errno, "create a memfd for a measurement"));
  if (::ftruncate(memfd.get(), static_cast<off_t>(bytes)) != 0)
    return std::unexpected(system_error(errno, "set the size of a memfd for a measurement"));
  void* at = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, memfd.get(), 0);
  if (at == MAP_FAILED) return std::unexpected(system_error(errno, "map memory for a measurement"));
  const std::span memory(static_cast<std::byte*>(at), bytes);
  std::memset(memory.data(), 0x5a, memory.size());
  return std::unique_ptr<HostMemory>(new HostMemory(std::move(memfd), memory));
}

Result<Rate> measure_copies(device::Device& device, std::span<std::byte> from, const Limits& limits,
                            const MayGoOn& may_go_on) {
  const auto free = CKPTD_TRY(device.free_bytes());
  const auto bytes = CKPTD_TRY(affordable(from.size(), free, device.identity().uuid));
  const auto registration = CKPTD_TRY(device.register_host(from.first(bytes)));
  const auto arena = CKPTD_TRY(device.allocate(bytes));
  const auto stream = CKPTD_TRY(device.make_stream());  // destroyed first: it waits for its copies
  return best_of(bytes, limits, may_go_on, [&]() -> Result<> {
    CKPTD_TRY(stream->copy_from_host(arena->range(), from.data()));
    return stream->synchronize(Deadline::in(limits.deadline));
  });
}

Result<Rate> measure_spread(device::Device& to, std::span<device::Device* const> peers, const Limits& limits,
                            const MayGoOn& may_go_on) {
  if (peers.empty())
    return fail(ErrorKind::invalid_argument, "nothing can be copied to {} from other devices: there is none",
                to.identity().uuid);
  peers = peers.first(std::min(peers.size(), kMostPeers));
  auto of_each = limits;
  of_each.working /= static_cast<int>(peers.size());
  const auto free = CKPTD_TRY(to.free_bytes());
  auto bytes = CKPTD_TRY(affordable(limits.bytes, free, to.identity().uuid));
  for (const auto* peer : peers) {
    const auto free_there = CKPTD_TRY(peer->free_bytes());
    bytes = CKPTD_TRY(affordable(bytes, free_there, peer->identity().uuid));
  }
  const auto arena = CKPTD_TRY(to.allocate(bytes));
  Rate best{.bytes_per_second = 0, .bytes = bytes};
  for (auto* peer : peers) {
    const auto source = CKPTD_TRY(peer->allocate(bytes));
    const auto stream = CKPTD_TRY(to.make_stream());  // destroyed before what it copies: it waits for its copies
    const auto round = [&]() -> Result<> {
      CKPTD_TRY(stream->copy(arena->range(), source->range()));
      return stream->synchronize(Deadline::in(limits.deadline));
    };
    const auto rate = CKPTD_TRY(best_of(bytes, of_each, may_go_on, round));
    best.bytes_per_second = std::max(best.bytes_per_second, rate.bytes_per_second);
  }
  return best;
}

Result<Rate> measure_hash(std::span<const std::byte> memory, const Limits& limits, const MayGoOn& may_go_on) {
  const auto piece = std::min<std::size_t>(weights::kDigestPieceBytes, memory.size());
  const auto pieces = memory.size() / piece;
  return best_of(piece * pieces, limits, may_go_on, [&]() -> Result<> {
    for (std::size_t i = 0; i < pieces; ++i) weights::digest_of(memory.subspan(i * piece, piece));
    return {};
  });
}

}  // namespace ckptd::probe
