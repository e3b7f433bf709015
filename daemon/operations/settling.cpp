#include "daemon/operations/settling.h"

#include "common/units.h"

namespace ckptd::operations {

std::vector<std::string> missing_receipts(const EnginePush& push, const pipeline::Report& report) {
  std::vector<std::string> sentences;
  for (std::size_t i = 0; i < report.lanes.size(); ++i) {
    if (report.lanes[i].receipt != pipeline::LaneReport::Receipt::missing || !report.holds[i]) continue;
    sentences.push_back(fmt::format(
        "the rank on {} (pid {}) has all weights but gave no receipt for the arena within {}: {}. {}",
        report.lanes[i].device, report.lanes[i].pid,
        show_seconds(std::chrono::duration<double>(push.options->deadlines.receipt).count()), report.holds[i]->why(),
        push.options->receipt_required ? "The arena is in quarantine until it does or its process ends"
                                       : "push.receipt is advisory, so the arena is used again"));
  }
  return sentences;
}

void settle_arenas(const EnginePush& push, bool pushed, const pipeline::Report& report,
                   std::vector<pipeline::ArenaLoan>& arenas) {
  for (std::size_t i = 0; i < arenas.size(); ++i) {
    const auto& hold = report.holds[i];
    // Without an acknowledgement to believe, of this lane or of all, advisory is as required.
    const bool counts = push.options->receipt_required || !pushed || !report.lanes[i].finished;
    if (hold && counts && !hold->let_go())
      std::move(arenas[i]).quarantine(hold, pushed);
    else if (pushed)
      std::move(arenas[i]).give_back();
  }
  arenas.clear();  // frees what is left: nobody maps it, or a mapping keeps it
}

}  // namespace ckptd::operations
