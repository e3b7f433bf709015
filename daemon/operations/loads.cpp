#include <spdlog/spdlog.h>

#include <algorithm>
#include <future>
#include <nlohmann/json.hpp>

#include "common/every.h"
#include "common/units.h"
#include "daemon/operations/accounts.h"
#include "daemon/operations/service.h"
#include "daemon/operations/show.h"
#include "daemon/prefetch/identify.h"

namespace ckptd::operations {
namespace {

constexpr std::chrono::milliseconds kTellInterval{50};

nlohmann::json load_result(const catalogue::View& view, const prefetch::Filled& filled, double seconds,
                           bool already_resident) {
  return {{"checkpoint", view.id.show()},
          {"identity", view.identity},
          {"bytes", view.tensor_bytes},
          {"tensors", view.tensor_count},
          {"store_bytes", view.store_bytes},
          {"shared_bytes", view.shared_bytes},
          {"read_seconds", filled.seconds},
          {"seconds", seconds},
          {"already_resident", already_resident},
          {"backend", filled.backend},
          {"disk_bytes", filled.read_bytes - filled.cached_bytes},
          {"cached_bytes", filled.cached_bytes},
          {"evicted", nlohmann::json::array()}};
}

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

/// Runs one stage and tells its time and the bytes that went through it, however it ended.
template <class Stage, class Bytes>
auto timed(jobs::Handle& job, std::string name, const Bytes& bytes, Stage stage) {
  const auto start = Clock::now();
  auto result = stage();
  job.took({std::move(name), seconds_since(start), static_cast<std::uint64_t>(bytes)});
  return result;
}

/// Reading and hashing overlap: the seconds of "hash" are those of its threads together.
Result<prefetch::Filled> fill(const source::Source& source, const weights::Layout& layout,
                              const store::Reservation& memory, const prefetch::Options& options, jobs::Handle& job,
                              records::LoadAccount& account) {
  prefetch::Progress progress;
  auto result = timed(job, "read", progress.read_bytes, [&] {
    Every teller(kTellInterval, [&] {
      job.progress(progress.read_bytes, layout.total_bytes());
      note_read(account, progress.read_bytes);
    });
    return prefetch::fill(source, layout, memory, options, progress, job.stop());
  });
  job.took({"hash", progress.hash_seconds(), progress.hashed_bytes});
  account.hashed_bytes = progress.hashed_bytes;
  if (result) account.cached_bytes = result->cached_bytes;
  return result;
}

}  // namespace

Result<api::Job> Service::load(const api::LoadRequest& request) {
  // A wrong directory, a conflict or a budget that is too small is worth an answer of its own rather than a job to look
  // up: the request waits, briefly, until the load is accepted or has failed. A slow file system gets its job.
  auto accepted = std::make_shared<std::promise<void>>();
  auto settled = accepted->get_future();
  const auto started = CKPTD_TRY(start_load(request, [accepted] { accepted->set_value(); }));
  const auto deadline = Deadline::in(options()->load_answer);
  while (!deadline.passed() && settled.wait_for(std::chrono::milliseconds(5)) != std::future_status::ready) {
    const auto now = parts_.jobs.find(started.id);
    if (!now || now->state != jobs::State::running) break;
  }
  const auto now = parts_.jobs.find(started.id);
  if (!now) return show(started);
  if (now->error) return std::unexpected(Error(*now->error).with_fact("job", now->id));
  return show(*now);
}

Result<jobs::Record> Service::start_load(const api::LoadRequest& request, std::function<void()> accepted) {
  const auto id = CKPTD_TRY(weights::CheckpointId::of(request.name, request.version));
  const auto key = fmt::format("load {} {}", id.show(), request.source_uri);
  std::lock_guard lock(starting_);
  if (!request.idempotency_key.empty())
    if (auto earlier = parts_.jobs.with_idempotency_key(key, request.idempotency_key); earlier && !earlier->error)
      return *std::move(earlier);
  if (auto running = parts_.jobs.running_with_key(key)) {
    join_load(key, request, id);
    return *std::move(running);
  }
  const auto wanted = std::make_shared<Wanted>();
  wanted->add(request);
  std::erase_if(wanted_, [](const auto& old) { return old.second.expired(); });
  wanted_[key] = wanted;
  return parts_.jobs.start({"load", id.show(), key, request.idempotency_key},
                           [this, uri = request.source_uri, wanted, id, accepted = std::move(accepted)](jobs::Handle& job) {
                             auto account = open_account(job.id(), "load", id.show());
                             records::LoadAccount load;
                             auto result = run_load(uri, *wanted, id, job, accepted, load);
                             close_account(load, result, parts_.jobs.find(job.id()));
                             close_account(account, result);
                             keep_record(account, load);
                             return result;
                           });
}

void Service::Wanted::add(const api::LoadRequest& request) {
  if (request.keep) keep = true;
  if (request.policy == api::LoadPolicy::resource) resource = true;
}

/// The load either sees what is wanted now when it tells the catalogue that it begins, or is in the catalogue already. A
/// version that is neither loading nor resident then is one whose load has failed: there is nothing to keep.
void Service::join_load(const std::string& key, const api::LoadRequest& request, const weights::CheckpointId& id) {
  if (const auto wanted = wanted_[key].lock()) wanted->add(request);
  if (request.keep) static_cast<void>(parts_.catalogue.set_kept(id, true));
}

Result<std::string> Service::answer_resident(const catalogue::View& there, const source::Source& source, bool keep,
                                             jobs::Handle& job, records::LoadAccount& account) {
  const auto& manifest = source.manifest();
  const auto stamp = weights::source_stamp_of(manifest).hex();
  if (stamp != there.source_stamp) {
    account.steps.begin("compare");
    account.total_bytes = manifest.tensor_bytes();
    // Only their bytes tell whether files that were touched or copied are still the same version.
    job.stage("comparing changed files with what is resident");
    std::atomic<std::uint64_t> read_bytes = 0;
    auto digests = [&] {
      Every teller(kTellInterval, [&] { job.progress(read_bytes, manifest.tensor_bytes()); });
      return prefetch::identify(source, read_bytes, job.stop(), options()->prefetch.throttle.get());
    }();
    account.read_bytes = read_bytes;
    if (!digests) return std::unexpected(digests.error().within("reading the changed files of " + there.id.show()));
    const auto found = weights::identity_of(manifest, *digests).hex();
    if (found != there.identity)
      return std::unexpected(
          Error{ErrorKind::conflict,
                fmt::format("{} is resident with identity {}, but the files now have identity {}: the bytes of a "
                            "version never change. Load them under another version, or drop this one first (ckptctl "
                            "evict {} --forget)",
                            there.id.show(), there.identity, found, there.id.show())}
              .with_fact("resident_identity", there.identity)
              .with_fact("found_identity", found));
  }
  if (keep) CKPTD_TRY(parts_.catalogue.set_kept(there.id, true));
  account.was_resident = true;
  parts_.catalogue.touch(there.id);
  return load_result(there, {}, 0, true).dump();
}

Result<std::string> Service::run_load(const std::string& source_uri, const Wanted& wanted,
                                      const weights::CheckpointId& id, jobs::Handle& job,
                                      const std::function<void()>& accepted, records::LoadAccount& account) {
  const auto start = Clock::now();
  const auto now = options();
  job.stage("opening");
  account.steps.begin("open");
  auto source = CKPTD_TRY(timed(job, "open", 0, [&] { return source::open(source_uri, now->source); }));
  const auto& manifest = source->manifest();
  if (auto there = parts_.catalogue.view(id); there && there->state == catalogue::State::resident)
    return answer_resident(*there, *source, wanted.keep, job, account);

  CKPTD_TRY(parts_.catalogue.begin_load(id, source_uri, job.id(), wanted.keep));
  if (wanted.keep) static_cast<void>(parts_.catalogue.set_kept(id, true));  // by who joined in between: see join_load()
  std::vector<Evicted> evicted;
  auto filled = [&]() -> Result<prefetch::Filled> {
    catalogue::Contents contents{.manifest = manifest,
                                 .layout = weights::Layout(manifest, parts_.store.segment_bytes()),
                                 .tensor_digests = {},
                                 .schema = weights::schema_of(manifest),
                                 .identity = {},
                                 .source_stamp = weights::source_stamp_of(manifest),
                                 .source_uri = source_uri,
                                 .memory = {}};
    const auto total = contents.layout.total_bytes();
    account.total_bytes = total;
    job.stage("reserving memory");
    std::uint64_t ready_bytes = 0;
    auto tell_ready = [&](std::uint64_t touched) {
      ready_bytes = touched;
      // Whole segments are touched, so the last may overshoot.
      job.progress(std::min(touched, total), total);
    };
    account.steps.begin("reserve");
    auto memory = CKPTD_TRY(timed(job, "reserve", ready_bytes, [&] {
      return parts_.store.reserve(contents.layout.segment_count(), job.stop(), tell_ready,
                                   make_room(wanted, id, job.id(), evicted));
    }));
    accepted();
    job.stage("reading");
    account.steps.begin("read");
    auto result = fill(*source, contents.layout, memory, now->prefetch, job, account);
    if (!result) return result;
    account.steps.begin("publish");
    contents.tensor_digests = result->tensor_digests;
    contents.memory = catalogue::hold(std::move(memory), contents.layout);
    contents.identity = weights::identity_of(manifest, contents.tensor_digests);
    CKPTD_TRY(fold(contents, job));
    CKPTD_TRY(parts_.catalogue.finish_load(id, std::move(contents)));
    return result;
  }();
  if (!filled) {
    auto error = filled.error().within("loading " + id.show());
    for (const auto& gone : evicted) {
      error.sentence += fmt::format(". {} had left to make room for it: load that again with {}", gone.id.show(),
                                    how_to_load_again(gone.id, gone.source_uri));
      error = std::move(error).with_fact("evicted", gone.id.show());
    }
    // finish_load has marked a conflict of identities itself; this keeps the first reason.
    parts_.catalogue.fail_load(id, error);
    return std::unexpected(std::move(error));
  }
  const auto view = parts_.catalogue.view(id);
  if (!view) return fail(ErrorKind::internal, "{} left the catalogue while it was loaded", id.show());
  const auto seconds = seconds_since(start);
  spdlog::info("{}: loaded {} in {} tensors, {} ({}), identity {}", id.show(), show_bytes(view->tensor_bytes),
               view->tensor_count, show_seconds(seconds), show_rate(view->tensor_bytes, filled->seconds), view->identity);
  auto result = load_result(*view, *filled, seconds, false);
  for (const auto& gone : evicted) result["evicted"].push_back(gone.id.show());
  return result.dump();
}

void Service::start_preloads() {
  for (const auto& preload : options()->preloads) start_preload(preload);
}

void Service::start_preload(const Preload& preload) {
  auto id = weights::CheckpointId::parse(preload.checkpoint);
  auto job = id ? start_load({.name = id->name,
                              .version = id->version,
                              .source_uri = preload.source,
                              .keep = preload.keep,
                              .idempotency_key = {}},
                             [] {})
                : Result<jobs::Record>(std::unexpected(id.error()));
  if (!job) spdlog::error("preload {}: {}", preload.checkpoint, job.error().sentence);
}

std::vector<std::string> Service::missing_preloads() const {
  std::vector<std::string> sentences;
  const auto now = options();
  for (const auto& preload : now->preloads) {
    const auto id = weights::CheckpointId::parse(preload.checkpoint);
    if (!id) {
      sentences.push_back(fmt::format("preload {}: {}", preload.checkpoint, id.error().sentence));
      continue;
    }
    const auto view = parts_.catalogue.view(*id);
    if (view && view->state == catalogue::State::resident) continue;
    if (const auto error = last_load_error(*id))
      sentences.push_back(fmt::format("preload {} failed: {}", preload.checkpoint, error->sentence));
    else
      sentences.push_back(fmt::format("preload {} is {}", preload.checkpoint,
                                      view ? catalogue::name_of(view->state) : "about to begin"));
  }
  return sentences;
}

/// Also of a load that failed before the catalogue knew of it: its directory may be missing.
std::optional<Error> Service::last_load_error(const weights::CheckpointId& id) const {
  for (const auto& record : parts_.jobs.list())
    if (record.kind == "load" && record.subject == id.show()) return record.error;
  return std::nullopt;
}

}  // namespace ckptd::operations
