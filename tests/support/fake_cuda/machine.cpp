#include "tests/support/fake_cuda/machine.h"

#include <pthread.h>

#include <cstdio>
#include <cstdlib>
#include <sstream>
#include <thread>
#include <utility>

namespace ckptd::fake_cuda {
namespace {

thread_local std::vector<CUcontext> current_contexts;

std::vector<std::uint64_t> numbers(const char* variable, std::vector<std::uint64_t> otherwise) {
  const char* given = std::getenv(variable);
  if (given == nullptr) return otherwise;
  std::vector<std::uint64_t> values;
  std::istringstream text(given);
  for (std::string each; std::getline(text, each, ',');) values.push_back(std::strtoull(each.c_str(), nullptr, 10));
  return values;
}

}  // namespace

Machine& Machine::get() {
  static auto* machine = new Machine;
  return *machine;
}

Machine::Machine() {
  const auto count = numbers("CKPTD_FAKE_CUDA_DEVICES", {2}).at(0);
  const auto memory = numbers("CKPTD_FAKE_CUDA_MEMORY", {1ULL << 30});
  for (std::size_t i = 0; i < count; ++i) {
    limits_.push_back(i < memory.size() ? memory[i] : memory.back());
    contexts_.push_back(std::make_unique<CUctx_st>());
    contexts_.back()->gpu = static_cast<int>(i);
  }
  for (const auto gpu : numbers("CKPTD_FAKE_CUDA_MIG", {})) divided_.insert(static_cast<int>(gpu));
  version_ = static_cast<int>(numbers("CKPTD_FAKE_CUDA_VERSION", {12020}).at(0));
  copy_time_ = std::chrono::microseconds(numbers("CKPTD_FAKE_CUDA_COPY_US", {0}).at(0));
  bytes_per_second_ = numbers("CKPTD_FAKE_CUDA_BYTES_PER_SECOND", {0}).at(0);
  const auto seed = numbers("CKPTD_TEST_SEED", {std::random_device{}()}).at(0);
  std::fprintf(stderr, "fake_cuda: seed %llu; CKPTD_TEST_SEED=%llu repeats it\n",
               static_cast<unsigned long long>(seed), static_cast<unsigned long long>(seed));
  random_.seed(seed);
  std::thread([this] { work(); }).detach();
  std::thread([this] { call_host_functions(); }).detach();
}

CUresult Machine::complain(CUresult code, std::string text) {
  faults_.complain(std::move(text));
  return code;
}

CUcontext Machine::current() const { return current_contexts.empty() ? nullptr : current_contexts.back(); }

CUresult Machine::begin(const char* name, bool needs_context) {
  const CUcontext context = current();
  const auto code = faults_.count(name, context != nullptr ? context->gpu : -1);
  if (!needs_context) return code;
  if (context == nullptr) return complain(CUDA_ERROR_INVALID_CONTEXT, std::string(name) + " without a current context");
  std::lock_guard lock(mutex_);
  if (context->retained == 0) return complain(CUDA_ERROR_CONTEXT_IS_DESTROYED, std::string(name) + " in a released context");
  if (context->dead != CUDA_SUCCESS) return context->dead;
  if (is_sticky(code)) die(context, code);
  return code;
}

CUresult Machine::push(CUcontext context) {
  if (context == nullptr) return complain(CUDA_ERROR_INVALID_CONTEXT, "cuCtxPushCurrent of no context");
  current_contexts.push_back(context);
  return CUDA_SUCCESS;
}

CUresult Machine::pop(CUcontext* context) {
  if (current_contexts.empty()) return complain(CUDA_ERROR_INVALID_CONTEXT, "cuCtxPopCurrent without a push");
  if (context != nullptr) *context = current_contexts.back();
  current_contexts.pop_back();
  return CUDA_SUCCESS;
}

CUresult Machine::retain(CUcontext* context, int gpu) {
  std::lock_guard lock(mutex_);
  if (gpu < 0 || gpu >= gpus()) return complain(CUDA_ERROR_INVALID_DEVICE, "no such device");
  ++contexts_[static_cast<std::size_t>(gpu)]->retained;
  *context = contexts_[static_cast<std::size_t>(gpu)].get();
  return CUDA_SUCCESS;
}

CUresult Machine::release(int gpu) {
  std::lock_guard lock(mutex_);
  auto& context = *contexts_.at(static_cast<std::size_t>(gpu));
  if (context.retained == 0) return complain(CUDA_ERROR_INVALID_CONTEXT, "a context is released more often than retained");
  if (--context.retained > 0) return CUDA_SUCCESS;
  for (const auto& [address, block] : blocks_)
    if (block.context == &context) complain(CUDA_SUCCESS, "a context is released that still has memory");
  for (const auto& [stream, owner] : streams_)
    if (owner->queue->context == &context) complain(CUDA_SUCCESS, "a context is released that still has streams");
  for (const auto& [event, owner] : events_)
    if (owner->context == &context) complain(CUDA_SUCCESS, "a context is released that still has events");
  context.peers.clear();
  return CUDA_SUCCESS;
}

CUresult Machine::enable_peer(CUcontext peer) {
  std::lock_guard lock(mutex_);
  if (peer == current()) return complain(CUDA_ERROR_INVALID_DEVICE, "peer access to itself");
  return current()->peers.insert(peer).second ? CUDA_SUCCESS : CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED;
}

void Machine::set_memory(int gpu, std::uint64_t bytes) {
  std::lock_guard lock(mutex_);
  limits_.at(static_cast<std::size_t>(gpu)) = bytes;
}

void Machine::pause(bool paused) {
  std::lock_guard lock(mutex_);
  paused_ = paused;
  changed_.notify_all();
}

unsigned Machine::objects() const {
  std::lock_guard lock(mutex_);
  std::size_t retained = 0;
  for (const auto& context : contexts_) retained += context->retained;
  return static_cast<unsigned>(retained + blocks_.size() + registered_.size() + streams_.size() + events_.size());
}

void Machine::die(CUcontext context, CUresult code) {
  context->dead = code;
  for (const auto& queue : queues_)
    if (queue->context == context) {
      queue->items.clear();
      queue->done = queue->queued;
    }
  progress_.notify_all();
  changed_.notify_all();
}

}  // namespace ckptd::fake_cuda
