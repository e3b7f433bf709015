#include "daemon/metrics/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <algorithm>
#include <mutex>
#include <set>

#include "daemon/metrics/state.h"

namespace ckptd::metrics {
namespace {

using prometheus::Counter;
using prometheus::Family;
using prometheus::Gauge;
using prometheus::Histogram;

/// From a test's tensors to a terabyte from a slow disk.
const std::vector<double> kSeconds{0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000};

constexpr std::size_t kMostStages = 32;

double seconds_between(std::chrono::system_clock::time_point from, std::chrono::system_clock::time_point to) {
  return std::max(0.0, std::chrono::duration<double>(to - from).count());  // clocks get set
}

/// Of an Error's kind; the empty text for success.
std::string error_of(const jobs::Record& record) {
  return record.error ? std::string(name_of(record.error->kind)) : std::string();
}

}  // namespace

struct Metrics::Counted {
  Counted() {
    // Series that are there from the beginning: the first failure is then an increase, and not a series that appears.
    for (const char* kind : {"load", "update"}) {
      running.Add({{"kind", kind}});
      (kind == std::string_view("load") ? loaded : pushed).Add({});
      ended.Add({{"kind", kind}, {"outcome", "succeeded"}, {"error", ""}});
      ended.Add({{"kind", kind}, {"outcome", "cancelled"}, {"error", std::string(name_of(ErrorKind::cancelled))}});
      for (int error = 0; error <= static_cast<int>(ErrorKind::internal); ++error)
        if (auto each = static_cast<ErrorKind>(error); each != ErrorKind::cancelled)
          ended.Add({{"kind", kind}, {"outcome", "failed"}, {"error", std::string(name_of(each))}});
      for (const char* outcome : {"succeeded", "failed", "cancelled"})
        seconds.Add({{"kind", kind}, {"outcome", outcome}}, kSeconds);
    }
    event_clients.Add({});
  }

  void see(jobs::Change change, const jobs::Record& record) {
    if (change == jobs::Change::started) running.Add({{"kind", record.kind}}).Increment();
    if (change != jobs::Change::ended) return;
    const std::string outcome(jobs::name_of(record.state));
    running.Add({{"kind", record.kind}}).Decrement();
    ended.Add({{"kind", record.kind}, {"outcome", outcome}, {"error", error_of(record)}}).Increment();
    seconds.Add({{"kind", record.kind}, {"outcome", outcome}}, kSeconds)
        .Observe(seconds_between(record.started, record.ended));
    if (record.state == jobs::State::succeeded)
      (record.kind == "load" ? loaded : pushed).Add({}).Increment(static_cast<double>(record.done_bytes));
    for (const auto& stage : record.stages) {
      const auto name = bounded(stage.name);
      stage_seconds.Add({{"kind", record.kind}, {"stage", name}}, kSeconds).Observe(std::max(0.0, stage.seconds));
      stage_bytes.Add({{"kind", record.kind}, {"stage", name}}).Increment(static_cast<double>(stage.bytes));
    }
  }

  /// Names of stages are fixed words; should they ever be made from something else, they end up together.
  std::string bounded(const std::string& stage) {
    std::scoped_lock lock(mutex);
    if (stages.contains(stage)) return stage;
    if (stages.size() >= kMostStages || stage.size() > 32) return "other";
    return *stages.insert(stage).first;
  }

  prometheus::Registry registry;
  Family<Gauge>& running =
      prometheus::BuildGauge().Name("ckptd_jobs_running").Help("Jobs that run.").Register(registry);
  Family<Counter>& ended = prometheus::BuildCounter()
                               .Name("ckptd_jobs_ended_total")
                               .Help("Jobs that ended, by outcome and kind of error.")
                               .Register(registry);
  Family<Histogram>& seconds = prometheus::BuildHistogram()
                                   .Name("ckptd_job_seconds")
                                   .Help("From the start of a job to its end.")
                                   .Register(registry);
  Family<Histogram>& stage_seconds = prometheus::BuildHistogram()
                                         .Name("ckptd_job_stage_seconds")
                                         .Help("Where the time of jobs went. Stages may overlap.")
                                         .Register(registry);
  Family<Counter>& stage_bytes = prometheus::BuildCounter()
                                     .Name("ckptd_job_stage_bytes_total")
                                     .Help("Bytes that went through a stage of jobs.")
                                     .Register(registry);
  Family<Counter>& loaded = prometheus::BuildCounter()
                                .Name("ckptd_loaded_bytes_total")
                                .Help("Bytes that loads which succeeded have read.")
                                .Register(registry);
  Family<Counter>& pushed = prometheus::BuildCounter()
                                .Name("ckptd_pushed_bytes_total")
                                .Help("Bytes that updates which succeeded have pushed.")
                                .Register(registry);
  Family<Counter>& requests = prometheus::BuildCounter()
                                  .Name("ckptd_control_requests_total")
                                  .Help("Requests on the control socket, by route and HTTP status.")
                                  .Register(registry);
  Family<Gauge>& event_clients = prometheus::BuildGauge()
                                     .Name("ckptd_event_clients")
                                     .Help("Clients that follow events.")
                                     .Register(registry);

  std::mutex mutex;
  std::set<std::string> stages;  ///< under mutex
};

Metrics::Metrics() : counted_(std::make_unique<Counted>()) {}
Metrics::~Metrics() = default;

Subscription Metrics::follow(jobs::Registry& registry) {
  return registry.observe([counted = counted_.get()](jobs::Change change, const jobs::Record& record) {
    counted->see(change, record);
  });
}

void Metrics::count_request(std::string_view method, std::string_view route, unsigned status) {
  counted_->requests
      .Add({{"method", std::string(method)}, {"route", std::string(route)}, {"status", std::to_string(status)}})
      .Increment();
}

void Metrics::set_event_clients(std::size_t clients) {
  counted_->event_clients.Add({}).Set(static_cast<double>(clients));
}

std::string Metrics::text(const operations::Operations& operations) const {
  auto families = counted_->registry.Collect();
  std::ranges::move(state_families(operations.status(), operations.versions(), std::chrono::system_clock::now()),
                    std::back_inserter(families));
  std::ranges::move(process_families(), std::back_inserter(families));
  return prometheus::TextSerializer().Serialize(families);
}

}  // namespace ckptd::metrics
