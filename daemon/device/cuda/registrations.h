// Host memory that the driver has page-locked and mapped for its copies, shared by all GPUs of the process.
//
// A registration counts for every context (PORTABLE), so who registers the same memory with several devices gets shares
// of one. It is made in pieces: since driver 580 one call cannot take 512 GiB, because its page table would be larger
// than what the kernel gives in one piece. A copy must not cross two pieces; piece_at() says where to cut. Safe from any
// thread; registering blocks for about a tenth of a second a GiB, and nobody with it but who comes for the same memory.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "common/result.h"
#include "common/units.h"
#include "daemon/device/cuda/context.h"
#include "daemon/device/device.h"

namespace ckptd::device::cuda {

class Registrations : public std::enable_shared_from_this<Registrations> {
 public:
  static constexpr std::uint64_t kLargestPieceBytes = 64 * kGiB;

  explicit Registrations(std::uint64_t piece_bytes = kLargestPieceBytes) : piece_bytes_(piece_bytes) {}

  /// conflict if the driver says that somebody else has registered a part of it; then nothing of it stays registered.
  Result<std::unique_ptr<HostRegistration>> add(std::span<std::byte> memory, std::shared_ptr<Context> context);

  /// How many of the `bytes` from there one copy may take.
  std::uint64_t piece_at(const std::byte* from, std::uint64_t bytes) const;

 private:
  class Share;
  struct Entry {
    std::uint64_t bytes = 0;
    bool busy = false;  // somebody registers or unregisters it, without the mutex
    std::vector<std::shared_ptr<Context>> holders;  // one for each share
  };

  Result<> register_pieces(std::span<std::byte> memory, Context& context) const;
  void unregister_pieces(std::span<std::byte> memory, Context& context) const;
  void remove_share(std::byte* memory, const std::shared_ptr<Context>& context);

  const std::uint64_t piece_bytes_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;  // some entry is not busy any more
  std::map<std::byte*, Entry> entries_;
  std::atomic<bool> has_pieces_ = false;  ///< whether anything was ever registered in several: else nobody looks
};

}  // namespace ckptd::device::cuda
