#include "proto/control/outcome.h"

#include <array>

namespace ckptd::proto::control {
namespace {

constexpr std::array kOutcomes{
    Outcome{ErrorKind::invalid_argument, 400, 3, "the request is wrong"},
    Outcome{ErrorKind::denied, 403, 4, "not allowed"},
    Outcome{ErrorKind::not_found, 404, 5, "nothing of that name"},
    Outcome{ErrorKind::conflict, 409, 6, "contradicts what is there; repeating does not help"},
    Outcome{ErrorKind::busy, 409, 7, "in use; try again later"},
    Outcome{ErrorKind::corrupt, 422, 8, "bytes contradict their own description"},
    Outcome{ErrorKind::unsupported, 422, 9, "nothing here can carry it out"},
    Outcome{ErrorKind::no_space, 507, 10, "a budget or limit is exhausted"},
    Outcome{ErrorKind::peer_failed, 502, 11, "a rank or an engine failed"},
    Outcome{ErrorKind::partial, 502, 16, "some engines were updated and others not"},
    Outcome{ErrorKind::timed_out, 504, 12, "somebody missed a deadline"},
    Outcome{ErrorKind::cancelled, 410, 13, "cancelled"},
    Outcome{ErrorKind::unavailable, 503, 14, "not reachable, or shutting down"},
    Outcome{ErrorKind::io, 500, 15, "the operating system refused"},
    Outcome{ErrorKind::internal, 500, 70, "a bug of ours"},
};

}  // namespace

std::span<const Outcome> outcomes() { return kOutcomes; }

const Outcome& outcome_of(ErrorKind kind) {
  for (const auto& outcome : kOutcomes)
    if (outcome.kind == kind) return outcome;
  return kOutcomes.back();
}

}  // namespace ckptd::proto::control
