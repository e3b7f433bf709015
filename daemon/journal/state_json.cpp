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
  return {{"id", version.id}, {"identity", version.identity}, {"schema", version.schema}};
}

Json session_json(const SessionRecord& session) { return {{"endpoint", session.endpoint}, {"device", session.device}}; }

Json engine_json(const EngineRecord& engine) {
  Json json = {{"name", engine.name},
               {"kind", engine.kind},
               {"endpoint", engine.endpoint},
               {"checkpoint", engine.checkpoint},
               {"devices", Json(engine.devices)}};
  if (engine.target) json["target"] = version_json(*engine.target);
  if (engine.serving) json["serving"] = version_json(*engine.serving);
  json["poisoned"] = engine.poisoned;
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
  Reader(const Json& json, std::string at) : json_(json), at_(std::move(at)) {}

  const std::string& at() const { return at_; }

  /// This is an object that has these members, perhaps some of the optional ones, and no others.
  void expect_members(std::initializer_list<std::string_view> required,
                      std::initializer_list<std::string_view> optional = {}) const {
    expect(json_.is_object(), "an object");
    auto holds = [](const auto& names, std::string_view name) { return std::ranges::find(names, name) != names.end(); };
    for (const auto& item : json_.items())
      if (!holds(required, item.key()) && !holds(optional, item.key()))
        refuse("at {}: the member '{}' is not one of format {}", place(), shown(item.key()), kFormat);
    for (auto name : required)
      if (!json_.contains(name)) refuse("at {}: the member '{}' is missing", place(), name);
  }

  Reader member(std::string_view name) const { return {json_.at(name), fmt::format("{}/{}", at_, name)}; }

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

  template <class Function>
  auto each(Function read) const {
    expect(json_.is_array(), "an array");
    std::vector<decltype(read(*this))> values;
    for (std::size_t i = 0; i < json_.size(); ++i)
      values.push_back(read(Reader(json_[i], fmt::format("{}/{}", at_, i))));
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
};

VersionRecord read_version(const Reader& reader) {
  reader.expect_members({"id", "identity", "schema"});
  return {reader.text("id"), reader.text("identity"), reader.text("schema")};
}

SessionRecord read_session(const Reader& reader) {
  reader.expect_members({"endpoint", "device"});
  return {reader.text("endpoint"), reader.text("device")};
}

EngineRecord read_engine(const Reader& reader) {
  reader.expect_members({"name", "kind", "endpoint", "checkpoint", "devices", "poisoned"}, {"target", "serving", "api_key_file", "admin_key_file", "transfer"});
  const auto text = [](const Reader& value) { return value.text(); };
  return {.name = reader.text("name"),
          .kind = reader.text("kind"),
          .endpoint = reader.text("endpoint"),
          .checkpoint = reader.text("checkpoint"),
          .devices = reader.member("devices").each(text),
          .target = reader.if_present("target", read_version),
          .serving = reader.if_present("serving", read_version),
          .poisoned = reader.text("poisoned"),
          .api_key_file = reader.if_present("api_key_file", text).value_or(""),
          .admin_key_file = reader.if_present("admin_key_file", text).value_or(""),
          .transfer = reader.if_present("transfer", text).value_or("auto")};
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

void check_format(const Json& json) {
  if (!json.is_object() || !json.contains("format")) refuse("it has no format number");
  auto format = Reader(json, "").member("format").integer();
  if (format > kFormat)
    throw Fault{Error{ErrorKind::unsupported,
                      fmt::format("it has format {}, and this ckptd knows formats up to {}; start the newer ckptd that "
                                  "wrote it, or give this one another state directory",
                                  format, kFormat)}};
  if (format < 1) refuse("{} is not a format number", format);
}

Contents read_contents(const Json& json) {
  check_format(json);  // first: a newer format may have other members
  Reader reader(json, "");
  reader.expect_members({"format", "engines", "updates", "in_custody"});
  Contents contents{.engines = reader.member("engines").each(read_engine),
                    .updates = reader.member("updates").each(read_update),
                    .in_custody = reader.member("in_custody").each(read_session)};
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
