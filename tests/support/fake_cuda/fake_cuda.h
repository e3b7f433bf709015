// A libcuda that needs no GPU: it exports the functions of the driver API that the backend in daemon/device/cuda and the
// tests use, and does with host memory what a GPU would do with its own.
//
// What it proves: that every legal order of queued work gives the right bytes (one engine runs the work of all streams
// in an order drawn from the printed seed), that every call may fail and every lost context is dealt with, that nothing
// is used after its end or in the wrong context, and that an IPC handle takes another process of this uid to the bytes.
// What a driver would punish, often with a crash at some later time, is an error here and a complaint on stderr that
// tests look at: unknown or freed pointers, copies out of bounds, memory unregistered twice, a copy that crosses two
// registrations, calls without a current context or with another one's streams and events, objects used after their end
// (their addresses are not given out again) or destroyed twice, memory unregistered under a copy, memory freed that another
// process still maps.
// What it does not prove: speed, and that NVIDIA's driver behaves as its documentation and we believe.
//
// Environment, read once when the library is first used:
//   CKPTD_FAKE_CUDA_DEVICES=2                  GPUs, named GPU-fa4ec0da-0000-0000-0000-00000000000N from 0
//   CKPTD_FAKE_CUDA_MEMORY=1073741824[,...]    bytes of each; the last one is that of all further ones
//   CKPTD_FAKE_CUDA_MIG=1[,...]                ordinals that are instances of a divided GPU
//   CKPTD_FAKE_CUDA_VERSION=12020              what cuDriverGetVersion says
//   CKPTD_FAKE_CUDA_COPY_US=0                  how long each queued copy takes at least
//   CKPTD_FAKE_CUDA_BYTES_PER_SECOND=0         how fast copies are at most, all GPUs together; 0: as fast as memory
//   CKPTD_FAKE_CUDA_FAIL=NAME:N=CODE[@GPU],... the N-th call of NAME from now, counted from 1, gives CODE; N may be *
//   CKPTD_TEST_SEED                            the order of the work
// NAME is a symbol (cuMemAlloc_v2), or work_copy for a queued copy when it is its turn. After a code that loses a
// context (700 and its kin) that context is dead: every call in it gives that code, its queued work is dropped.
#pragma once

extern "C" {

/// As CKPTD_FAKE_CUDA_FAIL. nth 0: every call. gpu -1: calls of all GPUs are counted together.
void fake_cuda_fail(const char* name, unsigned nth, int code, int gpu);
void fake_cuda_fail_nothing();
/// Calls of that name so far.
unsigned fake_cuda_calls(const char* name);

void fake_cuda_set_memory(int gpu, unsigned long long bytes);

/// From now on a call of that name waits in the driver until as many are in it at once, or two seconds.
void fake_cuda_gather(const char* name, unsigned at_once);
/// How many were in it at once since then, at most.
unsigned fake_cuda_gathered();

/// While paused no queued work is done, whoever waits.
void fake_cuda_pause(int paused);

/// What a driver would have punished: how often, and the last time in words.
unsigned fake_cuda_complaints();
const char* fake_cuda_last_complaint();
void fake_cuda_forget_complaints();

/// Contexts, allocations, mappings, registrations, streams and events that are there.
unsigned fake_cuda_objects();

/// As a new process would find it: objects of dead contexts are forgotten and the GPUs work again.
void fake_cuda_revive();
}
