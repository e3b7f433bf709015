// The GPUs, contexts and memory that the library pretends to have, and the engine that does queued work. Internal to
// tests/support/fake_cuda. Everything is guarded by one mutex, which the engine gives back while it copies.
#pragma once

#include <cuda.h>

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "tests/support/fake_cuda/faults.h"

struct CUctx_st {
  int gpu = 0;
  unsigned retained = 0;
  CUresult dead = CUDA_SUCCESS;
  std::set<CUcontext> peers;
};

namespace ckptd::fake_cuda {

using Clock = std::chrono::steady_clock;
struct Queue;

/// A point in a queue, as an event records it.
struct Mark {
  std::shared_ptr<Queue> queue;
  bool done = false;
  Clock::time_point at;
};

struct Item {
  enum class Kind { copy, host_function, mark, wait };
  Kind kind = Kind::copy;
  std::uintptr_t to = 0, from = 0;
  std::size_t bytes = 0;
  CUhostFn function = nullptr;
  void* data = nullptr;
  std::shared_ptr<Mark> mark;
  std::uint64_t number = 0;
};

/// The work of one stream.
struct Queue {
  CUcontext context = nullptr;
  std::deque<Item> items;
  std::uint64_t queued = 0, done = 0;
  bool running = false;
  const Item* current = nullptr;
  unsigned speed = 1;
};

}  // namespace ckptd::fake_cuda

struct CUstream_st {
  std::shared_ptr<ckptd::fake_cuda::Queue> queue;
};
struct CUevent_st {
  CUcontext context = nullptr;
  unsigned flags = 0;
  std::shared_ptr<ckptd::fake_cuda::Mark> mark;  // null before the first record
};

namespace ckptd::fake_cuda {

/// Device memory of this process: an allocation, or a mapping of another process's.
struct Block {
  int gpu = 0;
  CUcontext context = nullptr;
  std::size_t bytes = 0;
  int memfd = -1;        // of an allocation; of a mapping too, with a shared lock that tells the owner of it
  unsigned opened = 0;   // of a mapping: how often
  std::string handle;    // of a mapping: the bytes that it was opened with
};

/// What an IPC handle holds.
struct Handle {
  char magic[8];
  std::uint32_t pid, fd;
  std::uint64_t inode, bytes;
  std::uint32_t gpu, serial;
  char rest[24];
};
static_assert(sizeof(Handle) == CU_IPC_HANDLE_SIZE);

class Machine {
 public:
  /// Never destroyed: its threads run to the end of the process.
  static Machine& get();

  /// Counts a call and checks what every call needs. With a context: the current one must be alive.
  CUresult begin(const char* name, bool needs_context = true);
  CUcontext current() const;
  CUresult push(CUcontext context);
  CUresult pop(CUcontext* context);

  CUresult retain(CUcontext* context, int gpu);
  CUresult release(int gpu);
  CUresult enable_peer(CUcontext peer);

  CUresult allocate(CUdeviceptr* address, std::size_t bytes);
  CUresult free(CUdeviceptr address);
  CUresult memory_info(std::size_t* free_bytes, std::size_t* total_bytes);
  CUresult range_of(CUdeviceptr* start, std::size_t* bytes, CUdeviceptr address);
  CUresult export_memory(CUipcMemHandle* handle, CUdeviceptr address);
  CUresult open_memory(CUdeviceptr* address, const CUipcMemHandle& handle);
  CUresult close_memory(CUdeviceptr address);
  CUresult register_host(std::uintptr_t address, std::size_t bytes);
  CUresult unregister_host(std::uintptr_t address);

  CUresult make_stream(CUstream* stream, unsigned flags);
  CUresult destroy_stream(CUstream stream);
  CUresult query_stream(CUstream stream);
  CUresult make_event(CUevent* event, unsigned flags);
  CUresult destroy_event(CUevent event);
  CUresult record(CUevent event, CUstream stream);
  CUresult query_event(CUevent event);
  CUresult elapsed(float* milliseconds, CUevent from, CUevent to);
  CUresult wait(CUstream stream, CUevent event);
  CUresult call_host(CUstream stream, CUhostFn function, void* data);
  CUresult copy(const char* what, std::uintptr_t to, std::uintptr_t from, std::size_t bytes, CUstream stream);
  CUresult copy_now(std::uintptr_t to, std::uintptr_t from, std::size_t bytes);

  int gpus() const { return static_cast<int>(limits_.size()); }
  bool divided(int gpu) const { return divided_.contains(gpu); }
  int version() const { return version_; }
  Faults& faults() { return faults_; }

  void set_memory(int gpu, std::uint64_t bytes);
  void pause(bool paused);
  unsigned objects() const;
  void revive();

 private:
  enum class Place { device, registered, pageable, mixed };

  Machine();
  CUresult complain(CUresult code, std::string text);
  CUresult check_stream(const char* call, CUstream stream);
  CUresult check_event(const char* call, CUevent event);
  const Block* block_at(std::uintptr_t address, std::size_t bytes) const;
  bool starts_in_block(std::uintptr_t address) const;
  Place place_of(std::uintptr_t address, std::size_t bytes) const;
  bool in_use(std::uintptr_t address, std::size_t bytes) const;
  std::uint64_t used(int gpu) const;
  void add(Queue& queue, Item item);
  bool runnable(const Queue& queue) const;
  void work();
  void call_host_functions();
  void run_copy(std::unique_lock<std::mutex>& lock, Queue& queue, const Item& item);
  void finish(Queue& queue);
  void die(CUcontext context, CUresult code);

  int version_ = 12020;
  std::vector<std::uint64_t> limits_;
  std::set<int> divided_;
  std::chrono::microseconds copy_time_{0};
  std::uint64_t bytes_per_second_ = 0;
  Faults faults_;

  mutable std::mutex mutex_;
  std::condition_variable changed_;   // for the engine
  std::condition_variable progress_;  // for who waits for it
  std::mt19937_64 random_;
  std::vector<std::unique_ptr<CUctx_st>> contexts_;
  std::map<std::uintptr_t, Block> blocks_;
  std::map<std::uintptr_t, std::size_t> registered_;
  std::map<CUstream, std::unique_ptr<CUstream_st>> streams_;
  std::map<CUevent, std::unique_ptr<CUevent_st>> events_;
  // Destroyed, and never freed: their addresses are not given out again, so that using one is seen.
  std::vector<std::unique_ptr<CUstream_st>> former_streams_;
  std::vector<std::unique_ptr<CUevent_st>> former_events_;
  std::vector<std::shared_ptr<Queue>> queues_;
  std::deque<std::pair<std::shared_ptr<Queue>, Item>> host_functions_;
  std::condition_variable host_work_;
  bool paused_ = false;
  std::uint32_t serial_ = 0;
};

}  // namespace ckptd::fake_cuda
