// Memory for a load: who leaves, what is held once, and what status says of it.
#include <spdlog/spdlog.h>

#include <algorithm>
#include <optional>

#include "common/units.h"
#include "daemon/catalogue/fold.h"
#include "daemon/operations/service.h"

namespace ckptd::operations {
namespace {

std::vector<std::string> engines_of(const journal::Contents& journal, const std::string& version) {
  std::vector<std::string> names;
  for (const auto& engine : journal.engines)
    if ((engine.target && engine.target->id == version) || (engine.serving && engine.serving->id == version))
      names.push_back(engine.name);
  return names;
}

std::vector<Holder::Segment> segments_of(const catalogue::View& view) {
  std::vector<Holder::Segment> segments;
  for (const auto& segment : view.segments) segments.push_back({segment.number, segment.holders});
  return segments;
}

std::string show_unused_for(const catalogue::View& view) {
  const auto unused = std::chrono::system_clock::now() - view.last_use;
  return show_seconds(std::max(0.0, std::chrono::duration<double>(unused).count()));
}

}  // namespace

/// The catalogue first: whoever becomes an engine's target after that was used meanwhile, and is not evicted unseen.
std::vector<Holder> Service::holders() const {
  const auto views = parts_.catalogue.list();
  const auto journal = parts_.journal.contents();
  std::vector<Holder> holders;
  for (const auto& view : views)
    if (view.state == catalogue::State::resident)
      holders.push_back({view.id, segments_of(view), view.use, view.kept, view.leased_by,
                         engines_of(journal, view.id.show())});
  return holders;
}

store::MakeRoom Service::make_room(const Wanted& wanted, const weights::CheckpointId& id,
                                   const std::string& job, std::vector<Evicted>& evicted) {
  return [this, &wanted, id, job, &evicted](std::uint64_t missing, const Error& refusal) -> Result<> {
    const auto policy = wanted.resource ? api::LoadPolicy::resource : api::LoadPolicy::availability;
    const Need need{id, missing, parts_.store.segment_bytes(), policy};
    for (int tries = 0;; ++tries) {
      std::lock_guard nobody_compares(comparing_);
      const auto all = holders();
      const auto leaving = CKPTD_TRY(choose_who_leaves(need, all, refusal));
      std::vector<catalogue::Catalogue::Seen> seen;
      std::vector<catalogue::View> views;
      for (const auto& each : leaving) {
        seen.push_back({all[each.holder].id, all[each.holder].use});
        if (auto view = parts_.catalogue.view(all[each.holder].id)) views.push_back(*std::move(view));
      }
      if (auto gone = parts_.catalogue.evict_unused(seen); !gone) {
        if (tries == 10) return std::unexpected(gone.error().within("making room for " + id.show()));
        continue;  // somebody has used one of them meanwhile: it may be another's turn
      }
      for (std::size_t i = 0; i < leaving.size() && i < views.size(); ++i) {
        const auto& view = views[i];
        evicted.push_back({view.id, view.source_uri});
        spdlog::info("{}: {} ({}) {} to make room for {}; its last use was {} ago", job, view.id.show(),
                     show_bytes(view.store_bytes),
                     leaving[i].given_over ? "was given over, though engines still have it," : "was evicted", id.show(),
                     show_unused_for(view));
        if (!leaving[i].given_over) continue;
        std::lock_guard lock(mutex_);
        std::erase_if(handovers_, [&](const Handover& old) { return old.given == view.id; });
        handovers_.push_back({view.id, view.source_uri, id, job});
      }
      return {};
    }
  };
}

Result<> Service::fold(catalogue::Contents& contents, jobs::Handle& job) {
  const auto start = Clock::now();
  job.stage("looking for what other versions have as well");
  std::optional<catalogue::Fold> fold;
  {
    std::lock_guard lock(comparing_);
    const auto leases = parts_.catalogue.lease_all(job.id());
    std::vector<const catalogue::Contents*> resident;
    for (const auto& lease : leases) resident.push_back(&*lease);
    fold = catalogue::plan_fold(contents, resident);
  }
  if (!fold) return {};
  job.stage("moving the rest together");
  const auto shared_bytes = fold->shared_bytes, freed_segments = fold->freed_segments, moved_bytes = fold->own_bytes;
  CKPTD_TRY(catalogue::carry_out(*std::move(fold), contents, job.stop()));
  const auto seconds = std::chrono::duration<double>(Clock::now() - start).count();
  job.took({"fold", seconds, moved_bytes});
  spdlog::info("{}: {} are held together with other versions, {} own moved together in {}: {} are free again", job.id(),
               show_bytes(shared_bytes), show_bytes(moved_bytes), show_seconds(seconds),
               show_bytes(freed_segments * parts_.store.segment_bytes()));
  return {};
}

std::vector<std::string> Service::handover_notes() const {
  const auto journal = parts_.journal.contents();
  const auto resident = [&](const weights::CheckpointId& id) {
    const auto view = parts_.catalogue.view(id);
    return view && view->state == catalogue::State::resident;
  };
  std::lock_guard lock(mutex_);
  std::vector<std::string> notes;
  std::erase_if(handovers_, [&](const Handover& handover) {
    const auto job = parts_.jobs.find(handover.job);
    const bool running = job && job->state == jobs::State::running;
    const auto arrival = running ? Arrival::loading : resident(handover.to) ? Arrival::resident : Arrival::missing;
    if (resident(handover.given)) return true;
    auto note = handover_note(handover, arrival, engines_of(journal, handover.given.show()));
    if (note) notes.push_back(*note);
    return !note;
  });
  return notes;
}

}  // namespace ckptd::operations
