#include "daemon/journal/state_json.h"

#include <algorithm>
#include <exception>
#include <initializer_list>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>

#include "common/utf8.h"

namespace ckptd::journal {
namespace {

using Json = nlohmann::ordered_json;

// Inside this file a fault of the text travels as an exception, as the library's own do; from_json() ends them.
struct Fault {
  Error error;
};

template <class... Args>
[[noreturn]] void refuse(fmt::format_string<Args...> text, Args&&... args) {
  throw Fault{Error{ErrorKind::corrupt, fmt::format(text, std::forward<Args>(args)...)}};
}

constexpr std::string_view kOpening = "opening", kPushing = "pushing";

template <class Record>
Json array_of(const std::vector<Record>& records, Json (*one)(const Record&)) {
  Json array = Json::array();
  for (const auto& record : records) array.push_back(one(record));
  return array;
}

Json version_json(const VersionRecord& version) {
  Json json = {{"id", version.id}, {"identity", version.identity}, {"schema", version.schema}};
  if (!version.weight_version.empty()) json["weight_version"] = version.weight_version;
  if (version.forced) json["forced"] = true;
  return json;
}

Json session_json(const SessionRecord& session) {
  Json json = {{"endpoint", session.endpoint}, {"device", session.device}};
  if (session.retired) json["retired"] = true;
  return json;
}

Json engine_json(const EngineRecord& engine) {
  Json json = {{"name", engine.name},
               {"kind", engine.kind},
               {"endpoint", engine.endpoint},
               {"checkpoint", engine.checkpoint},
               {"devices", Json(engine.devices)}};
  if (engine.target) json["target"] = version_json(*engine.target);
  if (engine.serving) json["serving"] = version_json(*engine.serving);
  json["poisoned"] = engine.poisoned;
  const EngineRecord usual;
  if (engine.follow != usual.follow) json["follow"] = engine.follow;
  if (engine.wake != usual.wake) json["wake"] = engine.wake;
  if (engine.previous) json["previous"] = version_json(*engine.previous);
  if (engine.listener) json["listener"] = {{"pid", engine.listener->pid}, {"started", engine.listener->started}};
  if (!engine.label.empty()) json["label"] = engine.label;
  if (!engine.lost.empty()) json["lost"] = engine.lost;
  if (engine.changed_by_others) json["changed_by_others"] = true;
  if (engine.given_asleep) json["given_asleep"] = true;
  if (engine.drained) json["drained"] = true;
  if (engine.pause != usual.pause) json["pause"] = engine.pause;
  if (engine.flush_cache != usual.flush_cache) json["flush_cache"] = engine.flush_cache;
  if (engine.on_failure != usual.on_failure) json["on_failure"] = engine.on_failure;
  if (!engine.paused.empty()) json["paused"] = engine.paused;
  if (engine.held) json["held"] = true;
  if (!engine.api_key_file.empty()) json["api_key_file"] = engine.api_key_file;
  if (!engine.admin_key_file.empty()) json["admin_key_file"] = engine.admin_key_file;
  if (engine.transfer != "auto") json["transfer"] = engine.transfer;
  return json;
}

Json update_json(const UpdateRecord& update) {
  return {{"job", update.job},
          {"engine", update.engine},
          {"version", update.version},
          {"phase", update.phase == Phase::pushing ? kPushing : kOpening},
          {"sessions", array_of(update.sessions, session_json)}};
}

/// One value of the document and where it stands, as a JSON pointer.
class Reader {
 public:
  Reader(const Json& json, std::string at, std::int64_t format) : json_(json), at_(std::move(at)), format_(format) {}

  std::int64_t format() const { return format_; }

  const std::string& at() const { return at_; }

  /// This is an object that has these members, perhaps some of the optional ones, and no others.
  void expect_members(std::initializer_list<std::string_view> required,
                      std::initializer_list<std::string_view> optional = {}) const {
    expect(json_.is_object(), "an object");
    auto holds = [](const auto& names, std::string_view name) { return std::ranges::find(names, name) != names.end(); };
    for (const auto& item : json_.items())
      if (!holds(required, item.key()) && !holds(optional, item.key()))
        refuse("at {}: the member '{}' is not one of format {}", place(), shown(item.key()), format_);
    for (auto name : required)
      if (!json_.contains(name)) refuse("at {}: the member '{}' is missing", place(), name);
  }

  Reader member(std::string_view name) const { return {json_.at(name), fmt::format("{}/{}", at_, name), format_}; }

