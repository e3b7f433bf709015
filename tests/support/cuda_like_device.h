// A device of host memory that exports as a GPU does: by a handle, under which a mapping does not keep the memory. It
// counts its allocations, so that a test sees what was freed and when, and is lost when a test says so.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <utility>

#include "daemon/device/device.h"

namespace ckptd::tests {

class CudaLikeDevice final : public device::Device {
 public:
  explicit CudaLikeDevice(std::unique_ptr<device::Device> inner) : inner_(std::move(inner)) {}

  std::atomic<int> allocated = 0, freed = 0;

  std::optional<device::Loss> loss;  ///< written before others ask

  const device::Identity& identity() const override { return inner_->identity(); }
  std::optional<device::Loss> lost() const override { return loss; }
  Result<std::unique_ptr<device::Allocation>> allocate(std::uint64_t bytes) override {
    auto memory = CKPTD_TRY(inner_->allocate(bytes));
    ++allocated;
    return std::make_unique<Memory>(std::move(memory), freed);
  }
  Result<std::unique_ptr<device::Allocation>> open(const device::Export& exported) override {
    return inner_->open(exported);
  }
  Result<std::unique_ptr<device::Stream>> make_stream() override { return inner_->make_stream(); }
  Result<std::unique_ptr<device::Event>> make_event() override { return inner_->make_event(); }
  Result<std::unique_ptr<device::HostRegistration>> register_host(std::span<std::byte> memory) override {
    return inner_->register_host(memory);
  }
  Result<std::uint64_t> free_bytes() const override { return inner_->free_bytes(); }

 private:
  class Memory final : public device::Allocation {
   public:
    Memory(std::unique_ptr<device::Allocation> inner, std::atomic<int>& freed) : inner_(std::move(inner)), freed_(freed) {}
    ~Memory() override { ++freed_; }
    device::Range range() const override { return inner_->range(); }
    Result<device::Export> export_to_processes() override {
      return device::CudaExport{.handle = {1, 2, 3}, .bytes = inner_->range().bytes};
    }

   private:
    std::unique_ptr<device::Allocation> inner_;
    std::atomic<int>& freed_;
  };

  std::unique_ptr<device::Device> inner_;
};

}  // namespace ckptd::tests
