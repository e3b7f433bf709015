// HTTP/1.1 on a Unix socket: requests into operations, errors into statuses, what happens into streams of events.
//
// One io_context thread of coroutines that never blocks; operations run on a small pool of worker threads. Every read,
// handler and write has its own time-out and every body a limit. The socket's mode is 0660; a stale socket file of a
// dead daemon is replaced, a living daemon's is not.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "common/deadline.h"
#include "common/result.h"
#include "daemon/operations/operations.h"

namespace ckptd::control {

struct Options {
  std::filesystem::path socket;
  std::string group;  ///< name or number; empty: the daemon's own
  std::uint64_t body_bytes = 1 << 20;
  std::chrono::milliseconds read_timeout{30'000};
  std::chrono::milliseconds handler_timeout{60'000};
  std::chrono::milliseconds write_timeout{30'000};
  std::chrono::milliseconds drain_timeout{1'000};  ///< at the end, for answers that are on their way
  std::chrono::milliseconds bind_timeout{5'000};   ///< for another start in the same directory
  std::size_t connections = 256;  ///< at once; more are answered 503. Half of them may be streams of events
  std::size_t workers = 4;
  std::chrono::milliseconds heartbeat{15'000};  ///< a stream of events is silent for no longer

  // Told on the server's thread. An answer's route is a pattern of the table, or "other" with the method "other".
  std::function<void(std::string_view method, std::string_view route, unsigned status)> on_answer = {};
  std::function<void(std::size_t clients)> on_event_clients = {};
};

/// A listener for a monitoring system: /metrics, /healthz and /readyz, GET only, small limits. Never a control route, for
/// it may be reachable over TCP.
struct MetricsOptions {
  std::string listen;  ///< "127.0.0.1:9464", "[::1]:0" (port 0: one that is free) or "unix:/PATH"
  std::string group;   ///< of a Unix socket
};

class Server {
 public:
  /// Binds and listens; serves from its own thread as soon as this returns. unavailable when another daemon answers on
  /// the socket.
  static Result<std::unique_ptr<Server>> start(const Options& options, operations::Operations& operations);
  /// The same; `text` is called by a worker for each scrape. The log says where it listens.
  static Result<std::unique_ptr<Server>> start_metrics(const MetricsOptions& options,
                                                       operations::Operations& operations,
                                                       std::function<std::string()> text);
  /// Where it listens, with the port that was chosen: "unix:/run/ckptd/control.sock", "http://127.0.0.1:9464".
  virtual const std::string& where() const = 0;

  /// For a watchdog: whether the thread that serves comes round before the deadline. Blocks until then; timed_out.
  virtual Result<> check_alive(Deadline deadline) = 0;

  virtual ~Server() = default;  ///< stops listening, gives running handlers a moment, joins, removes the socket
};

}  // namespace ckptd::control
