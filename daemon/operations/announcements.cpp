// What happens, told to whoever subscribed.
//
// Jobs tell of themselves. Engines and versions are compared with what was told last, each time that the journal, the
// catalogue or a claim on an engine has changed: so nothing that changes them has to remember to tell.
#include "daemon/operations/service.h"
#include "daemon/operations/show.h"

namespace ckptd::operations {
namespace {

using Kind = api::Event::Kind;

Kind kind_of(jobs::Change change) {
  switch (change) {
    case jobs::Change::started: return Kind::job_started;
    case jobs::Change::progressed: return Kind::job_progress;
    case jobs::Change::ended: return Kind::job_ended;
  }
  return Kind::job_progress;
}

bool is_same(const api::Engine& a, const api::Engine& b) { return a == b; }

/// Leases come and go with jobs, which tell of themselves.
bool is_same(const api::Version& a, const api::Version& b) {
  return a.state == b.state && a.kept == b.kept && a.since == b.since && a.job == b.job && a.identity == b.identity;
}

/// Tells how `now` differs from `told`, and remembers it.
template <class Key, class Value>
void tell_differences(std::map<Key, Value>& told, std::map<Key, Value> now, Kind changed, Kind removed,
                      const Listeners<const api::Event&>& listeners) {
  for (const auto& [key, value] : told)
    if (!now.contains(key)) listeners.tell({removed, value});
  for (const auto& [key, value] : now)
    if (auto before = told.find(key); before == told.end() || !is_same(before->second, value))
      listeners.tell({changed, value});
  told = std::move(now);
}

}  // namespace

Subscription Service::subscribe(std::function<void(const api::Event&)> listener) {
  struct Both {
    Subscription changes, jobs;
  };
  auto both = std::make_shared<Both>();
  both->changes = listeners_.add(listener);
  both->jobs = parts_.jobs.observe([this, listener](jobs::Change change, const jobs::Record& record) {
    // What an ended job answers when it is asked for alone: its record is kept before it ends.
    listener({kind_of(change), change == jobs::Change::ended ? with_record(show(record)) : show(record)});
  });
  return both;
}

void Service::announce() {
  std::scoped_lock lock(announcing_);
  announce_engines();
  announce_versions();
}

void Service::announce_engines() {
  std::map<std::string, api::Engine> now;
  for (auto& engine : engines()) now.emplace(engine.name, engine);
  tell_differences(told_engines_, std::move(now), Kind::engine_changed, Kind::engine_removed, listeners_);
}

void Service::announce_versions() {
  std::map<std::pair<std::string, std::string>, api::Version> now;
  for (auto& version : versions()) now.emplace(std::pair(version.name, version.version), version);
  tell_differences(told_versions_, std::move(now), Kind::version_changed, Kind::version_removed, listeners_);
}

}  // namespace ckptd::operations
