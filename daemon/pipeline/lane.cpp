#include "daemon/pipeline/lane.h"

#include <array>
#include <exception>
#include <utility>

#include "common/waker.h"
#include "daemon/pipeline/joint_hold.h"

namespace ckptd::pipeline {
namespace {

/// A lane from its rank's first session to the engine's answer.
class LaneRun {
 public:
  LaneRun(Lane& lane, Together& together, LaneReport& report, std::shared_ptr<ranks::Hold>& hold)
      : lane_(lane), all_(together), report_(report), hold_(hold) {}

  Result<> run() {
    report_.device = lane_.device->identity().uuid;
    CKPTD_TRY(first_session());
    if (all_.sessions == 0 && !all_.answered.stop_possible()) return {};
    auto waker = CKPTD_TRY(Waker::create());
    std::stop_callback on_stop(all_.stopped(), [&] { waker.wake(); });
    std::stop_callback on_answer(all_.answered, [&] { waker.wake(); });
    while (report_.sessions != all_.sessions) {
      if (!CKPTD_TRY(rank_returned(waker))) return all_.sessions == 0 ? end_without_return() : did_not_return();
      CKPTD_TRY(further_session());
    }
    end_of_told_sessions();
    return {};
  }

 private:
  Result<> first_session() {
    auto outcome = run_session(lane_, all_, lane_.member.get(), report_, all_.progress);
    all_.end_session(true);
    if (!outcome) return outcome;
    note_end();
    return {};
  }

  /// Counted nowhere but in the number of sessions: what bounds an update is told of the session that every rank has.
  Result<> further_session() {
    all_.begin_session(false);
    report_.finished = false;
    LaneReport report;
    report.device = report_.device;
    Progress progress;
    auto outcome = run_session(lane_, all_, nullptr, report, progress);
    all_.end_session(false);
    if (!outcome) return outcome;
    report_.finished = true;
    note_end();
    return {};
  }

  void note_end() {
    ++report_.sessions;
    hold_ = joined(std::move(hold_), lane_.session->hold());
    if (hold_) report_.receipt = LaneReport::Receipt::missing;  // until somebody looks
  }

  /// False when the engine has answered, or by when it should have. A rank that is here comes first.
  Result<bool> rank_returned(const Waker& waker) {
    const std::array wakers{waker.fd()};
    for (;;) {
      const auto deadline = all_.answer_deadline();
      if (deadline.passed()) return false;
      const auto woken = lane_.session->wait_again(wakers, deadline);
      if (!woken && woken.error().kind != ErrorKind::timed_out) return std::unexpected(woken.error());
      if (!woken) continue;  // the deadline has moved, or passed
      if (*woken == ranks::Session::Woken::acknowledged) return true;
      CKPTD_TRY(all_.check_stop());
      if (all_.answered.stop_requested()) return false;
    }
  }

  /// The rank is well either way, and what the engine says is for others to judge. While its call is open it may come back
  /// all the same, and must not wait where nobody is.
  Result<> end_without_return() {
    if (!all_.answered.stop_requested())
      lane_.session->fail({ErrorKind::timed_out, "its engine had not answered in time, and the update has ended without it"});
    else if (report_.sessions < all_.told_sessions)
      lane_.session->retire({ErrorKind::peer_failed,
                             fmt::format("its engine had answered before its session {} of {}, and the update is over",
                                         report_.sessions + 1, all_.told_sessions)});
    return {};
  }

  /// Nobody hears whether the engine has answered: with a model more than was said its ranks come once more.
  void end_of_told_sessions() {
    lane_.session->retire({ErrorKind::invalid_argument,
                           fmt::format("it was told of {} of each rank, and this is another: say as many sessions as the "
                                       "engine opens, one and one more for each draft model",
                                       all_.sessions == 1 ? "1 session" : fmt::format("{} sessions", all_.sessions))});
  }

  Result<> did_not_return() const {
    return fail(ErrorKind::timed_out,
                "the rank of {} (pid {}) had {} of {} sessions and did not come back for the next within {} ms: does its "
                "engine open so many?",
                report_.device, report_.pid, report_.sessions, all_.sessions, all_.deadlines.answer.count());
  }

  Lane& lane_;
  Together& all_;
  LaneReport& report_;
  std::shared_ptr<ranks::Hold>& hold_;
};

}  // namespace

void run_lane(Lane& lane, Together& together, LaneReport& report, std::shared_ptr<ranks::Hold>& hold) {
  const auto outcome = [&]() -> Result<> {
    try {
      return LaneRun(lane, together, report, hold).run();
    } catch (const std::exception& error) {  // of memory, most likely; the rank has to be told as of any failure
      return fail(ErrorKind::internal, "the update could not go on: {}", error.what());
    }
  }();
  if (outcome) return;
  together.failed(outcome.error());
  const Error reason = *together.first_error();
  if (together.offers.is_open())
    lane.session->fail(reason);
  else
    lane.session->discard();
  if (!report.finished) hold = joined(std::move(hold), lane.session->hold());
}

}  // namespace ckptd::pipeline
