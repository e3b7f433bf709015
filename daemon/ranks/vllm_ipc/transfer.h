// vLLM's weight transfer by CUDA IPC, packed: each call tells every worker how it opens the bucket on its own device.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "daemon/ranks/receipts/receipts.h"
#include "daemon/ranks/vllm/conversation.h"

namespace ckptd::ranks::vllm_ipc {

using vllm::Reply;
using vllm::Send;

struct Options {
  std::string engine;
  std::string weight_version = {};    ///< the label that the server is told at the end; empty: none
  std::vector<Peer> processes = {};  ///< who may map memory that the server is told of, as far as it can be seen
  std::chrono::milliseconds close{8'000};  ///< for closing what a failed update left open in the server
};

std::unique_ptr<Transfer> make_transfer(Options options, Send send, std::shared_ptr<Receipts> receipts);

}  // namespace ckptd::ranks::vllm_ipc
