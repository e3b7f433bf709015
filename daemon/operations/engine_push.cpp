#include "daemon/operations/engine_push.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <condition_variable>
#include <future>
#include <nlohmann/json.hpp>
#include <thread>

#include "common/every.h"
#include "common/units.h"
#include "daemon/pipeline/arena.h"

namespace ckptd::operations {
namespace {

constexpr std::chrono::milliseconds kTellInterval{50};

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

/// The engine's own answer, on a thread beside the ranks' sessions: its call returns only when they have ended.
class EngineCall {
 public:
  EngineCall(fleet::Engine& engine, fleet::UpdateCall call, std::chrono::milliseconds timeout,
             std::function<void(const Result<std::string>&)> answered)
      : answer_(promise_.get_future().share()),
        thread_([this, &engine, call = std::move(call), timeout, answered = std::move(answered)](std::stop_token stop) {
          auto answer = engine.call_update(call, timeout, stop);
          promise_.set_value(answer);
          answered(answer);
        }) {}

  /// The answer, if it comes in time; otherwise the call is given up.
  Result<std::string> answer_within(std::chrono::milliseconds grace, const std::string& engine) {
    if (answer_.wait_for(grace) == std::future_status::ready) return answer_.get();
    thread_.request_stop();
    return fail(ErrorKind::timed_out, "engine {} did not answer within {} after its ranks had finished", engine,
                show_seconds(std::chrono::duration<double>(grace).count()));
  }

 private:
  std::promise<Result<std::string>> promise_;
  std::shared_future<Result<std::string>> answer_;
  std::jthread thread_;
};

/// Ends the ranks' side when the engine has said no, or has said yes while ranks are still waiting: it must have left
/// them out. Owns the thread of the grace.
class RanksEnd {
 public:
  RanksEnd(std::stop_token job_stop, std::chrono::milliseconds grace, std::chrono::milliseconds grace_after_no)
      : grace_(grace), grace_after_no_(grace_after_no), on_job_stop_(job_stop, [this] { stop_.request_stop(); }) {}

  std::stop_token token() const { return stop_.get_token(); }

  void engine_answered(const Result<std::string>& answer) {
    if (!answer) {
      // The ranks get a moment first: a traceback from one of them says more than the engine's summary.
      end_after(grace_after_no_);
      return;
    }
    end_after(grace_);
  }

 private:
  void end_after(std::chrono::milliseconds span) {
    timer_ = std::jthread([this, span](std::stop_token cancelled) {
      std::mutex mutex;
      std::unique_lock lock(mutex);
      std::condition_variable_any sleep;
      sleep.wait_for(lock, cancelled, span, [] { return false; });
      if (!cancelled.stop_requested()) stop_.request_stop();
    });
  }

