// What the daemon tells of its own accord: GET /v1/events and GET /v1/jobs/{id}/events.
//
// An event is a kind and one of the API's values as it is after the change. On the wire it is server-sent
// (text/event-stream, as the HTML standard defines it): an id to go on from, a name, and the value's JSON as one line.
// Everything here is pure; sockets are the business of daemon/control and ctl/.
#pragma once

#include <cstddef>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <variant>

#include "common/result.h"
#include "proto/control/api.h"

namespace ckptd::proto::control {

struct Event {
  enum class Kind {
    job_started,
    job_progress,     ///< may be left out when another follows soon
    job_ended,        ///< with its outcome
    engine_changed,   ///< also when it was added
    engine_removed,   ///< as it was last
    version_changed,  ///< also when it was first heard of
    version_removed,  ///< forgotten; as it was last
  };
  Kind kind = Kind::job_progress;
  std::variant<Job, Engine, Version> about;
};

std::string_view name_of(Event::Kind kind);  ///< "job-started", ...
nlohmann::json data_of(const Event& event);  ///< as GET of the same thing answers

/// The event of this name and data. Nothing for a name that this version does not know; corrupt when the data is not
/// what the name promises.
Result<std::optional<Event>> parse_event(std::string_view name, const nlohmann::json& data);

/// Two events that are about the stream itself.
inline constexpr std::string_view kMissed = "missed";    ///< {"sentence":"...","events":N}: some were lost
inline constexpr std::string_view kClosing = "closing";  ///< {"sentence":"..."}: the daemon ends, and this stream with it

/// One event as it travels. `name` and `id` are one line.
struct WireEvent {
  std::string id;  ///< empty when written: none. When read: the last one that the stream gave
  std::string name;
  std::string data;
};

std::string to_wire(const WireEvent& event);

/// Cuts a stream into events, in pieces of any size. Comments and fields that nobody knows are skipped.
class EventReader {
 public:
  explicit EventReader(std::size_t limit_bytes = 64 << 20) : limit_bytes_(limit_bytes) {}

  /// corrupt when one event has more bytes than the limit; the reader is used no further then.
  Result<> feed(std::string_view bytes);
  std::optional<WireEvent> next();

  const std::string& last_id() const { return last_id_; }

 private:
  std::optional<std::string> next_line();
  void take_field(std::string_view line);

  std::size_t limit_bytes_;
  std::string bytes_;         ///< not yet cut into lines
  std::size_t searched_ = 0;  ///< of bytes_: no end of a line before
  bool at_start_ = true, after_cr_ = false;
  std::string last_id_, name_, data_;
  bool has_data_ = false;
};

}  // namespace ckptd::proto::control
