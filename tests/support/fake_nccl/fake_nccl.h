// A libnccl that needs no GPU: it exports the functions that daemon/collective/nccl uses, for members that are threads
// or devices of one process, and carries bytes over whatever streams the test gives it. Where it is told to, rank 0 is here
// and all others are in other processes, which it reaches in a way of its own (net.h).
//
// What it proves: that the caller copes with every legal answer of non-blocking communicators (how often each says
// ncclInProgress, and whether a call already does, is drawn from the seed), that bytes are right in every order of the
// streams' work although each member's stream goes on as soon as its own slot is read (the bytes walk along a ring, as
// NCCL's do), and that nothing waits for ever when any call fails, does not return or never gets done, or when a device
// reports an error later. What the real library would punish with a hang, a crash or wrong bytes is an error here and a
// complaint that tests look at: a communicator used while in progress, after its abort or end, ended twice or not in
// one group with its siblings, members that disagree, two ranks on one device (unless it is told to be 2.30 or newer and
// NCCL_MULTI_RANK_GPU_ENABLE is 1). An abort cuts off what is queued:
// the bytes are then left as they were, and the streams know of no error.
// What it does not prove: speed, anything of CUDA (launches, contexts, implicit synchronisation), topology, transports and
// bootstrap, what the real library does when a process is missing or dies, and that NVIDIA's library behaves as its
// documentation and source say.
//
// Environment, read when the library is first used, for a daemon that knows nothing of a test:
//   CKPTD_FAKE_NCCL_CUDA=PATH           carries bytes over the streams of the libcuda at that path
//   CKPTD_FAKE_NCCL_LATER=NAME:N=CODE   as fake_nccl_fail_later()
//   CKPTD_FAKE_NCCL_NETWORK=1           as fake_nccl_set_network()
//   CKPTD_FAKE_NCCL_VERSION=22707       what ncclGetVersion says
//   CKPTD_TEST_SEED                     the seed
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

extern "C" {

/// How the streams that ncclBroadcast is given work. Functions answer 0, or something else if the call failed.
struct FakeNcclStreams {
  void* self;
  /// What identifies the device that is current in the calling thread; null: none.
  void* (*current_device)(void* self);
  void* (*make_event)(void* self, void* device);
  void (*destroy_event)(void* self, void* device, void* event);
  int (*record)(void* self, void* device, void* stream, void* event);
  int (*wait)(void* self, void* device, void* stream, void* event);
  /// Queues a copy that looks at `cut` when it is its turn and does nothing if it is set. `cut` lives for ever.
  int (*copy)(void* self, void* device, void* stream, void* to, const void* from, std::size_t bytes,
              const std::atomic<bool>* cut);
  /// Queues a call, which may block its stream and no other.
  int (*run)(void* self, void* device, void* stream, void (*work)(void* data), void* data);
};

/// Those of the libcuda of tests/support/fake_cuda, which is at this path. Only where CUDA is built in.
const FakeNcclStreams* fake_nccl_cuda_streams(const char* library);

/// As in a new process: no communicators, faults or complaints. Streams and seed are for all that follows.
void fake_nccl_begin(const FakeNcclStreams* streams, std::uint64_t seed);
void fake_nccl_set_version(int version);
/// From now on unique ids are for members in other processes.
void fake_nccl_set_network(int on);

/// The nth call of that function from now on, counted from 1, answers `code` and does nothing.
void fake_nccl_fail(const char* name, unsigned nth, int code);
/// The nth call succeeds, and its communicator comes to `code` some time later, the others of its group to
/// ncclRemoteError. With ncclInProgress (7) it never comes to an end.
void fake_nccl_fail_later(const char* name, unsigned nth, int code);
/// The nth call does not return before its communicators are aborted, or fake_nccl_release(). `stubborn`: not for an
/// abort either.
void fake_nccl_hang(const char* name, unsigned nth, int stubborn);
void fake_nccl_release();
/// A communicator fails although nothing is called: what the next question for its state answers.
void fake_nccl_break(int rank, int code);

/// Calls of that name so far, and those that are in it.
unsigned fake_nccl_calls(const char* name);
unsigned fake_nccl_hanging();
/// Communicators that were made and neither destroyed nor aborted.
unsigned fake_nccl_communicators();
unsigned fake_nccl_complaints();
const char* fake_nccl_last_complaint();
}
