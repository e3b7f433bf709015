// Speaks just enough HTTP on a Unix socket to stand in for ckptd, and misbehaves on demand.
//
// It is an older daemon, which answers 404 to .../events without counting that as asked, unless a test gives a handler for
// these. Handlers run on the thread of their connection, one at a time. die() ends it as a kill would: the listening socket
// and all connections close at once, and the socket's file stays behind.
#pragma once

#include <chrono>
#include <condition_variable>
#include <filesystem>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "common/unique_fd.h"

namespace ckptd::ctl::test {

struct Asked {
  std::string method, target, head, body;
};

struct Reply {
  unsigned status = 200;
  std::string body = "{}";
  std::chrono::milliseconds delay{0};
  bool hang_up = false;  ///< closes instead of answering
  std::string raw = {};  ///< sent as it is instead of an HTTP answer
};

class FakeDaemon {
 public:
  using Handler = std::function<Reply(const Asked&)>;

  explicit FakeDaemon(Handler handler, Handler events = {});
  FakeDaemon(const FakeDaemon&) = delete;
  FakeDaemon& operator=(const FakeDaemon&) = delete;
  ~FakeDaemon();

  std::string socket() const { return socket_; }
  std::vector<Asked> asked() const;
  /// Blocks until this many requests have come, half a minute at most. Whether they did.
  bool wait_for_requests(std::size_t count) const;
  void die();

 private:
  void accept_all();
  void serve(int fd);

  Handler handler_, events_;
  std::filesystem::path folder_;
  std::string socket_;
  UniqueFd listener_;
  std::mutex calling_;
  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  std::vector<Asked> asked_;
  std::vector<int> open_;
  std::vector<std::thread> serving_;
  bool dying_ = false;
  std::thread accepting_;
};

}  // namespace ckptd::ctl::test
