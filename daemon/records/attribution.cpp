#include "daemon/records/attribution.h"

#include <algorithm>
#include <optional>

namespace ckptd::records {
namespace {

using What = pipeline::Span::What;
constexpr std::size_t kKinds = 6;
static_assert(static_cast<std::size_t>(What::receipt) + 1 == kKinds);

constexpr std::size_t index_of(What what) { return static_cast<std::size_t>(what); }

/// A span begins (+1) or ends (-1).
struct Edge {
  Clock::time_point at;
  std::size_t lane = 0;
  What what = What::connect;
  int change = 0;
};

std::vector<Edge> edges_of(const PushAccount& account) {
  std::vector<Edge> edges;
  for (std::size_t lane = 0; lane < account.lanes.size(); ++lane)
    for (const auto& span : account.lanes[lane].spans) {
      const auto begin = std::clamp(span.begin, account.begin, account.end);
      const auto end = std::clamp(span.end, account.begin, account.end);
      if (begin >= end) continue;
      edges.push_back({begin, lane, span.what, +1});
      edges.push_back({end, lane, span.what, -1});
    }
  std::ranges::sort(edges, {}, &Edge::at);
  return edges;
}

/// Edges of spans, and places where the judgement changes without one.
std::vector<Clock::time_point> cuts_of(const PushAccount& account, const std::vector<Edge>& edges) {
  std::vector<Clock::time_point> cuts{account.begin, account.end};
  for (const auto& step : account.steps.all())
    for (const auto at : {step.begin, step.end}) cuts.push_back(std::clamp(at, account.begin, account.end));
  for (const auto& edge : edges) cuts.push_back(edge.at);
  std::ranges::sort(cuts);
  const auto doubled = std::ranges::unique(cuts);
  cuts.erase(doubled.begin(), doubled.end());
  return cuts;
}

bool had_connected(const pipeline::LaneReport& lane) {
  return lane.pid != 0 ||
         std::ranges::any_of(lane.spans, [](const auto& span) { return span.what == What::reload; });
}

std::optional<Clock::time_point> first_connection(const PushAccount& account) {
  std::optional<Clock::time_point> first;
  for (const auto& lane : account.lanes) {
    if (!had_connected(lane)) continue;
    for (const auto& span : lane.spans)
      if (span.what == What::connect && (!first || span.end < *first)) first = span.end;
  }
  return first;
}

std::optional<Clock::time_point> last_end(const pipeline::LaneReport& lane) {
  std::optional<Clock::time_point> last;
  for (const auto& span : lane.spans)
    if (!last || span.end > *last) last = span.end;
  return last;
}

Reason reason_of_step(std::string_view name) {
  return name == "ping" || name == "pause" || name == "answer" ? Reason::engine : Reason::overhead;
}

/// Walks along the account's time for one lane.
class Walk {
 public:
  Walk(const PushAccount& account, const std::vector<Edge>& edges, const std::vector<Clock::time_point>& cuts)
      : account_(account),
        edges_(edges),
        cuts_(cuts),
        lockstep_(account.fan_out == "broadcast"),
        first_connection_(first_connection(account)),
        last_lane_(last_lane(account)) {}

  std::vector<Blame> along(std::size_t lane) {
    lane_ = lane;
    end_ = lane < account_.lanes.size() ? last_end(account_.lanes[lane]) : std::nullopt;
    active_.assign(account_.lanes.size(), {});
    blames_.clear();
    std::size_t edge = 0;
    for (std::size_t i = 0; i + 1 < cuts_.size(); ++i) {
      for (; edge < edges_.size() && edges_[edge].at <= cuts_[i]; ++edge)
        active_[edges_[edge].lane][index_of(edges_[edge].what)] += edges_[edge].change;
      add(judge(cuts_[i]), seconds_between(cuts_[i], cuts_[i + 1]));
    }
    std::ranges::stable_sort(blames_, std::ranges::greater{}, &Blame::seconds);
    return std::move(blames_);
  }

 private:
  bool active(std::size_t lane, What what) const { return active_[lane][index_of(what)] > 0; }

  /// Another lane with such a span under way.
  std::optional<int> another(What what) const {
    for (std::size_t lane = 0; lane < active_.size(); ++lane)
      if (lane != lane_ && active(lane, what)) return static_cast<int>(lane);
    return std::nullopt;
  }