  std::chrono::milliseconds grace_, grace_after_no_;
  std::stop_source stop_;
  std::stop_callback<std::function<void()>> on_job_stop_;
  std::jthread timer_;
};

void tell(UpdateJob& job, const EnginePush& push, const pipeline::Progress& progress) {
  const auto connected = progress.connected.load();
  job.stage(push.engine, connected < push.devices.size()
                             ? fmt::format("waiting for ranks ({} of {})", connected, push.devices.size())
                             : "pushing");
  job.reloaded(push.engine, progress.reloaded_bytes);
}

nlohmann::json report_of(const EnginePush& push, const plan::Plan& plan, const pipeline::Report& report,
                         double engine_wait_seconds, double seconds) {
  auto lanes = nlohmann::json::array();
  for (const auto& lane : report.lanes)
    lanes.push_back({{"device", lane.device},
                     {"pid", lane.pid},
                     {"bytes", lane.bytes},
                     {"connect_seconds", lane.connect_seconds},
                     {"push_seconds", lane.push_seconds},
                     {"upload_wait_seconds", lane.upload_wait_seconds},
                     {"reload_wait_seconds", lane.reload_wait_seconds},
                     {"finish_seconds", lane.finish_seconds}});
  return {{"engine", push.engine},
          {"bytes", plan.tensor_bytes},
          {"buckets", plan.buckets.size()},
          {"copy_runs", plan.copy_runs},
          {"arena_bytes", plan.arena_bytes},
          {"fan_out", plan::name_of(plan.fan_out)},
          {"engine_wait_seconds", engine_wait_seconds},
          {"seconds", seconds},
          {"lanes", lanes}};
}

/// One plan for all lanes: where one device had less room, the others use no more than that.
std::uint64_t common_arena_bytes(const std::vector<pipeline::Lane>& lanes) {
  auto bytes = lanes.front().arena->range().bytes;
  for (const auto& lane : lanes) bytes = std::min(bytes, lane.arena->range().bytes);
  return bytes;
}

/// An update has succeeded when every rank acknowledged every step and the engine says so too.
Result<> judge(const EnginePush& push, const Result<pipeline::Report>& pushed, const Result<std::string>& answer,
               const pipeline::Progress& progress, bool cancelled) {
  if (pushed && answer) return {};
  if (pushed) return std::unexpected(answer.error().within("every rank took all weights, but the engine did not confirm"));
  const bool ended_by_us = pushed.error().kind == ErrorKind::cancelled;
  if (ended_by_us && cancelled) return std::unexpected(pushed.error());  // what the engine makes of it is no news
  if (ended_by_us && answer)
    return fail(ErrorKind::peer_failed,
                "the engine answered success while its ranks had not finished ({} of {} had connected, {} were "
                "acknowledged): it did not take the update",
                progress.connected.load(), push.devices.size(), show_bytes(progress.reloaded_bytes));
  if (ended_by_us && answer.error().kind != ErrorKind::cancelled && answer.error().kind != ErrorKind::timed_out)
    return std::unexpected(answer.error());
  Error error = pushed.error();
  if (!answer && answer.error().kind == ErrorKind::peer_failed)
    error.sentence += fmt::format(" (the engine's own answer: {})", answer.error().sentence);
  return std::unexpected(std::move(error));
}

}  // namespace

Result<nlohmann::json> Service::push_to_engine(const EnginePush& push, const catalogue::Contents& contents,
                                               UpdateJob& job) {
  const auto start = Clock::now();
  auto engine = CKPTD_TRY(parts_.make_engine(push.kind, push.engine, push.endpoint));
  CKPTD_TRY(engine->ping(options_.ping_timeout));

  job.stage(push.engine, "allocating the arena");
  auto lanes = CKPTD_TRY(allocate_lanes(push, contents.manifest));
  const auto plan = CKPTD_TRY(plan_push(push, contents, common_arena_bytes(lanes)));
  CKPTD_TRY(open_sessions(push, plan.fan_out, lanes));

  // From here on somebody may wait on an endpoint, also if we die: it is written down before the engine is called.
  if (auto written = write_open_update(push, lanes, job.id()); !written) {
    for (auto& lane : lanes) lane.session->discard();
    return std::unexpected(written.error().within("the engine was not touched, its update could not be recorded"));
  }
  fleet::UpdateCall call{.endpoints = {}, .weight_version = push.weight_version, .flush_cache = push.flush_cache};
  for (const auto& lane : lanes) call.endpoints[lane.session->device()] = lane.session->endpoint();

  pipeline::Progress progress;
  const auto resting = [&contents](std::uint64_t offset, std::uint64_t limit) { return contents.resting(offset, limit); };
  const auto before_first_bucket = [&]() -> Result<> {
    CKPTD_TRY(job.guard(push.engine));
    return write_touched(push, job.id());
  };

  RanksEnd ranks_end(job.stop(), options_.answer_grace, options_.rank_grace);
  EngineCall engine_call(*engine, std::move(call), options_.engine_timeout,
                         [&](const Result<std::string>& answer) { ranks_end.engine_answered(answer); });
  auto pushed = [&] {
    Every teller(kTellInterval, [&] { tell(job, push, progress); });
    return pipeline::push(plan, contents.manifest, resting, std::move(lanes), options_.deadlines, before_first_bucket,
                          progress, ranks_end.token());
  }();
  const auto ranks_done = Clock::now();
  job.stage(push.engine, "waiting for the engine's answer");
  const auto answer = engine_call.answer_within(pushed ? options_.deadlines.finish : options_.answer_grace, push.engine);

  if (auto verdict = judge(push, pushed, answer, progress, job.stop().stop_requested()); !verdict) {
    write_failure(push, job.id(), verdict.error(), progress.touched);
    return std::unexpected(verdict.error());
  }
  CKPTD_TRY(write_success(push, job.id()));
  const auto seconds = seconds_since(start);
  spdlog::info("{}: {} serves {} after {} ({} to each of {} ranks)", job.id(), push.engine, push.record.id,
               show_seconds(seconds), show_bytes(plan.tensor_bytes), push.devices.size());
  return report_of(push, plan, *pushed, seconds_since(ranks_done), seconds);
}

std::uint64_t Service::wanted_arena_bytes(const EnginePush& push, const weights::Manifest& manifest) const {
  if (options_.arena_bytes) return options_.arena_bytes;
  return plan::wanted_arena_bytes(manifest, packing(push));
}

Result<std::uint64_t> Service::affordable_arena_bytes(const EnginePush& push, const weights::Manifest& manifest) const {
  auto bytes = wanted_arena_bytes(push, manifest);
  for (const auto* device : push.devices) bytes = std::min(bytes, CKPTD_TRY(device->free_bytes()));
  return bytes;
}

plan::Packing Service::packing(const EnginePush& push) const {
  return {push.bucket_bytes, parts_.endpoints.traits().run_alignment};
}

Result<std::vector<pipeline::Lane>> Service::allocate_lanes(const EnginePush& push,
                                                            const weights::Manifest& manifest) {
  const auto wanted = wanted_arena_bytes(push, manifest);
  const auto smallest = plan::smallest_arena_bytes(manifest, packing(push));
  std::vector<pipeline::Lane> lanes(push.devices.size());
  for (std::size_t i = 0; i < lanes.size(); ++i) {
    lanes[i].device = push.devices[i];
    lanes[i].arena = CKPTD_TRY(pipeline::allocate_arena(*push.devices[i], wanted, smallest));
  }
  if (const auto bytes = common_arena_bytes(lanes); bytes < wanted)
    spdlog::warn("{}: arenas hold {} instead of {}, because a device has no more memory free", push.engine,
                 show_bytes(bytes), show_bytes(wanted));
  return lanes;
}

plan::FanOut Service::fan_out(std::size_t members) const {
  if (options_.fan_out) return members > 1 ? *options_.fan_out : plan::FanOut::independent;
  return plan::choose_fan_out(static_cast<std::uint32_t>(members), options_.peer_copies_are_faster);
}

Result<plan::Plan> Service::plan_push(const EnginePush& push, const catalogue::Contents& contents,
                                      std::uint64_t arena_bytes) const {
  return plan::make_plan(contents.manifest, contents.layout,
                         {.members = static_cast<std::uint32_t>(push.devices.size()),
                          .arena_bytes = arena_bytes,
                          .packing = packing(push),
                          .fan_out = fan_out(push.devices.size())});
}

Result<> Service::open_sessions(const EnginePush& push, plan::FanOut fan_out, std::vector<pipeline::Lane>& lanes) {
  std::vector<std::string> names;
  for (const auto* device : push.devices) names.push_back(device->identity().uuid);
  auto discard = [&] {
    for (auto& lane : lanes)
      if (lane.session) lane.session->discard();
  };
  for (std::size_t i = 0; i < lanes.size(); ++i) {
    auto session = parts_.endpoints.open(push.engine, names[i]);
    if (!session) {
      discard();
      return std::unexpected(session.error());
    }
    lanes[i].session = std::move(*session);
  }
  if (fan_out != plan::FanOut::broadcast) return {};
  auto members = parts_.make_group(push.devices, names);
  if (!members) {
    discard();
    return std::unexpected(members.error());
  }
  for (std::size_t i = 0; i < lanes.size(); ++i) lanes[i].member = std::move((*members)[i]);
  return {};
}

}  // namespace ckptd::operations
