// How one kind of value is read from a Node and shown as TOML.
//
// parse() checks all that can be said of the value alone; its error is the sentence without place and key, which the
// caller knows. show() writes what parse() reads back to the same value.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/result.h"
#include "daemon/config/node.h"

namespace ckptd::config {

template <class T>
struct Codec {
  std::function<Result<T>(const Node&)> parse;
  std::function<std::string(const T&)> show;
};

Codec<bool> truth();

/// Any text without control characters; the empty one only where `may_be_empty`.
Codec<std::string> text(bool may_be_empty);

/// [A-Za-z0-9._-]{1,64}, as it stands in URLs.
Codec<std::string> name();

/// NAME@VERSION, and NAME alone, by the grammar of the room weights.
Codec<std::string> version_id();
Codec<std::string> optional_version_id();  ///< or the empty text
Codec<std::string> checkpoint_name();

/// Where a server is, as http::Endpoint has it; and where this machine listens, or the empty text: by numbers, with 0 for any
/// port.
Codec<std::string> endpoint();
Codec<std::string> listening_place();

/// An absolute path; one from a flag may be relative and is made absolute.
Codec<std::filesystem::path> path();
Codec<std::string> path_text();

/// As path_text(), of a file that holds a key, or empty. Its error does not repeat the text: it may be a key.
Codec<std::string> key_path();

/// "8GiB"; at least one byte. With `automatic`, "auto" stands for 0 as well.
Codec<std::uint64_t> size(bool automatic);

/// As size(), from `lowest` to `highest`.
Codec<std::uint64_t> size_between(std::uint64_t lowest, std::uint64_t highest);

/// Bytes a second, at least `lowest`; "unlimited" stands for 0, and so does 0.
Codec<std::uint64_t> rate(std::uint64_t lowest);

/// "30s", from one millisecond to a year: what is added to a clock must not overflow it.
Codec<std::chrono::milliseconds> duration();

/// A whole number of the range.
Result<std::int64_t> parse_count(const Node& node, std::int64_t lowest, std::int64_t highest);
template <class T>
Codec<T> count(std::int64_t lowest, std::int64_t highest) {
  return {[=](const Node& node) -> Result<T> { return static_cast<T>(CKPTD_TRY(parse_count(node, lowest, highest))); },
          [](const T& value) { return std::to_string(value); }};
}

/// A TOML string with what must be escaped.
std::string toml_text(std::string_view text);

Result<std::size_t> parse_choice(const Node& node, const std::vector<std::string_view>& names);

/// One of a few words.
template <class T>
Codec<T> choice(std::vector<std::pair<std::string_view, T>> words) {
  return {[words](const Node& node) -> Result<T> {
            std::vector<std::string_view> names;
            for (const auto& word : words) names.push_back(word.first);
            return words[CKPTD_TRY(parse_choice(node, names))].second;
          },
          [words](const T& value) {
            for (const auto& word : words)
              if (word.second == value) return toml_text(word.first);
            return std::string("\"\"");
          }};
}

Result<> expect_list(const Node& node);

/// A list of different values.
template <class T>
Codec<std::vector<T>> list(Codec<T> one) {
  return {[one](const Node& node) -> Result<std::vector<T>> {
            CKPTD_TRY(expect_list(node));
            std::vector<T> values;
            for (const auto& child : node.children) {
              auto value = CKPTD_TRY(one.parse(child));
              for (const auto& other : values)
                if (other == value)
                  return fail(ErrorKind::invalid_argument, "{} stands twice in the list", one.show(value));
              values.push_back(std::move(value));
            }
            return values;
          },
          [one](const std::vector<T>& values) {
            std::string text;
            for (const auto& value : values) text += (text.empty() ? "" : ", ") + one.show(value);
            return "[" + text + "]";
          }};
}

}  // namespace ckptd::config
