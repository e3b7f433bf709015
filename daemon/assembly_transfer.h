// Servers' own ways of being given weights: which backend an engine gets, and what outlives one update of it.
#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include "common/deadline.h"
#include "common/result.h"
#include "daemon/config/config.h"
#include "daemon/fleet/engine.h"
#include "daemon/journal/journal.h"
#include "daemon/ranks/receipts/receipts.h"
#include "daemon/ranks/transfer.h"

namespace ckptd {

/// Safe from any thread.
class Transfers {
 public:
  static std::unique_ptr<Transfers> create(const config::Config& config, std::shared_ptr<ranks::Receipts> receipts);
  virtual ~Transfers() = default;

  /// See operations::Parts::make_transfer.
  virtual Result<std::unique_ptr<ranks::Transfer>> make(const journal::EngineRecord& engine, std::string weight_version,
                                                        const std::string& way) = 0;
  /// Lets go of what is kept for the next update of a server; how many servers that was for.
  virtual std::size_t drop_idle() noexcept = 0;
  /// The daemon is ending: nobody is to wait beyond `by`.
  virtual void close(Deadline by) noexcept = 0;
};

Result<fleet::Address> address_of(const journal::EngineRecord& engine, std::chrono::milliseconds connect);

}  // namespace ckptd
