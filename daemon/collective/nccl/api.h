// What ckptd uses of NCCL's C interface, declared by hand (docs/decisions/0019-nccl.md says why).
//
// The facts are those of nccl.h of NVIDIA/nccl, whose binary interface has not changed since 2.14:
//   results      src/nccl.h.in, ncclResult_t; 8 (ncclTimeout) came later than the others
//   config       ncclConfig_v21400: each later version reads as many bytes as `size` says, and takes its defaults for
//                what `version` did not have (src/init.cc, parseCommConfig)
//   data types   ncclDataType_t, ncclUint8, ncclFloat32; ncclRedOp_t, ncclSum
//   unique id    128 bytes, passed by value
// tests/unit/collective_nccl compares every line of this with the real header, where there is one.
#pragma once

#include <cstddef>

namespace ckptd::collective::nccl {

struct OpaqueComm;
using Comm = OpaqueComm*;

enum class Code : int {
  success = 0,
  unhandled_cuda_error = 1,
  system_error = 2,
  internal_error = 3,
  invalid_argument = 4,
  invalid_usage = 5,
  remote_error = 6,
  in_progress = 7,
  timeout = 8,
};

inline constexpr std::size_t kUniqueIdBytes = 128;
struct UniqueId {
  char internal[kUniqueIdBytes];
};

struct Config {
  std::size_t size = sizeof(Config);
  unsigned magic = 0xcafebeef;
  unsigned version = 21400;  ///< of this layout, whatever the library's is
  int blocking = 0;
  int padding = 0;  ///< 2.17 has a value here and does not look at it in a configuration of 2.14
};

inline constexpr int kUint8 = 1, kFloat32 = 7;
inline constexpr int kSum = 0;

/// 22203 for 2.22.3.
inline constexpr int version_code(int major, int minor, int patch) {
  return major * 10000 + minor * 100 + patch;
}

/// The functions, none of which is null. `stream` is a CUstream, which is what a cudaStream_t is.
struct Functions {
  Code (*get_version)(int* version) = nullptr;
  Code (*get_unique_id)(UniqueId* id) = nullptr;
  Code (*comm_init_rank_config)(Comm* comm, int members, UniqueId id, int rank, Config* config) = nullptr;
  Code (*comm_finalize)(Comm comm) = nullptr;
  Code (*comm_destroy)(Comm comm) = nullptr;
  Code (*comm_abort)(Comm comm) = nullptr;
  Code (*comm_get_async_error)(Comm comm, Code* state) = nullptr;
  Code (*broadcast)(const void* from, void* to, std::size_t count, int type, int root, Comm comm,
                    void* stream) = nullptr;
  Code (*all_reduce)(const void* from, void* to, std::size_t count, int type, int operation, Comm comm,
                     void* stream) = nullptr;
  Code (*group_start)() = nullptr;
  Code (*group_end)() = nullptr;
  const char* (*get_error_string)(Code code) = nullptr;
  const char* (*get_last_error)(Comm comm) = nullptr;
};

}  // namespace ckptd::collective::nccl
