// Gives a vLLM server weights by its own weight transfer: CUDA IPC, packed. docs/vllm_weight_transfer.md describes every
// call. No worker of the server waits for us between two calls, so nothing has to outlive an update that fails but what
// the server makes of it: see close() in the source.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

#include "common/deadline.h"
#include "common/result.h"
#include "daemon/ranks/receipts/receipts.h"
#include "daemon/ranks/transfer.h"
#include "proto/answer/answer.h"

namespace ckptd::ranks::vllm_ipc {

struct Reply {
  unsigned status = 0;
  std::string body;
  proto::answer::Key sent = proto::answer::Key::none;
};

/// Sends one request to the server, with whatever key it wants, and blocks for the answer. Its errors say who was asked.
using Send = std::function<Result<Reply>(std::string_view method, std::string_view target, std::string body,
                                         Deadline deadline, std::stop_token stop)>;

struct Options {
  std::string engine;
  std::string weight_version = {};    ///< the label that the server is told at the end; empty: none
  std::vector<Peer> processes = {};  ///< who may map memory that the server is told of, as far as it can be seen
  std::chrono::milliseconds close{8'000};  ///< for closing what a failed update left open in the server
};

std::unique_ptr<Transfer> make_transfer(Options options, Send send, std::shared_ptr<Receipts> receipts);

}  // namespace ckptd::ranks::vllm_ipc