  std::string text(std::string_view name) const { return member(name).text(); }
  std::string text() const {
    expect(json_.is_string(), "a string");
    return json_.get<std::string>();
  }

  std::int64_t integer() const {
    expect(json_.is_number_integer(), "an integer");
    if (json_.is_number_unsigned() && json_.get<std::uint64_t>() > std::numeric_limits<std::int64_t>::max())
      refuse("at {}: the number {} is out of range", place(), json_.get<std::uint64_t>());
    return json_.get<std::int64_t>();
  }

  std::string text_or(std::string_view name, std::string usual) const {
    return json_.contains(name) ? text(name) : std::move(usual);
  }

  bool truth_or(std::string_view name, bool usual) const {
    if (!json_.contains(name)) return usual;
    const auto value = member(name);
    value.expect(value.json_.is_boolean(), "true or false");
    return value.json_.get<bool>();
  }

  template <class Function>
  auto each(Function read) const {
    expect(json_.is_array(), "an array");
    std::vector<decltype(read(*this))> values;
    for (std::size_t i = 0; i < json_.size(); ++i)
      values.push_back(read(Reader(json_[i], fmt::format("{}/{}", at_, i), format_)));
    return values;
  }

  template <class Function>
  auto if_present(std::string_view name, Function read) const {
    std::optional<decltype(read(*this))> value;
    if (json_.contains(name)) value = read(member(name));
    return value;
  }

 private:
  void expect(bool holds, std::string_view what) const {
    if (!holds) refuse("at {}: expected {} and found {}", place(), what, found());
  }
  std::string_view place() const { return at_.empty() ? "the top" : std::string_view(at_); }
  std::string_view found() const { return json_.is_number() ? "another number" : json_.type_name(); }

