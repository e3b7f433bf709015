// The functions of the library, by the names and types of NCCL's C interface.
#include <climits>
#include <cstring>

#include "tests/support/fake_nccl/world.h"

using ckptd::fake_nccl::Call;
using ckptd::fake_nccl::World;

namespace {

constexpr unsigned kMagic = 0xcafebeef;

struct UniqueId {
  char internal[128];
};
struct Config {  // as 2.14 has it
  std::size_t size;
  unsigned magic, version;
  int blocking;
};

World& world() {
  return World::get();
}

}  // namespace

extern "C" {

int ncclGetVersion(int* version) {
  if (const auto entry = world().enter("ncclGetVersion"); entry.code != 0) return entry.code;
  *version = world().version;
  return 0;
}

int ncclGetUniqueId(UniqueId* id) {
  if (const auto entry = world().enter("ncclGetUniqueId"); entry.code != 0) return entry.code;
  return world().make_id(id->internal);
}

int ncclCommInitRankConfig(void** comm, int members, UniqueId id, int rank, Config* config) {
  const auto entry = world().enter("ncclCommInitRankConfig");
  if (entry.code != 0) return entry.code;
  const bool read =
      config != nullptr && config->size >= sizeof(Config) && config->magic == kMagic && config->version >= 21400;
  return world().init(comm, members, id.internal, rank, read ? config->blocking : INT_MIN, entry.later);
}

int ncclCommFinalize(void* comm) {
  const auto entry = world().enter("ncclCommFinalize");
  return entry.code != 0 ? entry.code : world().end(Call::Kind::finalize, comm, entry.later);
}

int ncclCommDestroy(void* comm) {
  const auto entry = world().enter("ncclCommDestroy");
  return entry.code != 0 ? entry.code : world().end(Call::Kind::destroy, comm, entry.later);
}

int ncclCommAbort(void* comm) {
  const auto entry = world().enter("ncclCommAbort");
  return entry.code != 0 ? entry.code : world().end(Call::Kind::abort, comm, entry.later);
}

int ncclCommGetAsyncError(void* comm, int* state) {
  const auto entry = world().enter("ncclCommGetAsyncError");
  return entry.code != 0 ? entry.code : world().async_error(comm, state);
}

int ncclBroadcast(const void* from, void* to, std::size_t count, int type, int root, void* comm, void* stream) {
  const auto entry = world().enter("ncclBroadcast");
  if (entry.code != 0) return entry.code;
  if (from != to || type != 1) return 4;  // we only ever broadcast bytes, in place
  return world().broadcast(to, count, root, comm, stream, entry.later);
}

int ncclAllReduce(const void* from, void* to, std::size_t count, int type, int operation, void* comm, void* stream) {
  const auto entry = world().enter("ncclAllReduce");
  if (entry.code != 0) return entry.code;
  if (from != to || type != 7 || operation != 0 || count != 1) return 4;  // the one sum of a float32 that vLLM begins with
  return world().sum(to, comm, stream, entry.later);
}

int ncclGroupStart() {
  const auto entry = world().enter("ncclGroupStart");
  return entry.code != 0 ? entry.code : world().group_start();
}

int ncclGroupEnd() {
  const auto entry = world().enter("ncclGroupEnd");
  const int code = world().group_end();
  return entry.code != 0 ? entry.code : code;
}

const char* ncclGetErrorString(int code) {
  switch (code) {
    case 0: return "no error";
    case 1: return "unhandled cuda error";
    case 2: return "unhandled system error";
    case 3: return "internal error";
    case 4: return "invalid argument";
    case 5: return "invalid usage";
    case 6: return "remote process exited or there was a network error";
    case 7: return "NCCL operation in progress";
    default: return "unknown result code";
  }
}

const char* ncclGetLastError(void*) {
  return world().last_complaint();
}

void fake_nccl_begin(const FakeNcclStreams* streams, std::uint64_t seed) {
  world().begin(streams, seed);
}
void fake_nccl_set_version(int version) {
  world().version = version;
}
void fake_nccl_set_network(int on) {
  world().network = on != 0;
}
void fake_nccl_fail(const char* name, unsigned nth, int code) {
  world().fail(name, nth, code, false);
}
void fake_nccl_fail_later(const char* name, unsigned nth, int code) {
  world().fail(name, nth, code, true);
}
void fake_nccl_hang(const char* name, unsigned nth, int stubborn) {
  world().hang(name, nth, stubborn != 0);
}
void fake_nccl_release() {
  world().release();
}
void fake_nccl_break(int rank, int code) {
  world().break_rank(rank, code);
}
unsigned fake_nccl_calls(const char* name) {
  return world().calls(name);
}
unsigned fake_nccl_hanging() {
  return world().hanging();
}
unsigned fake_nccl_communicators() {
  return world().communicators();
}
unsigned fake_nccl_complaints() {
  return world().complaints();
}
const char* fake_nccl_last_complaint() {
  return world().last_complaint();
}
}
