// Reads the members of one JSON object into values and keeps the first complaint.
//
//   ObjectReader reader(json, {.what = "the request", .kind = ErrorKind::invalid_argument, .strict = true});
//   reader.required("uri", uri);
//   reader.optional("keep", keep);
//   CKPTD_TRY(reader.finish());
//
// A strict reader also refuses members that nobody asked for, by name. Complaints name members by their path, as in
// "source.uri". A reader refers to the JSON that it was given and must not outlive it.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "common/result.h"

namespace ckptd::proto::control {

struct Reading {
  std::string_view what;  ///< "the request": begins every complaint
  ErrorKind kind;
  bool strict;
};

inline constexpr Reading kReadingRequest{"the request", ErrorKind::invalid_argument, true};
inline constexpr Reading kReadingAnswer{"the answer", ErrorKind::corrupt, false};

/// A request's body as JSON. Refuses more than 1 MiB, more than 32 levels, a member that is there twice and whatever
/// the grammar does not allow (NaN, comments, a second value behind the first).
Result<nlohmann::json> parse_document(std::string_view text);

class ObjectReader {
 public:
  ObjectReader(const nlohmann::json& object, Reading reading, std::string path = {});

  void required(std::string_view name, auto& into) {
    if (const auto* value = take(name))
      read(*value, name, into);
    else
      complain("lacks the member '{}'", path_of(name));
  }

  /// Leaves `into` alone when the member is absent.
  template <class T>
  void optional(std::string_view name, T& into) {
    if (const auto* value = take(name)) read(*value, name, into);
  }

  template <class T>
  void optional(std::string_view name, std::optional<T>& into) {
    if (const auto* value = take(name)) read(*value, name, into.emplace());
  }

  /// The member is an array, each of whose elements `parse` understands; absent leaves `into` alone.
  template <class T>
  void each(std::string_view name, std::vector<T>& into, Result<T> (*parse)(const nlohmann::json&)) {
    const auto* values = take(name);
    if (values == nullptr) return;
    if (!values->is_array()) return complain_about(name, "must be an array");
    for (const auto& value : *values) {
      auto parsed = parse(value);
      if (!parsed) return join(std::unexpected(parsed.error().within(name)));
      into.push_back(*std::move(parsed));
    }
  }

  /// The member itself, or null; for members that are objects.
  const nlohmann::json* take(std::string_view name);
  /// A complaint of the caller about a member, unless there is an earlier one.
  void complain_about(std::string_view name, std::string_view what);
  /// Takes over the complaint of a reader of a member.
  void join(Result<> nested);
  std::string path_of(std::string_view name) const;

  Result<> finish();

 private:
  template <class... Args>
  void complain(fmt::format_string<Args...> text, Args&&... args) {
    if (complaint_) return;
    auto complaint = fmt::format(text, std::forward<Args>(args)...);
    complaint_ = Error{reading_.kind, fmt::format("{} {}", reading_.what, complaint)};
  }

  void read(const nlohmann::json& value, std::string_view name, std::string& into);
  void read(const nlohmann::json& value, std::string_view name, bool& into);
  void read(const nlohmann::json& value, std::string_view name, std::uint64_t& into);
  void read(const nlohmann::json& value, std::string_view name, int& into);
  void read(const nlohmann::json& value, std::string_view name, double& into);

  template <class T>
  void read(const nlohmann::json& value, std::string_view name, std::vector<T>& into) {
    into.clear();
    if (!value.is_array()) return wrong_type(value, name, "an array");
    for (const auto& element : value) {
      auto indexed = fmt::format("{}[{}]", name, into.size());
      read(element, indexed, into.emplace_back());
    }
  }

  void wrong_type(const nlohmann::json& value, std::string_view name, std::string_view wanted);

  const nlohmann::json& object_;
  Reading reading_;
  std::string path_;
  std::vector<std::string> taken_;
  std::optional<Error> complaint_;
};

}  // namespace ckptd::proto::control
