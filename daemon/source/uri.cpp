#include "daemon/source/uri.h"

#include <algorithm>
#include <charconv>
#include <climits>
#include <string>

#include "daemon/source/json_text.h"

namespace ckptd::source {
namespace {

constexpr std::string_view kForm = "write file:///absolute/path or an absolute path";

Result<std::string> percent_decoded(std::string_view text, std::string_view uri) {
  std::string result;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      result += text[i];
      continue;
    }
    auto digits = text.substr(i + 1, 2);
    unsigned value = 0;
    auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value, 16);
    if (digits.size() != 2 || error != std::errc{} || end != digits.data() + 2)
      return fail(ErrorKind::invalid_argument,
                  "{}: '%' is not followed by two hexadecimal digits; write %25 for the character itself", shown(uri));
    result += static_cast<char>(value);
    i += 2;
  }
  return result;
}

Result<std::string> path_of_file_uri(std::string_view rest, std::string_view uri) {
  if (!rest.starts_with('/'))
    return fail(ErrorKind::invalid_argument, "{} names a host, and files are read from this one: {}", shown(uri),
                kForm);
  if (rest.find_first_of("?#") != std::string_view::npos)
    return fail(ErrorKind::invalid_argument,
                "{}: '?' and '#' end the path of a URI; write %3F or %23 for the characters themselves", shown(uri));
  return percent_decoded(rest, uri);
}

}  // namespace

Result<std::filesystem::path> parse_uri(std::string_view uri) {
  constexpr std::string_view kFileScheme = "file://";
  std::string path;
  if (uri.starts_with(kFileScheme))
    path = CKPTD_TRY(path_of_file_uri(uri.substr(kFileScheme.size()), uri));
  else if (uri.starts_with('/'))
    path = uri;
  else if (uri.find("://") != std::string_view::npos)
    return fail(ErrorKind::unsupported, "{}: only files can be read: {}", shown(uri), kForm);
  else
    return fail(ErrorKind::invalid_argument, "'{}' is not an absolute path: {}", shown(uri), kForm);
  if (path.size() >= PATH_MAX || path.find('\0') != std::string::npos || !is_utf8(path))
    return fail(ErrorKind::invalid_argument, "{} is not a path: {} of UTF-8, shorter than {} bytes, without NUL",
                shown(uri), kForm, PATH_MAX);
  return std::filesystem::path(path);
}

Roots::Roots(const std::vector<std::filesystem::path>& roots) : limited_(!roots.empty()) {
  for (const auto& root : roots) {
    std::error_code error;
    auto resolved = std::filesystem::canonical(root, error);
    if (!error) roots_.push_back(std::move(resolved));
  }
}

Result<> Roots::admit(const std::filesystem::path& resolved, const std::filesystem::path& named) const {
  // Component by component: /data/models does not contain /data/models-private.
  auto contains = [&](const std::filesystem::path& root) {
    return std::ranges::mismatch(root, resolved).in1 == root.end();
  };
  if (!limited_ || std::ranges::any_of(roots_, contains)) return {};
  return fail(ErrorKind::denied, "{} lies outside the directories that this daemon may read; see source_roots",
              shown(named.native()));
}

}  // namespace ckptd::source
