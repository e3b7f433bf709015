#include "daemon/device/host/host_device.h"

#include <atomic>
#include <utility>

#include "daemon/device/host/host_memory.h"
#include "daemon/device/host/host_stream.h"

namespace ckptd::device::host {
namespace {

/// Copies of host memory need no page lock, so a registration holds nothing.
class Registration final : public HostRegistration {};

class HostDevice final : public Device {
 public:
  HostDevice(unsigned index, std::filesystem::path system_root)
      : identity_{.kind = "host", .uuid = fmt::format("HOST-{}", index)}, system_root_(std::move(system_root)) {}

  const Identity& identity() const override { return identity_; }

  Result<std::unique_ptr<Allocation>> allocate(std::uint64_t bytes) override {
    return allocate_memory(bytes, identity_.uuid, system_root_);
  }

  Result<std::unique_ptr<Allocation>> open(const Export& exported) override {
    if (const auto* host = std::get_if<HostExport>(&exported)) return open_memory(*host);
    return fail(ErrorKind::unsupported, "{}: only memory of host devices can be opened here", identity_.uuid);
  }

  Result<std::unique_ptr<Stream>> make_stream() override {
    return HostStream::create(fmt::format("{} stream {}", identity_.uuid, ++streams_made_));
  }

  Result<std::unique_ptr<Event>> make_event() override { return std::make_unique<HostEvent>(); }

  Result<std::unique_ptr<HostRegistration>> register_host(std::span<std::byte>) override {
    return std::make_unique<Registration>();
  }

  Result<std::uint64_t> free_bytes() const override { return free_memory_bytes(system_root_); }

 private:
  const Identity identity_;
  const std::filesystem::path system_root_;
  std::atomic<unsigned> streams_made_ = 0;
};

}  // namespace

std::unique_ptr<Device> make_host_device(unsigned index, std::filesystem::path system_root) {
  return std::make_unique<HostDevice>(index, std::move(system_root));
}

}  // namespace ckptd::device::host