  const Json& json_;
  std::string at_;
  std::int64_t format_;
};

VersionRecord read_version(const Reader& reader) {
  if (reader.format() == 1)
    reader.expect_members({"id", "identity", "schema"});
  else
    reader.expect_members({"id", "identity", "schema"}, {"weight_version", "forced"});
  return {.id = reader.text("id"),
          .identity = reader.text("identity"),
          .schema = reader.text("schema"),
          .weight_version = reader.text_or("weight_version", {}),
          .forced = reader.truth_or("forced", false)};
}

SessionRecord read_session(const Reader& reader) {
  reader.expect_members({"endpoint", "device"}, {"retired"});
  return {reader.text("endpoint"), reader.text("device"), reader.truth_or("retired", false)};
}

ProcessId read_process(const Reader& reader) {
  reader.expect_members({"pid", "started"});
  const auto pid = reader.member("pid").integer(), started = reader.member("started").integer();
  if (pid < 0 || pid > std::numeric_limits<int>::max()) refuse("at {}/pid: {} is no process", reader.at(), pid);
  if (started < 0) refuse("at {}/started: {} is no moment", reader.at(), started);
  return {static_cast<int>(pid), static_cast<std::uint64_t>(started)};
}

std::string read_wake(const Reader& reader) {
  auto text = reader.text();
  if (text != "none" && text != "weights" && text != "all")
    refuse("at {}: '{}' is not what may be woken; there are none, weights and all", reader.at(), shown(text));
  return text;
}

EngineRecord read_engine(const Reader& reader) {
  if (reader.format() == 1)
    reader.expect_members({"name", "kind", "endpoint", "checkpoint", "devices", "poisoned"}, {"target", "serving"});
  else
    reader.expect_members({"name", "kind", "endpoint", "checkpoint", "devices", "poisoned"},
                          {"target", "serving", "follow", "wake", "previous", "listener", "label", "lost",
                           "changed_by_others", "given_asleep", "drained", "pause", "flush_cache", "on_failure", "paused", "held",
                           "api_key_file", "admin_key_file", "transfer"});
  return {.name = reader.text("name"),
          .kind = reader.text("kind"),
          .endpoint = reader.text("endpoint"),
          .checkpoint = reader.text("checkpoint"),
          .devices = reader.member("devices").each([](const Reader& device) { return device.text(); }),
          .follow = reader.truth_or("follow", true),
          .wake = reader.if_present("wake", read_wake).value_or("none"),
          .target = reader.if_present("target", read_version),
          .serving = reader.if_present("serving", read_version),
          .previous = reader.if_present("previous", read_version),
          .poisoned = reader.text("poisoned"),
          .listener = reader.if_present("listener", read_process),
          .label = reader.text_or("label", {}),
          .lost = reader.text_or("lost", {}),
          .changed_by_others = reader.truth_or("changed_by_others", false),
          .given_asleep = reader.truth_or("given_asleep", false),
          .drained = reader.truth_or("drained", false),
          .pause = reader.text_or("pause", "auto"),
          .flush_cache = reader.truth_or("flush_cache", true),
          .on_failure = reader.text_or("on_failure", "repush"),
          .paused = reader.text_or("paused", {}),
          .held = reader.truth_or("held", false),
          .api_key_file = reader.text_or("api_key_file", {}),
          .admin_key_file = reader.text_or("admin_key_file", {}),
          .transfer = reader.text_or("transfer", "auto")};
}

Phase read_phase(const Reader& reader) {
  auto text = reader.text();
  if (text == kOpening) return Phase::opening;
  if (text == kPushing) return Phase::pushing;
  refuse("at {}: '{}' is not a phase; there are {} and {}", reader.at(), shown(text), kOpening, kPushing);
}

UpdateRecord read_update(const Reader& reader) {
  reader.expect_members({"job", "engine", "version", "phase", "sessions"});
  return {.job = reader.text("job"),
          .engine = reader.text("engine"),
          .version = reader.text("version"),
          .phase = read_phase(reader.member("phase")),
          .sessions = reader.member("sessions").each(read_session)};
}

std::int64_t read_format(const Json& json) {
  if (!json.is_object() || !json.contains("format")) refuse("it has no format number");
  auto format = Reader(json, "", kFormat).member("format").integer();
  if (format > kFormat)
    throw Fault{Error{ErrorKind::unsupported,
                      fmt::format("it has format {}, and this ckptd knows formats up to {}; start the newer ckptd that "
                                  "wrote it, or give this one another state directory",
                                  format, kFormat)}};
  if (format < 1) refuse("{} is not a format number", format);
  return format;
}

Contents read_contents(const Json& json) {
  const auto format = read_format(json);  // first: a newer format may have other members
  Reader reader(json, "", format);
  if (format == 1)
    reader.expect_members({"format", "engines", "updates", "in_custody"});
  else
    reader.expect_members({"format", "engines", "updates", "in_custody"}, {"drained"});
  Contents contents{.engines = reader.member("engines").each(read_engine),
                    .updates = reader.member("updates").each(read_update),
                    .in_custody = reader.member("in_custody").each(read_session),
                    .drained = reader.truth_or("drained", false)};
  std::set<std::string> names;
  for (const auto& engine : contents.engines)
    if (!names.insert(engine.name).second) refuse("at /engines: two engines are named '{}'", shown(engine.name));
  return contents;
}

/// The library lets the last of two equal members win; here they are damage.
class DuplicateFinder {
 public:
  bool operator()(int /*depth*/, Json::parse_event_t event, Json& value) {
    using Event = Json::parse_event_t;
    if (event == Event::object_start) open_.emplace_back();
    if (event == Event::object_end) open_.pop_back();
    if (event == Event::key && !open_.back().insert(value.get<std::string>()).second)
      refuse("the member '{}' stands twice in one object", shown(value.get<std::string>()));
    return true;
  }

 private:
  std::vector<std::set<std::string>> open_;  ///< the names met in each object that has not ended yet
};

}  // namespace

std::string to_json(const Contents& contents) {
  Json json = {{"format", kFormat},
               {"engines", array_of(contents.engines, engine_json)},
               {"updates", array_of(contents.updates, update_json)},
               {"in_custody", array_of(contents.in_custody, session_json)}};
  if (contents.drained) json["drained"] = true;
  return json.dump(1, ' ', false, Json::error_handler_t::replace) + "\n";
}

Result<Contents> from_json(std::string_view text) {
  try {
    DuplicateFinder finder;
    return read_contents(Json::parse(text, std::ref(finder)));
  } catch (const Fault& fault) {
    return std::unexpected(fault.error);
  } catch (const Json::parse_error& error) {
    return std::unexpected(
        Error{ErrorKind::corrupt, fmt::format("byte {} of {} is not what JSON allows there", error.byte, text.size())}
            .with_vendor(error.what()));
  } catch (const std::exception& error) {
    return std::unexpected(Error{ErrorKind::corrupt, "it cannot be read as JSON"}.with_vendor(error.what()));
  }
}

}  // namespace ckptd::journal
