#include "ctl/answers.h"

#include <grp.h>
#include <pwd.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>

#include "proto/control/outcome.h"

namespace ckptd::ctl {
namespace {

using nlohmann::json;

constexpr std::size_t kLongestSocketPath = sizeof(sockaddr_un::sun_path) - 1;
constexpr std::string_view kIsItRunning =
    "is the service running (systemctl status ckptd)? If its runtime directory is another one, name its socket with "
    "--socket";

std::string name_of_user(uid_t uid) {
  const auto* entry = ::getpwuid(uid);
  return entry ? entry->pw_name : std::to_string(uid);
}

std::string name_of_group(gid_t gid) {
  const auto* entry = ::getgrgid(gid);
  return entry ? entry->gr_name : std::to_string(gid);
}

Error explain_denied(const std::string& path) {
  struct stat info{};
  if (::stat(path.c_str(), &info) != 0)
    return {
        ErrorKind::denied,
        fmt::format("you may not look into the directory of {}: join the control group of ckptd, or use sudo", path)};
  return {ErrorKind::denied,
          fmt::format("you may not open {}: it belongs to user {} and group {} (mode {:04o}); join that group, or use "
                      "sudo",
                      path, name_of_user(info.st_uid), name_of_group(info.st_gid), info.st_mode & 07777U)};
}

ErrorKind kind_of_status(unsigned status) {
  if (status < 400) return ErrorKind::corrupt;
  if (status != 500)
    for (const auto& outcome : api::outcomes())
      if (outcome.http_status == status) return outcome.kind;
  return status < 500 ? ErrorKind::invalid_argument : ErrorKind::internal;
}

std::string quote_start(const std::string& body) {
  static constexpr std::size_t kEnough = 160;
  return body.size() <= kEnough ? body : body.substr(0, kEnough) + "...";
}

}  // namespace

bool may_come_back(const Error& error) {
  return error.kind == ErrorKind::unavailable || error.kind == ErrorKind::timed_out;
}

Error explain_no_answer(Error cause, const std::string& socket_path) {
  if (cause.kind == ErrorKind::cancelled) return cause;
  if (cause.kind == ErrorKind::timed_out || cause.kind == ErrorKind::corrupt)
    return cause.within(fmt::format("the daemon on {}", socket_path));
  if (socket_path.size() > kLongestSocketPath)
    return {ErrorKind::invalid_argument,
            fmt::format("the path of a socket may have at most {} bytes, and this one has {}: {}", kLongestSocketPath,
                        socket_path.size(), socket_path)};
  if (::access(socket_path.c_str(), W_OK) != 0) {
    if (errno == EACCES) return explain_denied(socket_path);
    return {ErrorKind::unavailable, fmt::format("there is no socket {}: {}", socket_path, kIsItRunning)};
  }
  struct stat info{};
  if (::stat(socket_path.c_str(), &info) == 0 && !S_ISSOCK(info.st_mode))
    return {ErrorKind::invalid_argument,
            fmt::format("{} is not a socket: name the daemon's with --socket", socket_path)};
  return {ErrorKind::unavailable,
          fmt::format("no daemon answers on {} ({}): {}", socket_path, cause.sentence, kIsItRunning)};
}

Result<json> read_answer(const http::Response& response, std::string_view what) {
  bool good = response.status >= 200 && response.status < 300;
  if (good && response.body.empty()) return json::object();
  auto body = json::parse(response.body, nullptr, false);
  if (good && (body.is_object() || body.is_array())) return body;
  if (good)
    return fail(ErrorKind::corrupt, "the answer to {} is not JSON but '{}': is it ckptd that listens there?", what,
                quote_start(response.body));
  if (body.is_object() && body.contains("error") && body["error"].is_object())
    return std::unexpected(api::parse_error(body));
  return fail(kind_of_status(response.status), "{} was answered with HTTP status {} and no reason: '{}'", what,
              response.status, quote_start(response.body));
}

Result<proto::control::Trimmed> parse_trimmed(const json& answer) {
  if (!answer.is_object()) return fail(ErrorKind::corrupt, "it is not an object");
  proto::control::Trimmed trimmed;
  const auto read = [&](const char* name, std::uint64_t& into) -> Result<> {
    const auto at = answer.find(name);
    if (at == answer.end()) return {};
    if (!at->is_number_unsigned()) return fail(ErrorKind::corrupt, "'{}' is not a number", name);
    into = at->get<std::uint64_t>();
    return {};
  };
  CKPTD_TRY(read("bytes", trimmed.bytes));
  CKPTD_TRY(read("communicators", trimmed.communicators));
  return trimmed;
}

Error not_understood(Error error) {
  error.kind = ErrorKind::corrupt;
  return error.within("cannot make sense of the daemon's answer; are ckptctl and ckptd of about the same version?");
}

}  // namespace ckptd::ctl
