// Each instant of a push, to the one reason why a lane was not further. Pure.
//
//   steps    ping arena plan open | push ......................................... | answer
//   engine   ====                 | ####### until the first rank has connected     | ######
//   lane 0                        | connect ++++ reload reload .. reload release finish
//   lane 1                        | connect +++++++++++ reload .. upload reload release finish
//
// Inside the push a lane is judged from its end: while its rank loads a bucket, the rank bounds it, whatever else goes
// on; while it does not, whoever keeps it from that does: the upload, with a broadcast another rank that has not let go
// yet, or ckptd itself.
#pragma once

#include <array>
#include <string_view>
#include <vector>

#include "daemon/records/accounts.h"

namespace ckptd::records {

enum class Reason {
  engine,      ///< the engine: to answer a ping, to bring its first rank, to confirm
  connect,     ///< a rank to connect, while others already have
  upload,      ///< the copies to the device
  reload,      ///< the rank to load a bucket
  collective,  ///< in lockstep, the rank of another lane to load its bucket
  finish,      ///< the rank to let go of the arena and to process its weights
  others,      ///< this lane was done and others were not
  overhead,    ///< ckptd's own steps: arena, plan, endpoints, journal, and gaps
  other,       ///< nothing was measured that accounts for it
};
std::string_view name_of(Reason reason);

struct Blame {
  static constexpr int kNobody = -1;

  Reason reason = Reason::other;
  int lane = kNobody;  ///< whose rank or device was waited for
  double seconds = 0;
};

inline constexpr std::string_view kPushStep = "push", kReceiptStep = "receipt";

/// For each lane of the account, what its time from account.begin to account.end went to; longest first. The seconds of
/// each lane add up to the account's.
std::vector<std::vector<Blame>> attribute(const PushAccount& account);

/// The lane whose last span ended last: what held it up held up the update. 0 when none has spans.
std::size_t last_lane(const PushAccount& account);

/// Seconds in which at least one span of this kind was under way.
double busy_seconds(const pipeline::LaneReport& lane, pipeline::Span::What what);

}  // namespace ckptd::records
