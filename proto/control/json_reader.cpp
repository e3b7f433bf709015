#include "proto/control/json_reader.h"

#include <algorithm>
#include <limits>
#include <set>

#include "common/units.h"

namespace ckptd::proto::control {
namespace {

using nlohmann::json;

constexpr std::size_t kDocumentBytes = kMiB;
constexpr int kLevels = 32;

/// Names come from outside: what is quoted stays short and printable.
std::string printable(std::string_view name) {
  std::string shown(name.substr(0, 80));
  std::ranges::replace_if(
      shown, [](unsigned char c) { return c < 0x20 || c == 0x7f; }, '?');
  return shown.size() < name.size() ? shown + "..." : shown;
}

/// Watches a parse for what the grammar allows and we do not.
class Watch {
 public:
  bool see(int depth, json::parse_event_t event, const json& value) {
    switch (event) {
      case json::parse_event_t::object_start:
        open_.emplace_back();
        break;
      case json::parse_event_t::object_end:
        open_.pop_back();
        break;
      case json::parse_event_t::key:
        see_key(value.get_ref<const std::string&>());
        break;
      default:
        break;
    }
    too_deep_ = too_deep_ || depth >= kLevels;
    return true;
  }

  std::optional<std::string> objection() const {
    if (too_deep_) return fmt::format("the request has more than {} levels of nesting", kLevels);
    if (twice_) return fmt::format("the request has the member '{}' twice", printable(*twice_));
    return std::nullopt;
  }

 private:
  void see_key(const std::string& key) {
    if (!open_.back().insert(key).second && !twice_) twice_ = key;
  }

  std::vector<std::set<std::string>> open_;
  std::optional<std::string> twice_;
  bool too_deep_ = false;
};

}  // namespace

Result<json> parse_document(std::string_view text) {
  if (text.size() > kDocumentBytes)
    return fail(ErrorKind::invalid_argument, "the request has {} bytes, at most {} are read", text.size(),
                kDocumentBytes);
  if (text.empty()) return fail(ErrorKind::invalid_argument, "the request has no body; a JSON object is expected");
  // The parser takes a zero byte for the end of the text and would not see what follows.
  if (auto zero = text.find('\0'); zero != text.npos)
    return fail(ErrorKind::invalid_argument, "the request is not JSON; it has a zero byte at byte {}", zero + 1);
  Watch watch;
  json document;
  try {
    document = json::parse(
        text, [&](int depth, json::parse_event_t event, json& value) { return watch.see(depth, event, value); });
  } catch (const json::parse_error& error) {
    return fail(ErrorKind::invalid_argument, "the request is not JSON; it goes wrong at byte {} of {}", error.byte,
                text.size());
  } catch (const json::exception&) {  // a number that no machine holds
    return fail(ErrorKind::invalid_argument, "the request has a number that is out of range");
  }
  if (auto objection = watch.objection()) return fail(ErrorKind::invalid_argument, "{}", *objection);
  return document;
}

ObjectReader::ObjectReader(const json& object, Reading reading, std::string path)
    : object_(object), reading_(reading), path_(std::move(path)) {
  if (object_.is_object()) return;
  if (path_.empty())
    complain("must be a JSON object, not {}", object_.type_name());
  else
    complain("has the member '{}', which must be an object, not {}", path_, object_.type_name());
}

const json* ObjectReader::take(std::string_view name) {
  taken_.emplace_back(name);
  if (!object_.is_object()) return nullptr;
  auto member = object_.find(name);
  return member == object_.end() ? nullptr : &*member;
}

void ObjectReader::complain_about(std::string_view name, std::string_view what) {
  complain("is wrong: the member '{}' {}", path_of(name), what);
}

void ObjectReader::join(Result<> nested) {
  if (!complaint_ && !nested) complaint_ = std::move(nested).error();
}

std::string ObjectReader::path_of(std::string_view name) const {
  return path_.empty() ? printable(name) : fmt::format("{}.{}", path_, printable(name));
}

Result<> ObjectReader::finish() {
  // An unknown member comes first: it is often the misspelt name of one that is missed.
  if (reading_.strict && object_.is_object())
    for (const auto& member : object_.items())
      if (std::ranges::find(taken_, member.key()) == taken_.end())
        return fail(reading_.kind, "{} has the unknown member '{}'; known are: {}", reading_.what,
                    path_of(member.key()), fmt::join(taken_, ", "));
  if (complaint_) return std::unexpected(*std::move(complaint_));
  return {};
}

void ObjectReader::wrong_type(const json& value, std::string_view name, std::string_view wanted) {
  complain_about(name, fmt::format("must be {}, not {}", wanted, value.is_number() ? value.dump() : value.type_name()));
}

void ObjectReader::read(const json& value, std::string_view name, std::string& into) {
  if (!value.is_string()) return wrong_type(value, name, "a string");
  into = value.get_ref<const std::string&>();
}

void ObjectReader::read(const json& value, std::string_view name, bool& into) {
  if (!value.is_boolean()) return wrong_type(value, name, "true or false");
  into = value.get<bool>();
}

void ObjectReader::read(const json& value, std::string_view name, std::uint64_t& into) {
  bool whole = value.is_number_unsigned() || (value.is_number_integer() && value.get<std::int64_t>() >= 0);
  if (!whole) return wrong_type(value, name, "a whole number from 0");
  into = value.get<std::uint64_t>();
}

void ObjectReader::read(const json& value, std::string_view name, int& into) {
  std::uint64_t number = 0;
  read(value, name, number);
  constexpr std::uint64_t kMost = std::numeric_limits<int>::max();
  if (number > kMost) return wrong_type(value, name, fmt::format("at most {}", kMost));
  into = static_cast<int>(number);
}

void ObjectReader::read(const json& value, std::string_view name, double& into) {
  if (!value.is_number()) return wrong_type(value, name, "a number");
  into = value.get<double>();
}

}  // namespace ckptd::proto::control