  /// The innermost: a journal entry that is written in the middle of the push is its own step.
  const Step* step_at(Clock::time_point at) const {
    const Step* inner = nullptr;
    for (const auto& step : account_.steps.all())
      if (step.begin <= at && at < step.end && (!inner || step.begin >= inner->begin)) inner = &step;
    return inner;
  }

  Blame judge(Clock::time_point at) const {
    const auto* step = step_at(at);
    if (!step) return {Reason::overhead};
    if (step->name == kReceiptStep)
      return active(lane_, What::receipt) ? Blame{Reason::finish, static_cast<int>(lane_)} : Blame{Reason::others};
    if (step->name != kPushStep) return {reason_of_step(step->name)};
    if (!end_) return {account_.connected == 0 ? Reason::engine : Reason::other};
    return judge_push(at);
  }

  Blame judge_push(Clock::time_point at) const {
    const auto self = static_cast<int>(lane_);
    const bool some_rank_is_there = first_connection_ && at >= *first_connection_;
    if (active(lane_, What::connect))
      return some_rank_is_there ? Blame{Reason::connect, self} : Blame{Reason::engine};
    if (active(lane_, What::reload)) return {Reason::reload, self};
    if (active(lane_, What::release) || active(lane_, What::finish))
      return {Reason::finish, self};
    if (lockstep_) {
      if (const auto late = another(What::connect)) return {Reason::connect, *late};
      if (const auto slow = another(What::reload); slow && at < *end_) return {Reason::collective, *slow};
    }
    if (active(lane_, What::upload)) return {Reason::upload, self};
    if (at >= *end_ && lane_ != last_lane_) return {Reason::others};
    return {Reason::overhead};
  }

  void add(Blame blame, double seconds) {
    auto same = std::ranges::find_if(
        blames_, [&](const Blame& each) { return each.reason == blame.reason && each.lane == blame.lane; });
    if (same == blames_.end()) same = blames_.insert(blames_.end(), blame);
    same->seconds += seconds;
  }

  const PushAccount& account_;
  const std::vector<Edge>& edges_;
  const std::vector<Clock::time_point>& cuts_;
  const bool lockstep_;
  const std::optional<Clock::time_point> first_connection_;
  const std::size_t last_lane_;
  std::size_t lane_ = 0;
  std::optional<Clock::time_point> end_;  ///< of the lane's last span
  std::vector<std::array<int, kKinds>> active_;  ///< spans under way, by lane and kind
  std::vector<Blame> blames_;
};

}  // namespace

std::string_view name_of(Reason reason) {
  switch (reason) {
    case Reason::engine: return "engine";
    case Reason::connect: return "connect";
    case Reason::upload: return "upload";
    case Reason::reload: return "reload";
    case Reason::collective: return "collective";
    case Reason::finish: return "finish";
    case Reason::others: return "others";
    case Reason::overhead: return "overhead";
    case Reason::other: break;
  }
  return "other";
}

std::size_t last_lane(const PushAccount& account) {
  std::size_t last = 0;
  std::optional<Clock::time_point> at;
  for (std::size_t lane = 0; lane < account.lanes.size(); ++lane)
    if (const auto end = last_end(account.lanes[lane]); end && (!at || *end > *at)) {
      at = end;
      last = lane;
    }
  return last;
}

double busy_seconds(const pipeline::LaneReport& lane, What what) {
  std::vector<std::pair<Clock::time_point, Clock::time_point>> spans;
  for (const auto& span : lane.spans)
    if (span.what == what && span.begin < span.end) spans.emplace_back(span.begin, span.end);
  std::ranges::sort(spans);
  double sum = 0;
  std::optional<Clock::time_point> covered;  // everything before it has been counted
  for (const auto& [begin, end] : spans) {
    const auto from = covered ? std::max(begin, *covered) : begin;
    sum += seconds_between(from, end);
    covered = covered ? std::max(end, *covered) : end;
  }
  return sum;
}

std::vector<std::vector<Blame>> attribute(const PushAccount& account) {
  const auto edges = edges_of(account);
  const auto cuts = cuts_of(account, edges);
  Walk walk(account, edges, cuts);
  std::vector<std::vector<Blame>> lanes;
  for (std::size_t lane = 0; lane < std::max<std::size_t>(1, account.lanes.size()); ++lane)
    lanes.push_back(walk.along(lane));
  return lanes;
}

}  // namespace ckptd::records
