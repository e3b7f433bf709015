// What names a server, and what names things on it: endpoints and percent escapes.
#include <sys/un.h>

#include <algorithm>
#include <boost/asio/ip/address_v6.hpp>
#include <charconv>

#include "common/http_client.h"
#include "common/utf8.h"

namespace ckptd::http {
namespace {

constexpr std::size_t kUnixPathBytes = sizeof(sockaddr_un::sun_path) - 1;

std::unexpected<Error> bad_endpoint(std::string_view text, std::string_view why) {
  return fail(ErrorKind::invalid_argument, "'{}' is no endpoint: {}; write http://host:port or unix:/path/to.sock",
              shown(text), why);
}

Result<Endpoint> parse_unix(std::string_view text, std::string_view path) {
  if (!path.starts_with('/')) return bad_endpoint(text, "the socket's path does not begin with /");
  if (path.find('\0') != path.npos) return bad_endpoint(text, "the socket's path contains a zero byte");
  // It is in the journal and in logs, whose lines it must not break.
  if (shown(path, path.size()) != path) return bad_endpoint(text, "the socket's path has a control character or is no UTF-8");
  if (path.size() > kUnixPathBytes)
    return fail(ErrorKind::invalid_argument,
                "'{}' is no endpoint: the path has {} bytes, a Unix socket's has at most {}", shown(text), path.size(),
                kUnixPathBytes);
  return Endpoint{.host = {}, .port = 0, .unix_path = std::string(path)};
}

bool is_host(std::string_view host, bool bracketed) {
  boost::system::error_code error;
  if (bracketed) {
    boost::asio::ip::make_address_v6(std::string(host), error);
    return !error;
  }
  return !host.empty() && std::ranges::all_of(host, [](unsigned char c) {
    return c < 0x80 && (std::isalnum(c) != 0 || c == '.' || c == '-' || c == '_');
  });
}

}  // namespace

Result<Endpoint> Endpoint::parse(std::string_view text, std::uint16_t lowest_port) {
  if (text.starts_with("unix:")) return parse_unix(text, text.substr(5));
  auto rest = text;
  if (rest.starts_with("http://")) rest.remove_prefix(7);
  if (rest.find("://") != rest.npos) return bad_endpoint(text, "only plain http:// and unix: are spoken");
  if (rest.ends_with('/')) rest.remove_suffix(1);
  auto colon = rest.rfind(':');
  if (colon == rest.npos || rest.ends_with(']')) return bad_endpoint(text, "it names no port");
  auto host = rest.substr(0, colon);
  bool bracketed = host.size() > 2 && host.starts_with('[') && host.ends_with(']');
  if (bracketed) host = host.substr(1, host.size() - 2);
  if (!is_host(host, bracketed)) return bad_endpoint(text, "the host is neither a name nor an address");

  auto digits = rest.substr(colon + 1);
  std::uint16_t port = 0;
  auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), port);
  if (error != std::errc{} || end != digits.data() + digits.size() || port < lowest_port)
    return bad_endpoint(text, fmt::format("the port is no number from {} to 65535", lowest_port));
  return Endpoint{.host = std::string(host), .port = port, .unix_path = {}};
}

std::string Endpoint::show() const {
  if (!unix_path.empty()) return "unix:" + unix_path;
  bool v6 = host.find(':') != host.npos;
  return fmt::format("http://{}{}{}:{}", v6 ? "[" : "", host, v6 ? "]" : "", port);
}

// ---- percent escapes ----

Result<std::string> percent_decode(std::string_view text) {
  std::string decoded;
  decoded.reserve(text.size());
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      decoded += text[i];
      continue;
    }
    unsigned char byte = 0;
    const char* digits = text.data() + i + 1;
    bool both = text.size() - i > 2;
    if (!both || std::from_chars(digits, digits + 2, byte, 16).ptr != digits + 2)
      return fail(ErrorKind::invalid_argument, "'{}' has a broken escape: % is followed by two hexadecimal digits",
                  text);
    decoded += static_cast<char>(byte);
    i += 2;
  }
  return decoded;
}

std::string percent_encode(std::string_view text) {
  std::string encoded;
  for (unsigned char c : text) {
    bool plain = c < 0x80 && (std::isalnum(c) != 0 || c == '-' || c == '.' || c == '_' || c == '~');
    if (plain)
      encoded += static_cast<char>(c);
    else
      encoded += fmt::format("%{:02X}", c);
  }
  return encoded;
}

}  // namespace ckptd::http
