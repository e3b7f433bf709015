#include "common/process.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "common/unique_fd.h"

namespace ckptd {
namespace {

constexpr std::size_t kMostEnvironmentBytes = 1 << 20;

/// Of /proc/PID/stat; see proc_pid_stat(5), which counts fields from 1.
struct Stat {
  char state = 0;             ///< field 3
  int parent = 0;             ///< field 4
  std::uint64_t threads = 0;  ///< field 20
  std::uint64_t started = 0;  ///< field 22
};

std::uint64_t number(std::string_view text) {
  std::uint64_t value = 0;
  std::from_chars(text.data(), text.data() + text.size(), value);
  return value;
}

std::optional<Stat> stat_of(int pid, const std::string& root = {}) {
  UniqueFd fd(::open(fmt::format("{}/proc/{}/stat", root, pid).c_str(), O_RDONLY | O_CLOEXEC));
  std::array<char, 1024> text;
  const auto bytes = fd ? ::read(fd.get(), text.data(), text.size()) : -1;
  if (bytes <= 0) return std::nullopt;
  std::string_view rest(text.data(), static_cast<std::size_t>(bytes));
  // The name of the program stands in parentheses and may hold any.
  const auto name_end = rest.rfind(')');
  if (name_end == rest.npos) return std::nullopt;
  rest.remove_prefix(name_end + 1);
  Stat stat;
  for (int field = 3; field <= 22 && !rest.empty(); ++field) {
    rest.remove_prefix(std::min(rest.find_first_not_of(' '), rest.size()));
    const auto word = rest.substr(0, rest.find(' '));
    if (field == 3 && !word.empty()) stat.state = word.front();
    if (field == 4) stat.parent = static_cast<int>(number(word));
    if (field == 20) stat.threads = number(word);
    if (field == 22) stat.started = number(word);
    rest.remove_prefix(word.size());
  }
  return stat;
}

/// A process whose first thread has ended shows as a zombie as well; the others hold its memory.
bool has_exited(const Stat& stat) { return (stat.state == 'Z' || stat.state == 'X') && stat.threads <= 1; }

}  // namespace

ProcessId process_with(int pid, const std::string& root) {
  const auto stat = pid > 0 ? stat_of(pid, root) : std::nullopt;
  return {pid, stat ? stat->started : 0};
}

bool is_gone(const ProcessId& process) {
  if (process.pid <= 0) return false;
  // EPERM is an answer too: there is one, of somebody else.
  if (::kill(process.pid, 0) != 0 && errno == ESRCH) return true;
  const auto stat = stat_of(process.pid);
  if (!stat) return false;
  if (process.started != 0 && stat->started != 0 && stat->started != process.started) return true;
  return has_exited(*stat);
}

std::vector<ProcessId> with_descendants(const ProcessId& process, const std::string& root) {
  if (process.pid <= 0) return {process};
  std::multimap<int, ProcessId> children;
  std::error_code error;
  for (std::filesystem::directory_iterator entry(root + "/proc", error), end; !error && entry != end;
       entry.increment(error)) {
    const auto pid = static_cast<int>(number(entry->path().filename().native()));
    if (pid == 0) continue;
    if (const auto stat = stat_of(pid, root)) children.emplace(stat->parent, ProcessId{pid, stat->started});
  }
  std::vector<ProcessId> family{process};
  for (std::size_t i = 0; i < family.size() && family.size() <= children.size(); ++i) {
    const auto [first, last] = children.equal_range(family[i].pid);
    for (auto child = first; child != last; ++child) family.push_back(child->second);
  }
  return family;
}

bool has_open(const ProcessId& process, std::string_view path_begin, const std::string& root) {
  std::error_code error;
  const auto descriptors = fmt::format("{}/proc/{}/fd", root, process.pid);
  for (std::filesystem::directory_iterator entry(descriptors, error), end; !error && entry != end; entry.increment(error)) {
    std::error_code closed;
    if (std::filesystem::read_symlink(entry->path(), closed).native().starts_with(path_begin)) return true;
  }
  return false;
}

std::optional<std::string> variable_of(const ProcessId& process, std::string_view name) {
  UniqueFd fd(::open(fmt::format("/proc/{}/environ", process.pid).c_str(), O_RDONLY | O_CLOEXEC));
  std::string text;
  std::array<char, 4096> piece;
  while (fd && text.size() < kMostEnvironmentBytes) {
    const auto bytes = ::read(fd.get(), piece.data(), piece.size());
    if (bytes <= 0) break;
    text.append(piece.data(), static_cast<std::size_t>(bytes));
  }
  for (std::size_t at = 0; at < text.size();) {
    const auto entry = std::string_view(text).substr(at, text.find('\0', at) - at);
    if (entry.starts_with(name) && entry.substr(name.size()).starts_with('='))
      return std::string(entry.substr(name.size() + 1));
    at += entry.size() + 1;
  }
  return std::nullopt;
}

}  // namespace ckptd
