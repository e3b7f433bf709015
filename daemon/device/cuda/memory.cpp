#include "daemon/device/cuda/memory.h"

#include <spdlog/spdlog.h>

#include <cstring>
#include <limits>
#include <optional>
#include <utility>

namespace ckptd::device::cuda {

class Block {
 public:
  enum class Origin { ours, opened };

  Block(std::shared_ptr<Context> context, CUdeviceptr address, std::uint64_t bytes, Origin origin)
      : context_(std::move(context)), address_(address), bytes_(bytes), origin_(origin) {}
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;
  ~Block() {
    if (context_->fenced()) return;
    const auto function = origin_ == Origin::ours ? &Functions::mem_free : &Functions::ipc_close_mem_handle;
    const auto what = origin_ == Origin::ours ? "free memory" : "close memory of another process";
    if (auto freed = context_->call(what, function, address_); !freed) spdlog::warn("{}", freed.error().sentence);
  }

  Range range() const { return {address_, bytes_}; }
  Origin origin() const { return origin_; }
  Context& context() const { return *context_; }

 private:
  const std::shared_ptr<Context> context_;
  const CUdeviceptr address_;
  const std::uint64_t bytes_;
  const Origin origin_;
};

namespace {

class CudaAllocation final : public Allocation {
 public:
  /// `first`: made by allocate(), and not by opening an export.
  CudaAllocation(std::shared_ptr<Block> block, std::shared_ptr<Exports> exports, bool first)
      : block_(std::move(block)), exports_(std::move(exports)), first_(first) {}

  Range range() const override { return block_->range(); }

  Result<Export> export_to_processes() override {
    if (!first_)
      return fail(ErrorKind::unsupported,
                  "this memory was opened from another allocation and cannot be exported again; export the original");
    if (!exported_) {
      CUipcMemHandle native{};
      CKPTD_TRY(block_->context().call("export memory to other processes", &Functions::ipc_get_mem_handle, &native,
                                       static_cast<CUdeviceptr>(block_->range().address)));
      CudaExport made{.handle = {}, .bytes = block_->range().bytes};
      static_assert(sizeof native == sizeof made.handle);
      std::memcpy(made.handle.data(), &native, sizeof native);
      exports_->add(made.handle, block_);
      exported_ = made;
    }
    return *exported_;
  }

 private:
  const std::shared_ptr<Block> block_;
  const std::shared_ptr<Exports> exports_;
  const bool first_;
  std::optional<CudaExport> exported_;
};

std::unexpected<Error> no_space(Context& context, std::uint64_t asked, const std::string& vendor) {
  std::size_t free_bytes = 0, total_bytes = 0;
  CKPTD_TRY(context.call("ask for free memory", &Functions::mem_get_info, &free_bytes, &total_bytes));
  return std::unexpected(
      Error{ErrorKind::no_space,
            fmt::format("{}: {} ({} bytes) were asked for and {} ({} bytes) of {} are free; ask for less or free memory",
                        context.name(), show_bytes(asked), asked, show_bytes(free_bytes), free_bytes,
                        show_bytes(total_bytes))}
          .with_fact("asked_bytes", std::to_string(asked))
          .with_fact("free_bytes", std::to_string(free_bytes))
          .with_vendor(vendor));
}

}  // namespace

void Exports::add(const Handle& handle, const std::shared_ptr<Block>& block) {
  std::lock_guard lock(mutex_);
  std::erase_if(blocks_, [](const auto& entry) { return entry.second.expired(); });
  blocks_[handle] = block;
}

std::shared_ptr<Block> Exports::find(const Handle& handle) const {
  std::lock_guard lock(mutex_);
  const auto at = blocks_.find(handle);
  return at == blocks_.end() ? nullptr : at->second.lock();
}

Result<std::unique_ptr<Allocation>> allocate_memory(std::uint64_t bytes, std::shared_ptr<Context> context,
                                                    std::shared_ptr<Exports> exports) {
  if (bytes == 0) return fail(ErrorKind::invalid_argument, "{}: an allocation needs at least one byte", context->name());
  CKPTD_TRY(context->usable());
  if (bytes > std::numeric_limits<std::uint64_t>::max() - kGranuleBytes) return no_space(*context, bytes, "");
  CUdeviceptr address = 0;
  auto allocated = context->call("allocate memory", &Functions::mem_alloc, &address,
                                 static_cast<std::size_t>(round_up(bytes, kGranuleBytes)));
  if (!allocated && allocated.error().kind == ErrorKind::no_space)
    return no_space(*context, bytes, allocated.error().vendor);
  if (!allocated) return std::unexpected(std::move(allocated).error());
  auto block = std::make_shared<Block>(std::move(context), address, bytes, Block::Origin::ours);
  return std::make_unique<CudaAllocation>(std::move(block), std::move(exports), true);
}

Result<std::unique_ptr<Allocation>> open_memory(const CudaExport& exported, std::shared_ptr<Context> context,
                                                std::shared_ptr<Exports> exports) {
  CKPTD_TRY(context->usable());
  if (auto ours = exports->find(exported.handle))
    return std::make_unique<CudaAllocation>(std::move(ours), std::move(exports), false);
  CUipcMemHandle native{};
  std::memcpy(&native, exported.handle.data(), sizeof native);
  CUdeviceptr address = 0;
  auto opened = context->call("open memory of another process", &Functions::ipc_open_mem_handle, &address, native,
                              static_cast<unsigned>(CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS));
  if (!opened) {
    auto error = std::move(opened).error();
    if (error.kind == ErrorKind::internal) error.kind = ErrorKind::invalid_argument;  // the handle is not ours to vouch for
    if (error.kind == ErrorKind::invalid_argument)
      error.sentence += "; its owner has probably freed it or ended, or runs in another container";
    return std::unexpected(std::move(error));
  }
  auto block = std::make_shared<Block>(context, address, exported.bytes, Block::Origin::opened);
  CUdeviceptr start = 0;
  std::size_t bytes = 0;
  CKPTD_TRY(context->call("look at memory of another process", &Functions::mem_get_address_range, &start, &bytes, address));
  if (exported.bytes == 0 || start + bytes < address + exported.bytes)
    return fail(ErrorKind::invalid_argument, "{}: the memory that was opened holds {} bytes, but {} were exported",
                context->name(), start + bytes - address, exported.bytes);
  return std::make_unique<CudaAllocation>(std::move(block), std::move(exports), false);
}

}  // namespace ckptd::device::cuda
