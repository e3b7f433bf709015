// One client's connection: reads a request, has it answered, writes the answer, and again.
//
// Everything here belongs to the one thread that runs Site::io, except the handlers, which run on Site::workers. A
// connection keeps itself alive until its loop has ended.
#pragma once

// clang-format off
#include <utility>  // Asio 1.81 needs it and does not include it
// clang-format on
#include <boost/asio/generic/stream_protocol.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/thread_pool.hpp>
#include <functional>
#include <memory>

#include "daemon/control/event_log.h"
#include "daemon/control/routes.h"
#include "daemon/control/server.h"

namespace ckptd::control {

/// What all connections share. Outlives them.
struct Site {
  Site(Options the_options, operations::Operations& the_operations, std::span<const Route> the_routes);

  const Options options;
  operations::Operations& operations;
  const std::span<const Route> routes;
  boost::asio::io_context io{1};
  boost::asio::thread_pool workers;
  bool stopping = false;          ///< requests that arrive now are refused
  EventLog events;                ///< stays empty where no route needs it
  std::size_t event_clients = 0;  ///< connections that are streams of events

  std::size_t most_event_clients() const { return std::max<std::size_t>(1, options.connections / 2); }
};

class Connection {
 public:
  using OnEnd = std::function<void(Connection* ended)>;

  /// Begins to serve. `on_end` is called on the site's thread when the connection is over.
  static std::shared_ptr<Connection> start(Site& site, boost::asio::generic::stream_protocol::socket socket,
                                           OnEnd on_end);
  virtual ~Connection() = default;

  /// The site is stopping: an idle connection ends now, one with a running handler after its answer, a stream of events
  /// after its last one.
  virtual void finish() = 0;
  /// There may be something new in Site::events.
  virtual void look_for_events() = 0;
  /// Ends now. An answer that is still being made is dropped.
  virtual void close() = 0;
};

}  // namespace ckptd::control
