// What daemon/collective/nccl/api.h declares by hand, against NVIDIA's header.
#include <nccl.h>

#include <catch2/catch.hpp>
#include <cstddef>
#include <type_traits>

#include "daemon/collective/nccl/api.h"

namespace ckptd::collective::nccl {
namespace {

/// NCCL's type of what api.h declares: handles, enumerations and structures are the same to the machine.
template <class T>
struct AsOurs {
  using type = T;
};
template <>
struct AsOurs<ncclResult_t> {
  using type = Code;
};
template <>
struct AsOurs<ncclResult_t*> {
  using type = Code*;
};
template <>
struct AsOurs<ncclComm_t> {
  using type = Comm;
};
template <>
struct AsOurs<ncclComm_t*> {
  using type = Comm*;
};
template <>
struct AsOurs<ncclUniqueId> {
  using type = UniqueId;
};
template <>
struct AsOurs<ncclUniqueId*> {
  using type = UniqueId*;
};
template <>
struct AsOurs<ncclConfig_t*> {
  using type = Config*;
};
template <>
struct AsOurs<ncclDataType_t> {
  using type = int;
};
template <>
struct AsOurs<cudaStream_t> {
  using type = void*;
};

template <class Theirs, class Ours>
struct SameSignature : std::false_type {};
template <class R, class... Arguments, class Ours>
struct SameSignature<R(Arguments...), Ours>
    : std::is_same<typename AsOurs<R>::type (*)(typename AsOurs<Arguments>::type...), Ours> {};

#define SAME_SIGNATURE(theirs, ours) static_assert(SameSignature<decltype(theirs), decltype(Functions::ours)>::value)
SAME_SIGNATURE(ncclGetVersion, get_version);
SAME_SIGNATURE(ncclGetUniqueId, get_unique_id);
SAME_SIGNATURE(ncclCommInitRankConfig, comm_init_rank_config);
SAME_SIGNATURE(ncclCommFinalize, comm_finalize);
SAME_SIGNATURE(ncclCommDestroy, comm_destroy);
SAME_SIGNATURE(ncclCommAbort, comm_abort);
SAME_SIGNATURE(ncclCommGetAsyncError, comm_get_async_error);
SAME_SIGNATURE(ncclBroadcast, broadcast);
SAME_SIGNATURE(ncclAllReduce, all_reduce);
SAME_SIGNATURE(ncclGroupStart, group_start);
SAME_SIGNATURE(ncclGroupEnd, group_end);
SAME_SIGNATURE(ncclGetErrorString, get_error_string);
SAME_SIGNATURE(ncclGetLastError, get_last_error);
#undef SAME_SIGNATURE

int value(Code code) { return static_cast<int>(code); }

}  // namespace

TEST_CASE("codes and types have the header's values") {
  CHECK(value(Code::success) == ncclSuccess);
  CHECK(value(Code::unhandled_cuda_error) == ncclUnhandledCudaError);
  CHECK(value(Code::system_error) == ncclSystemError);
  CHECK(value(Code::internal_error) == ncclInternalError);
  CHECK(value(Code::invalid_argument) == ncclInvalidArgument);
  CHECK(value(Code::invalid_usage) == ncclInvalidUsage);
  CHECK(value(Code::remote_error) == ncclRemoteError);
  CHECK(value(Code::in_progress) == ncclInProgress);
  CHECK(sizeof(Code) == sizeof(ncclResult_t));
  CHECK(kUint8 == ncclUint8);
  CHECK(kFloat32 == ncclFloat32);
  CHECK(kSum == ncclSum);
  CHECK(sizeof(int) == sizeof(ncclDataType_t));
  CHECK(version_code(NCCL_MAJOR, NCCL_MINOR, NCCL_PATCH) == NCCL_VERSION_CODE);
}

TEST_CASE("the unique id is as large as the header's") {
  CHECK(sizeof(UniqueId) == sizeof(ncclUniqueId));
  CHECK(alignof(UniqueId) == alignof(ncclUniqueId));
  CHECK(kUniqueIdBytes == NCCL_UNIQUE_ID_BYTES);
}

TEST_CASE("the configuration is the beginning of the header's") {
  const ncclConfig_t initial = NCCL_CONFIG_INITIALIZER;
  const Config ours;
  CHECK(ours.magic == initial.magic);
  CHECK(ours.version <= initial.version);
  CHECK(ours.size == sizeof(Config));
  CHECK(ours.size <= initial.size);
  CHECK(ours.version == NCCL_VERSION(2, 14, 0));
  CHECK(offsetof(Config, size) == offsetof(ncclConfig_t, size));
  CHECK(offsetof(Config, magic) == offsetof(ncclConfig_t, magic));
  CHECK(offsetof(Config, version) == offsetof(ncclConfig_t, version));
  CHECK(offsetof(Config, blocking) == offsetof(ncclConfig_t, blocking));
  CHECK(sizeof(ours.blocking) == sizeof(initial.blocking));
  // What 2.14 had there was padding, which later versions must go on to ignore in a configuration of 2.14.
  CHECK(offsetof(Config, padding) == offsetof(ncclConfig_t, cgaClusterSize));
}

}  // namespace ckptd::collective::nccl
