// What a monitoring system is told, in Prometheus' text format. docs/metrics.md has one row for each metric.
//
// Two sorts: what is counted where it happens (requests, jobs at their end: so counters do not depend on the history of
// jobs), and what is read at the moment of a scrape (store, versions, engines, the process). The second sort has a series
// for each version and engine that there is, and none for one that is gone, so labels that clients choose cannot pile up.
// All functions are safe from any thread and wait for nobody.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

#include "common/listeners.h"
#include "daemon/jobs/jobs.h"
#include "daemon/operations/operations.h"

namespace ckptd::metrics {

class Metrics {
 public:
  Metrics();
  Metrics(const Metrics&) = delete;  // the registry's jobs refer to it
  Metrics& operator=(const Metrics&) = delete;
  ~Metrics();

  /// Counts the jobs of this registry, while the subscription lives.
  [[nodiscard]] Subscription follow(jobs::Registry& registry);

  /// `route` is a pattern, not a path: there are as many series as routes and statuses.
  void count_request(std::string_view method, std::string_view route, unsigned status);
  void set_event_clients(std::size_t clients);

  /// Everything, as of now.
  std::string text(const operations::Operations& operations) const;

 private:
  struct Counted;
  std::unique_ptr<Counted> counted_;
};

}  // namespace ckptd::metrics
