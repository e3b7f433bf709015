// One client's connection: reads a request, has it answered, writes the answer, and again.
//
// Everything here belongs to the one thread that runs Site::io, except the handlers, which run on Site::workers. A
// connection keeps itself alive until its loop has ended.
#pragma once

// clang-format off
#include <utility>  // Asio 1.81 needs it and does not include it
// clang-format on
#include <boost/asio/io_context.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/thread_pool.hpp>
#include <functional>
#include <memory>

#include "daemon/control/server.h"

namespace ckptd::control {

/// What all connections share. Outlives them.
struct Site {
  Site(Options the_options, operations::Operations& the_operations)
      : options(std::move(the_options)), operations(the_operations) {}

  const Options options;
  operations::Operations& operations;
  boost::asio::io_context io{1};
  boost::asio::thread_pool workers{4};
  bool stopping = false;  ///< requests that arrive now are refused
};

class Connection {
 public:
  using OnEnd = std::function<void(Connection* ended)>;

  /// Begins to serve. `on_end` is called on the site's thread when the connection is over.
  static std::shared_ptr<Connection> start(Site& site, boost::asio::local::stream_protocol::socket socket,
                                           OnEnd on_end);
  virtual ~Connection() = default;

  /// The site is stopping: an idle connection ends now, one with a running handler after its answer.
  virtual void finish() = 0;
  /// Ends now. An answer that is still being made is dropped.
  virtual void close() = 0;
};

}  // namespace ckptd::control
