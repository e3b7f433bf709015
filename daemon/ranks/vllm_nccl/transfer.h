// vLLM's weight transfer by NCCL: one device of ours broadcasts to all workers of a server, wherever they are.
//
// Each bucket is one call, which the workers answer when they have it, and one broadcast, which ends when all of them take
// part. Both run at once, on two threads, and end each other. Between two buckets no worker waits for anybody; within one it
// waits in NCCL, which vLLM does not give up: what becomes of it then is said in docs/vllm_weight_transfer.md.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string>

#include "common/process.h"
#include "daemon/ranks/vllm/conversation.h"
#include "daemon/ranks/vllm_nccl/links.h"

namespace ckptd::ranks::vllm_nccl {

struct Options {
  std::string engine;
  std::string weight_version = {};         ///< the label that the server is told at the end; empty: none
  std::optional<ProcessId> server = {};    ///< who listens at its endpoint: its link is kept for the next update
  std::chrono::milliseconds close{8'000};  ///< for closing what a failed update left open in the server
  /// For a bucket that is under way when its update is given up: cut off, it would leave workers in NCCL.
  std::chrono::milliseconds grace{2'000};
  /// For the server to say why, once NCCL has failed.
  std::chrono::milliseconds words{1'000};
};

/// Of one device: open() refuses a second. `links` outlive the transfer and its sessions.
std::unique_ptr<Transfer> make_transfer(Options options, vllm::Send send, std::shared_ptr<Links> links);

}  // namespace ckptd::ranks::vllm_nccl
