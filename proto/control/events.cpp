#include "proto/control/events.h"

#include <algorithm>
#include <nlohmann/json.hpp>

namespace ckptd::proto::control {
namespace {

/// What would end a field early becomes a blank.
std::string one_line(std::string text) {
  std::ranges::replace_if(text, [](char c) { return c == '\n' || c == '\r' || c == '\0'; }, ' ');
  return text;
}

constexpr std::string_view kMark = "\xef\xbb\xbf";  // of byte order, which may begin a stream

}  // namespace

std::string_view name_of(Event::Kind kind) {
  switch (kind) {
    case Event::Kind::job_started: return "job-started";
    case Event::Kind::job_progress: return "job-progress";
    case Event::Kind::job_ended: return "job-ended";
    case Event::Kind::engine_changed: return "engine-changed";
    case Event::Kind::engine_removed: return "engine-removed";
    case Event::Kind::version_changed: return "version-changed";
    case Event::Kind::version_removed: return "version-removed";
  }
  return "unknown";
}

nlohmann::json data_of(const Event& event) {
  return std::visit([](const auto& value) { return to_json(value); }, event.about);
}

Result<std::optional<Event>> parse_event(std::string_view name, const nlohmann::json& data) {
  for (int number = 0; number <= static_cast<int>(Event::Kind::version_removed); ++number) {
    const auto kind = static_cast<Event::Kind>(number);
    if (name_of(kind) != name) continue;
    if (name.starts_with("job-")) return Event{kind, CKPTD_TRY(parse_job(data))};
    if (name.starts_with("engine-")) return Event{kind, CKPTD_TRY(parse_engine(data))};
    return Event{kind, CKPTD_TRY(parse_version(data))};
  }
  return std::nullopt;
}

std::string to_wire(const WireEvent& event) {
  std::string text;
  if (!event.id.empty()) text += fmt::format("id: {}\n", one_line(event.id));
  if (!event.name.empty()) text += fmt::format("event: {}\n", one_line(event.name));
  std::string_view rest = event.data;
  for (;;) {
    auto end = rest.find_first_of("\r\n");
    text += fmt::format("data: {}\n", rest.substr(0, end));
    if (end == rest.npos) return text + "\n";
    rest.remove_prefix(rest.substr(end).starts_with("\r\n") ? end + 2 : end + 1);
  }
}

Result<> EventReader::feed(std::string_view bytes) {
  if (bytes_.size() + data_.size() + bytes.size() > limit_bytes_)
    return fail(ErrorKind::corrupt, "an event has more than {} bytes", limit_bytes_);
  bytes_ += bytes;
  return {};
}

/// A line ends with LF, CR or CR LF; the LF of the last may come later.
std::optional<std::string> EventReader::next_line() {
  if (after_cr_ && !bytes_.empty()) {
    if (bytes_.front() == '\n') bytes_.erase(0, 1);
    after_cr_ = false;
  }
  if (at_start_) {
    if (bytes_.size() < kMark.size() && kMark.starts_with(bytes_)) return std::nullopt;
    if (bytes_.starts_with(kMark)) bytes_.erase(0, kMark.size());
    at_start_ = false;
  }
  auto end = bytes_.find_first_of("\r\n", searched_);
  searched_ = end == bytes_.npos ? bytes_.size() : 0;
  if (end == bytes_.npos) return std::nullopt;
  after_cr_ = bytes_[end] == '\r';
  auto line = bytes_.substr(0, end);
  bytes_.erase(0, end + 1);
  return line;
}

void EventReader::take_field(std::string_view line) {
  auto colon = line.find(':');
  auto field = line.substr(0, colon);
  auto value = colon == line.npos ? std::string_view() : line.substr(colon + 1);
  if (value.starts_with(' ')) value.remove_prefix(1);
  if (field == "event") {
    name_ = value;
  } else if (field == "data") {
    if (has_data_) data_ += '\n';
    data_ += value;
    has_data_ = true;
  } else if (field == "id" && value.find('\0') == value.npos) {
    last_id_ = value;
  }
}

std::optional<WireEvent> EventReader::next() {
  while (auto line = next_line()) {
    if (!line->empty()) {
      take_field(*line);
      continue;
    }
    WireEvent event{last_id_, std::exchange(name_, {}), std::exchange(data_, {})};
    if (std::exchange(has_data_, false)) return event;
  }
  return std::nullopt;
}

}  // namespace ckptd::proto::control
