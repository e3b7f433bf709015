#include "daemon/operations/engine_push.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <condition_variable>
#include <future>
#include <nlohmann/json.hpp>
#include <optional>
#include <system_error>
#include <thread>

#include "common/every.h"
#include "common/units.h"
#include "daemon/operations/accounts.h"
#include "daemon/operations/engine_call.h"
#include "daemon/operations/settling.h"
#include "daemon/operations/standstill.h"
#include "daemon/operations/trouble.h"
#include "daemon/pipeline/receipts.h"
#include "daemon/records/attribution.h"

namespace ckptd::operations {
namespace {

using Receipt = pipeline::LaneReport::Receipt;

constexpr std::chrono::milliseconds kTellInterval{50};

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

std::string stage_of(const EnginePush& push, const pipeline::Progress& progress) {
  const auto connected = progress.connected.load();
  if (connected < push.devices.size()) return fmt::format("waiting for ranks ({} of {})", connected, push.devices.size());
  if (progress.finished < push.devices.size()) return "pushing";
  if (push.external)
    return fmt::format("waiting for ranks to come back ({} sessions each, {} of {} begun)", push.external->sessions(),
                       push.devices.size() + progress.returned.load(), push.devices.size() * push.external->sessions());
  if (const auto returned = progress.returned.load(); returned > 0)
    return fmt::format("waiting for the engine's answer ({} ranks came back for another session)", returned);
  return "waiting for the engine's answer";
}

void tell(UpdateJob& job, const EnginePush& push, const pipeline::Progress& progress) {
  job.stage(push.engine, stage_of(push, progress));
  job.reloaded(push.engine, progress.reloaded_bytes);
}

/// From the request until the last of the devices had its first bucket; 0 when none came so far.
double first_bucket_seconds(const EnginePush& push, const pipeline::Report& report) {
  double seconds = 0;
  for (const auto& lane : report.lanes)
    for (const auto& span : lane.spans)
      if (span.what == pipeline::Span::What::upload && span.bucket == 0)
        seconds = std::max(seconds, std::chrono::duration<double>(span.end - push.requested).count());
  return seconds;
}

/// Lanes run side by side: the longest is what the update waited for.
double longest(const pipeline::Report& report, double pipeline::LaneReport::* seconds) {
  double most = 0;
  for (const auto& lane : report.lanes) most = std::max(most, lane.*seconds);
  return most;
}

/// A lane's spans of one kind do not overlap, so their sum is how long its device or its rank was busy.
jobs::StageTime busy_time(const std::string& stage, const pipeline::Report& report, pipeline::Span::What what) {
  double most = 0;
  std::uint64_t bytes = 0;
  for (const auto& lane : report.lanes) {
    double seconds = 0;
    for (const auto& span : lane.spans) {
      if (span.what != what) continue;
      seconds += std::chrono::duration<double>(span.end - span.begin).count();
      bytes += span.bytes;
    }
    most = std::max(most, seconds);
  }
  return {stage, most, bytes};
}

void tell_stages(UpdateJob& job, const std::string& engine, const pipeline::Report& report) {
  std::uint64_t bytes = 0;
  for (const auto& lane : report.lanes) bytes += lane.bytes;
  job.took(engine, {"connect", longest(report, &pipeline::LaneReport::connect_seconds), 0});
  job.took(engine, {"push", longest(report, &pipeline::LaneReport::push_seconds), bytes});
  job.took(engine, busy_time("upload", report, pipeline::Span::What::upload));
  job.took(engine, busy_time("reload", report, pipeline::Span::What::reload));
  job.took(engine, {"finish", longest(report, &pipeline::LaneReport::finish_seconds), 0});
  if (std::ranges::any_of(report.lanes, [](const auto& lane) { return lane.receipt != Receipt::not_needed; }))
    job.took(engine, {"receipt", longest(report, &pipeline::LaneReport::receipt_seconds), 0});
}

std::string_view name_of(Receipt receipt) {
  switch (receipt) {
    case Receipt::seen: return "seen";
    case Receipt::missing: return "missing";
    case Receipt::not_needed: break;
  }
  return "not needed";
}

nlohmann::json report_of(const EnginePush& push, const plan::Plan& plan, const pipeline::Report& report,
                         const std::vector<std::string>& warnings, double engine_wait_seconds, double seconds) {
  auto lanes = nlohmann::json::array();
  for (const auto& lane : report.lanes)
    lanes.push_back({{"device", lane.device},
                     {"pid", lane.pid},
                     {"sessions", lane.sessions},
                     {"bytes", lane.bytes},
                     {"connect_seconds", lane.connect_seconds},
                     {"push_seconds", lane.push_seconds},
                     {"upload_wait_seconds", lane.upload_wait_seconds},
                     {"reload_wait_seconds", lane.reload_wait_seconds},
                     {"finish_seconds", lane.finish_seconds},
                     {"receipt", name_of(lane.receipt)},
                     {"receipt_seconds", lane.receipt_seconds}});
  return {{"engine", push.engine},
          {"bytes", plan.tensor_bytes},
          {"buckets", plan.buckets.size()},
          {"copy_runs", plan.copy_runs},
          {"arena_bytes", plan.arena_bytes},
          {"fan_out", plan::name_of(plan.fan_out)},
          {"first_bucket_seconds", first_bucket_seconds(push, report)},
          {"connect_seconds", longest(report, &pipeline::LaneReport::connect_seconds)},
          {"engine_wait_seconds", engine_wait_seconds},
          {"seconds", seconds},
          {"warnings", warnings},
          {"lanes", lanes}};
}

/// Its draft models have their weights from sessions of their own, and success without these is no success for them.
std::string missing_sessions(const EnginePush& push, const pipeline::Report& report) {
  for (const auto& lane : report.lanes)
    if (lane.sessions < 1 + push.draft_models)
      return fmt::format("its server says that it has {} draft model{}, and answered success before the rank on {} had opened a "
                         "session for each: the draft may hold other weights than the model",
                         push.draft_models, push.draft_models == 1 ? "" : "s", lane.device);
  return {};
}

/// One plan for all lanes: where one device had less room, the others use no more than that; nor do they where a kept
/// arena has more.
std::uint64_t common_arena_bytes(const std::vector<pipeline::ArenaLoan>& arenas, std::uint64_t wanted_bytes) {
  auto bytes = wanted_bytes;
  for (const auto& arena : arenas) bytes = std::min(bytes, arena.memory().range().bytes);
  return bytes;
}

/// An update has succeeded when every rank acknowledged every step and the engine says so too.
Result<> judge(const EnginePush& push, const Result<>& pushed, const Result<std::string>& answer,
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
  if (!answer && answer.error().kind == ErrorKind::peer_failed) {
    error.sentence += fmt::format(" (the engine's own answer: {})", answer.error().sentence);
    // Some ranks go without a word, and what they raised is told by nobody else.
    if (error.vendor.empty()) error.vendor = answer.error().vendor.empty() ? answer.error().sentence : answer.error().vendor;
  }
  return std::unexpected(std::move(error));
}

std::vector<int> nodes_of(const EnginePush& push) {
  std::vector<int> nodes;
  for (const auto* device : push.devices) nodes.push_back(device->identity().numa_node);
  return nodes;
}

std::vector<int> nodes_of(const catalogue::Contents& contents) {
  std::vector<int> nodes;
  for (const auto& held : contents.memory) nodes.push_back(held.segment->numa_node);
  return nodes;
}

/// Gives a sleeping server back what it needs for its weights. Nothing is pushed into released memory.
Result<> wake_for(const EnginePush& push, fleet::Engine& engine, const fleet::Observation& seen) {
  if (seen.state != fleet::Observation::State::asleep) return {};
  if (push.wake == fleet::Wake::none)
    return fail(ErrorKind::conflict,
                "engine {} is asleep, its memory is released: wake it first, or register it with --wake weights or --wake "
                "all, so that an update does",
                push.engine);
  if (auto woken = engine.wake_weights(push.options->engine_timeout); !woken)
    return std::unexpected(woken.error().within(fmt::format("engine {} could not be woken for its weights", push.engine)));
  return {};
}

/// Of one that slept, the rest is woken first if that is wanted.
Given look_again(const EnginePush& push, fleet::Engine& engine, const fleet::Observation& before,
                 std::vector<std::string>& warnings) {
  if (before.state == fleet::Observation::State::asleep && push.wake == fleet::Wake::all)
    if (auto woken = engine.wake_rest(push.options->engine_timeout); !woken)
      warnings.push_back(fmt::format("it has its weights, but could not be woken in full: {}", woken.error().sentence));
  const auto after = engine.observe(push.options->ping_timeout);
  Given given{{before.listener, {}}, {}};
  if (!after) return given;
  given.after = *after;
  auto& mark = given.mark;
  if (!mark.listener) mark.listener = after->listener;
  // Of another process the label would be that of other weights: the next look finds out.
  if (!after->listener || after->listener == mark.listener) mark.label = after->weight_version;
  return given;
}

/// As judge() has it: the ranks' side is well, or was only ended because of what the engine had said.
bool engine_failed(const Result<>& pushed, bool cancelled) {
  return pushed || (pushed.error().kind == ErrorKind::cancelled && !cancelled);
}

}  // namespace

Result<nlohmann::json> Service::push_to_engine(const EnginePush& push, const catalogue::Contents& contents,
                                               fleet::Engine& engine, Standstill& standstill, UpdateJob& job,
                                               records::PushAccount& account) {
  const auto start = Clock::now();
  auto& steps = account.steps;
  CKPTD_TRY(check_not_lost(push));
  // A step of the record is a stage of the job. Steps run one after the other, on whatever thread.
  const auto timed = [&](const char* step, auto run) {
    return steps.timed(step, [&] { return job.timed(push.engine, step, run); });
  };
  // Its calls are ours to make, so it is of no use to whoever makes the calls themselves.
  const auto transfer = push.external ? nullptr : CKPTD_TRY(native_transfer(push, engine));
  auto& opener = transfer ? static_cast<ranks::Opener&>(*transfer) : parts_.endpoints;
  // Asked while everything else is made ready, if there is a thread for it; needed before the engine is called.
  std::future<Result<fleet::Observation>> ping;
  if (!push.external)
    ping = std::async(std::launch::async | std::launch::deferred,
                      [&] { return engine.observe(push.options->ping_timeout); });

  job.stage(push.engine, "allocating the arena");
  auto arenas = CKPTD_TRY(timed("arena", [&] { return borrow_arenas(push, contents.manifest); }));
  const auto arena_bytes = common_arena_bytes(arenas, wanted_arena_bytes(push, contents.manifest));
  const auto plan = CKPTD_TRY(timed("plan", [&] { return plan_push(push, contents, arena_bytes, opener); }));
  note_plan(account, plan);
  auto lanes = CKPTD_TRY(timed("open", [&] { return open_lanes(push, plan.fan_out, arenas, opener, job.stop()); }));
  if (transfer)
    for (const auto& lane : lanes) transfer->lend(*lane.device, lane.arena->range());
  fleet::UpdateCall call{.endpoints = {}, .weight_version = push.weight_version, .flush_cache = push.policy.flush_cache};
  for (const auto& lane : lanes)
    if (!lane.session->endpoint().empty()) call.endpoints[lane.session->device()] = lane.session->endpoint();

  std::stop_source answered;  // until then a rank may come back, for an engine's draft model
  RanksEnd ranks_end(job.stop(), push.options->answer_grace, push.options->rank_grace);
  std::unique_ptr<EngineCall> engine_call;
  bool written_down = false;
  std::optional<fleet::Observation> seen;  // absent: not ours to look after
  // From here on somebody may wait on an endpoint, also if we die: it is written down before the engine is called.
  const auto before_offers = [&]() -> Result<> {
    if (!push.external) {
      seen = standstill.understood(CKPTD_TRY(timed("ping", [&] { return ping.get(); })));
      CKPTD_TRY(heed_new_server(push, engine, *seen, account));
      CKPTD_TRY(wake_for(push, engine, *seen));
      // As late as possible: the first buckets are on the device. After waking, which lifts a pause of some servers.
      CKPTD_TRY(timed("pause", [&] { return standstill.begin(*seen, job.stop()); }));
    }
    if (auto written = timed("journal", [&] { return write_open_update(push, call, job.id(), seen, engine.listener()); });
        !written)
      return std::unexpected(written.error().within("the engine was not touched, its update could not be recorded"));
    written_down = true;
    if (push.external) {
      engine_call = std::make_unique<CallOfOthers>(*push.external, push.engine, engine.handles(call.endpoints));
      return {};
    }
    try {
      engine_call = std::make_unique<OwnCall>(
          [&](std::stop_token stop) {
            const auto timeout = push.options->engine_timeout;
            return transfer ? transfer->run(timeout, std::move(stop)) : engine.call_update(call, timeout, std::move(stop));
          },
          [&](const Result<std::string>& answer) {
            ranks_end.engine_answered(answer);
            answered.request_stop();
          });
    } catch (const std::system_error& error) {
      return fail(ErrorKind::no_space, "no thread could be started to call engine {}: {}", push.engine, error.what());
    }
    return {};
  };
  const auto before_first_bucket = [&]() -> Result<> {
    CKPTD_TRY(job.guard(push.engine));
    return timed("journal", [&] { return write_touched(push, job.id()); });
  };

  pipeline::Progress progress;
  pipeline::Report report;
  const auto resting = [&contents](std::uint64_t offset, std::uint64_t limit) { return contents.resting(offset, limit); };
  steps.begin("push");
  const auto pushed = [&] {
    Every teller(kTellInterval, [&] { tell(job, push, progress); });
    auto deadlines = push.options->deadlines;
    deadlines.answer = push.external ? deadlines.connect : deadlines.finish;
    return pipeline::push(plan, contents.manifest, resting, std::move(lanes), deadlines,
                          {.before_offers = before_offers,
                           .before_first_bucket = before_first_bucket,
                           .in_turn = push.pipeline_parallel > 1,
                           .answered = answered.get_token(),
                           .told_sessions = transfer ? 0 : 1 + push.draft_models,
                           .sessions = push.external ? push.external->sessions() : 0},
                          progress, ranks_end.token(), report);
  }();
  const auto ranks_done = report.ranks_done;
  steps.end(ranks_done);
  // After the outcome is written down: a daemon that dies while ranks are waited for leaves it as it is.
  const auto see_to_arenas = [&] {
    if (pushed && std::ranges::any_of(report.holds, [](const auto& hold) { return hold != nullptr; })) {
      job.stage(push.engine, "waiting for the ranks to unmap the arena");
      steps.timed(std::string(records::kReceiptStep), [&] {
        pipeline::await_receipts(report, Deadline::in(push.options->deadlines.receipt), job.stop());
        return 0;
      });
    }
    note_push(account, report, progress);
    tell_stages(job, push.engine, report);
    auto warnings = missing_receipts(push, report);
    for (const auto& warning : warnings) spdlog::warn("{}: {}: {}", job.id(), push.engine, warning);
    settle_arenas(push, pushed.has_value(), report, arenas);
    return warnings;
  };
  if (!pushed && !written_down) {
    see_to_arenas();
    return std::unexpected(pushed.error());
  }

  steps.begin("answer", ranks_done);
  if (!push.external) job.stage(push.engine, "waiting for the engine's answer");
  const auto answer = [&]() -> Result<std::string> {
    if (!engine_call) return std::unexpected(pushed.error());
    const auto grace = pushed ? std::chrono::milliseconds(0) : push.options->answer_grace;
    return engine_call->answer_by(Clock::now() + grace, ranks_done, push.engine);
  }();
  job.took(push.engine, {"answer", seconds_since(ranks_done), 0});
  if (auto verdict = judge(push, pushed, answer, progress, job.stop().stop_requested()); !verdict) {
    steps.end();
    account.engine_failed = engine_failed(pushed, job.stop().stop_requested());
    write_failure(push, job.id(), verdict.error(), progress.touched);
    see_to_arenas();
    return std::unexpected(verdict.error());
  }
  std::vector<std::string> remarks = standstill.warnings();
  if (!transfer && !push.external)
    if (auto missing = missing_sessions(push, report); !missing.empty()) remarks.push_back(std::move(missing));
  // What is left to do with the engine belongs to whoever calls it.
  if (auto concluded = push.external ? Result<>{} : engine.conclude(call, push.options->engine_step); !concluded) {
    if (concluded.error().kind != ErrorKind::unsupported) {
      const auto error = concluded.error().within("every rank took all weights, but the update could not be concluded");
      steps.end();
      write_failure(push, job.id(), error, progress.touched);
      see_to_arenas();
      return std::unexpected(error);
    }
    remarks.push_back(concluded.error().sentence);
  }
  auto given = seen ? look_again(push, engine, *seen, remarks) : Given{{engine.listener(), {}}, {}};
  if (given.after) given.after = standstill.resumed(*given.after);
  if (!given.mark.label.empty() && given.mark.label != call.weight_version)
    remarks.push_back(fmt::format("it tells weight version '{}', and was asked to tell '{}'", given.mark.label,
                                  call.weight_version));
  steps.end();
  const auto engine_wait_seconds = seconds_since(ranks_done);
  const auto written = timed("journal", [&] { return write_success(push, job.id(), given); });
  if (written) note_given(push.engine, given.after);
  const auto seconds = seconds_since(start);
  auto warnings = see_to_arenas();
  warnings.insert(warnings.end(), remarks.begin(), remarks.end());
  CKPTD_TRY(written);
  spdlog::info("{}: {} serves {} after {} ({} to each of {} ranks)", job.id(), push.engine, push.record.id,
               show_seconds(seconds), show_bytes(plan.tensor_bytes), push.devices.size());
  return report_of(push, plan, report, warnings, engine_wait_seconds, seconds);
}

std::uint64_t Service::wanted_arena_bytes(const EnginePush& push, const weights::Manifest& manifest) const {
  if (push.options->arena_bytes) return push.options->arena_bytes;
  return plan::wanted_arena_bytes(manifest, packing(push));
}

Result<std::uint64_t> Service::affordable_arena_bytes(const EnginePush& push, const weights::Manifest& manifest) const {
  auto bytes = wanted_arena_bytes(push, manifest);
  for (const auto* device : push.devices) {
    const auto free_bytes = CKPTD_TRY(device->free_bytes());
    bytes = std::min(bytes, free_bytes + arenas_.usage(*device).kept_bytes);
  }
  return bytes;
}

plan::Packing Service::packing(const EnginePush& push) const {
  return {push.bucket_bytes, parts_.endpoints.traits().run_alignment, plan::kFirstBucketBytes};
}

Result<std::vector<pipeline::ArenaLoan>> Service::borrow_arenas(const EnginePush& push,
                                                                const weights::Manifest& manifest) {
  const auto wanted = wanted_arena_bytes(push, manifest);
  const auto smallest = plan::smallest_arena_bytes(manifest, packing(push));
  std::vector<pipeline::ArenaLoan> arenas;
  for (auto* device : push.devices) {
    auto arena = arenas_.borrow(*device, wanted, smallest);
    if (!arena) return std::unexpected(arena.error());
    arenas.push_back(*std::move(arena));
  }
  if (const auto bytes = common_arena_bytes(arenas, wanted); bytes < wanted)
    spdlog::warn("{}: arenas hold {} instead of {}, because a device has no more memory free", push.engine,
                 show_bytes(bytes), show_bytes(wanted));
  return arenas;
}

plan::FanOut Service::fan_out(const EnginePush& push) const {
  const auto members = push.devices.size();
  if (push.options->fan_out) return members > 1 ? *push.options->fan_out : plan::FanOut::independent;
  // Stages that take the update one after the other never are in one broadcast together.
  return plan::choose_fan_out(static_cast<std::uint32_t>(members),
                              push.options->peer_copies_are_faster && push.pipeline_parallel == 1);
}

/// Which way is taken: goes_natively(). Null: checkpoint-engine's worker.
Result<std::unique_ptr<ranks::Transfer>> Service::native_transfer(const EnginePush& push, fleet::Engine& engine) const {
  const auto& wanted = push.known.transfer;
  if (wanted == "checkpoint-engine" || push.known.kind != "vllm" || !parts_.make_transfer) return nullptr;
  auto about = engine.describe(push.options->ping_timeout);
  // The way must not depend on whether it had the time to answer.
  if (!about && wanted == "auto" && about.error().kind != ErrorKind::unsupported) {
    const auto last = last_description(push.engine);
    if (!last) return std::unexpected(about.error().within("how it takes weights could not be found out"));
    about = *last;
  }
  if (!about) about = fleet::Description{};
  const auto& offered = about->weight_transfer;
  if (wanted == "native")
    return parts_.make_transfer(push.known, push.weight_version, offered == kByNccl ? kByNccl : kByIpc);
  if (!goes_natively(push.known, *about, push.devices.size())) return nullptr;
  if (offered == kByIpc) return parts_.make_transfer(push.known, push.weight_version, kByIpc);
  auto made = parts_.make_transfer(push.known, push.weight_version, kByNccl);
  if (made || !about->has_extension) return made;
  if (const auto* trouble = trouble_of(push.known, *about, push.model, fleet::Way::worker); trouble && !push.record.forced)
    return std::unexpected(fleet::refusal(*trouble, push.engine, push.record.id));
  spdlog::info("{}: given weights by checkpoint-engine's extension: {}", push.engine, made.error().sentence);
  return nullptr;
}

Result<plan::Plan> Service::plan_push(const EnginePush& push, const catalogue::Contents& contents,
                                      std::uint64_t arena_bytes, const ranks::Opener& opener) const {
  auto packed = packing(push);
  packed.gapless = opener.traits().gapless;
  return plan::make_plan(contents.manifest, contents.layout,
                         {.members = static_cast<std::uint32_t>(push.devices.size()),
                          .arena_bytes = arena_bytes,
                          .packing = packed,
                          .fan_out = fan_out(push),
                          .member_nodes = nodes_of(push),
                          .segment_nodes = nodes_of(contents)});
}

Result<std::vector<pipeline::Lane>> Service::open_lanes(const EnginePush& push, plan::FanOut fan_out,
                                                        const std::vector<pipeline::ArenaLoan>& arenas,
                                                        ranks::Opener& opener, std::stop_token stop) {
  std::vector<std::string> names;
  for (const auto* device : push.devices) names.push_back(device->identity().uuid);
  std::vector<pipeline::Lane> lanes(push.devices.size());
  auto discard = [&] {
    for (auto& lane : lanes)
      if (lane.session) lane.session->discard();
  };
  for (std::size_t i = 0; i < lanes.size(); ++i) {
    lanes[i].device = push.devices[i];
    lanes[i].arena = &arenas[i].memory();
    auto session = opener.open(push.engine, names[i]);
    if (!session) {
      discard();
      return std::unexpected(session.error());
    }
    lanes[i].session = std::move(*session);
  }
  if (fan_out != plan::FanOut::broadcast) return lanes;
  auto members = parts_.make_group(push.devices, names, std::move(stop));
  if (!members) {
    discard();
    return std::unexpected(members.error());
  }
  for (std::size_t i = 0; i < lanes.size(); ++i) lanes[i].member = std::move((*members)[i]);
  return lanes;
}

}  // namespace ckptd::operations
