#include "daemon/config/codecs.h"

#include <arpa/inet.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <system_error>

#include "common/http_client.h"
#include "common/units.h"
#include "daemon/weights/checkpoint_id.h"

namespace ckptd::config {
namespace {

constexpr std::chrono::milliseconds kLongestDuration = std::chrono::hours(365 * 24);

std::unexpected<Error> wrong(const Node& node, std::string_view wanted) {
  return fail(ErrorKind::invalid_argument, "expected {} and found {}", wanted, node.what);
}

bool is_control(char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; }

Result<std::string> parse_text(const Node& node, std::string_view wanted) {
  if (node.kind != Node::Kind::string) return wrong(node, wanted);
  if (std::ranges::any_of(node.text, is_control))
    return fail(ErrorKind::invalid_argument, "the text holds a control character");
  return node.text;
}

Result<std::string> parse_some_text(const Node& node, std::string_view wanted) {
  auto text = CKPTD_TRY(parse_text(node, wanted));
  if (text.empty()) return fail(ErrorKind::invalid_argument, "expected {} and found an empty text", wanted);
  return text;
}

bool is_name_character(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '_' || c == '-';
}

Result<std::string> parse_path(const Node& node) {
  auto text = CKPTD_TRY(parse_some_text(node, "a path like \"/run/ckptd\""));
  if (node.from_flag && text.front() != '/') {
    std::error_code error;
    auto absolute = std::filesystem::absolute(text, error);
    if (error) return fail(ErrorKind::io, "cannot tell what '{}' is relative to: {}", text, error.message());
    text = absolute.lexically_normal().string();
  }
  if (text.front() != '/')
    return fail(ErrorKind::invalid_argument, "'{}' is a relative path; write the absolute one, which starts with /",
                text);
  while (text.size() > 1 && text.back() == '/') text.pop_back();
  return text;
}

constexpr std::array kSizeUnits{std::pair{kGiB * 1024, "TiB"}, std::pair{kGiB, "GiB"}, std::pair{kMiB, "MiB"},
                                std::pair{kKiB, "KiB"}};

/// The largest unit that gives a whole number, so that what is read back is the same.
template <class Units>
std::string show_whole(std::uint64_t value, const Units& units) {
  for (const auto& [factor, unit] : units)
    if (value % factor == 0) return fmt::format("\"{}{}\"", value / factor, unit);
  return fmt::format("\"{}\"", value);
}

}  // namespace

std::string toml_text(std::string_view text) {
  std::string out = "\"";
  for (char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += c;
  }
  return out + "\"";
}

Codec<bool> truth() {
  return {[](const Node& node) -> Result<bool> {
            if (node.kind != Node::Kind::boolean) return wrong(node, "true or false, without quotes,");
            return node.truth;
          },
          [](const bool& value) { return std::string(value ? "true" : "false"); }};
}

Codec<std::string> text(bool may_be_empty) {
  return {[=](const Node& node) { return may_be_empty ? parse_text(node, "text") : parse_some_text(node, "text"); },
          toml_text};
}

Codec<std::string> name() {
  return {[](const Node& node) -> Result<std::string> {
            auto text = CKPTD_TRY(parse_some_text(node, "a name"));
            if (text.size() > 64 || !std::ranges::all_of(text, is_name_character) || text == "." || text == "..")
              return fail(ErrorKind::invalid_argument,
                          "'{}' is not a name; use 1 to 64 characters of A-Z a-z 0-9 . _ -", text);
            return text;
          },
          toml_text};
}

Codec<std::string> version_id() {
  return {[](const Node& node) -> Result<std::string> {
            auto text = CKPTD_TRY(parse_some_text(node, "a version like \"llama@3\""));
            auto at = text.find('@');
            if (at == 0 || at == std::string::npos || at + 1 == text.size() || at != text.rfind('@'))
              return fail(ErrorKind::invalid_argument, "'{}' is not NAME@VERSION, like llama@3", text);
            CKPTD_TRY(weights::CheckpointId::parse(text));
            return text;
          },
          toml_text};
}

Codec<std::string> optional_version_id() {
  return {[some = version_id(), any = text(true)](const Node& node) -> Result<std::string> {
            const auto given = any.parse(node);
            return given && given->empty() ? std::string() : some.parse(node);
          },
          toml_text};
}

Codec<std::string> checkpoint_name() {
  return {[](const Node& node) -> Result<std::string> {
            auto text = CKPTD_TRY(parse_some_text(node, "the name of a checkpoint"));
            if (text.find('@') != std::string::npos)
              return fail(ErrorKind::invalid_argument, "'{}' has a version; write the NAME alone, without @", text);
            return weights::parse_checkpoint_name(text);
          },
          toml_text};
}

Codec<std::string> endpoint() {
  return {[](const Node& node) -> Result<std::string> {
            auto text = CKPTD_TRY(parse_some_text(node, "an endpoint like \"http://127.0.0.1:30000\""));
            CKPTD_TRY(http::Endpoint::parse(text));
            return text;
          },
          toml_text};
}

Codec<std::string> listening_place() {
  return {[](const Node& node) -> Result<std::string> {
            auto text = CKPTD_TRY(parse_text(node, "an address like \"127.0.0.1:9464\""));
            if (text.empty()) return text;
            const auto place = CKPTD_TRY(http::Endpoint::parse(text, 0));
            in6_addr bytes{};  // large enough for both families
            const auto& host = place.host;
            if (place.unix_path.empty() && host != "localhost" && ::inet_pton(AF_INET, host.c_str(), &bytes) != 1 &&
                ::inet_pton(AF_INET6, host.c_str(), &bytes) != 1)
              return fail(ErrorKind::invalid_argument,
                          "'{}' is no address of this machine: write it in numbers, as in 127.0.0.1", host);
            return text;
          },
          toml_text};
}

Codec<std::string> path_text() { return {parse_path, toml_text}; }

Codec<std::string> key_path() {
  return {[](const Node& node) -> Result<std::string> {
            auto text = CKPTD_TRY(parse_text(node, "the path of a file that holds the key"));
            if (!text.empty() && text.front() != '/')
              return fail(ErrorKind::invalid_argument,
                          "expected the absolute path of a file that holds the key, and not the key itself");
            return text;
          },
          toml_text};
}

Codec<std::filesystem::path> path() {
  return {[](const Node& node) -> Result<std::filesystem::path> {
            return std::filesystem::path(CKPTD_TRY(parse_path(node)));
          },
          [](const std::filesystem::path& value) { return toml_text(value.string()); }};
}

Codec<std::uint64_t> size(bool automatic) {
  return {[=](const Node& node) -> Result<std::uint64_t> {
            auto text = CKPTD_TRY(parse_text(node, "a size in quotes, like \"8GiB\","));
            if (automatic && text == "auto") return 0;
            auto bytes = CKPTD_TRY(parse_bytes(text));
            if (bytes == 0)
              return fail(ErrorKind::invalid_argument, "'{}' is no memory at all; write a size like 8GiB{}", text,
                          automatic ? ", or auto" : "");
            return bytes;
          },
          [](const std::uint64_t& bytes) { return bytes == 0 ? std::string("\"auto\"") : show_whole(bytes, kSizeUnits); }};
}

Codec<std::uint64_t> size_between(std::uint64_t lowest, std::uint64_t highest) {
  auto any = size(false);
  return {[=](const Node& node) -> Result<std::uint64_t> {
            const auto bytes = CKPTD_TRY(any.parse(node));
            if (bytes < lowest || bytes > highest)
              return fail(ErrorKind::invalid_argument, "'{}' is out of range; write a size from {} to {}", node.text,
                          show_bytes(lowest), show_bytes(highest));
            return bytes;
          },
          any.show};
}

Codec<std::uint64_t> rate(std::uint64_t lowest) {
  return {[=](const Node& node) -> Result<std::uint64_t> {
            if (node.kind == Node::Kind::integer && node.number == 0) return 0;
            auto text = CKPTD_TRY(parse_text(node, "bytes a second in quotes, like \"2GB\", or \"unlimited\","));
            if (text == "unlimited" || text == "0") return 0;
            const auto bytes = CKPTD_TRY(parse_bytes(text));
            if (bytes < lowest)
              return fail(ErrorKind::invalid_argument, "'{}' is too little to get on; write at least {}, or unlimited",
                          text, show_bytes(lowest));
            return bytes;
          },
          [](const std::uint64_t& bytes) {
            return bytes == 0 ? std::string("\"unlimited\"") : show_whole(bytes, kSizeUnits);
          }};
}

Codec<std::chrono::milliseconds> duration() {
  static constexpr std::array kUnits{std::pair{3'600'000u, "h"}, std::pair{60'000u, "m"}, std::pair{1'000u, "s"},
                                     std::pair{1u, "ms"}};
  return {[](const Node& node) -> Result<std::chrono::milliseconds> {
            auto text = CKPTD_TRY(parse_text(node, "a duration in quotes, like \"30s\","));
            auto span = CKPTD_TRY(parse_duration(text));
            if (span <= span.zero() || span > kLongestDuration)
              return fail(ErrorKind::invalid_argument, "'{}' is out of range; write a duration from 1ms to {}h", text,
                          std::chrono::hours(365 * 24).count());
            return span;
          },
          [](const std::chrono::milliseconds& span) {
            return show_whole(static_cast<std::uint64_t>(span.count()), kUnits);
          }};
}

Result<std::int64_t> parse_count(const Node& node, std::int64_t lowest, std::int64_t highest) {
  auto number = node.number;
  bool whole = node.kind == Node::Kind::integer;
  if (node.from_flag) {
    const auto* end = node.text.data() + node.text.size();
    auto [rest, error] = std::from_chars(node.text.data(), end, number);
    whole = error == std::errc{} && rest == end;
  }
  if (whole && number >= lowest && number <= highest) return number;
  auto found = whole ? std::to_string(number) : node.from_flag ? "'" + node.text + "'" : std::string(node.what);
  return fail(ErrorKind::invalid_argument, "expected a whole number from {} to {} and found {}", lowest, highest,
              found);
}

Result<std::size_t> parse_choice(const Node& node, const std::vector<std::string_view>& names) {
  const auto wanted = fmt::format("one of {}", fmt::join(names, ", "));
  auto text = CKPTD_TRY(parse_text(node, wanted));
  auto found = std::ranges::find(names, text);
  if (found == names.end()) return fail(ErrorKind::invalid_argument, "'{}' is not {}", text, wanted);
  return static_cast<std::size_t>(found - names.begin());
}

Result<> expect_list(const Node& node) {
  if (node.kind != Node::Kind::array) return wrong(node, "a list, in brackets,");
  return {};
}

}  // namespace ckptd::config
