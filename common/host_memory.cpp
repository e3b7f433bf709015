#include "common/host_memory.h"

#include <algorithm>
#include <charconv>
#include <limits>

#include "common/files.h"
#include "common/units.h"

namespace ckptd {
namespace {

namespace fs = std::filesystem;

std::string_view take_line(std::string_view& text) {
  auto end = text.find('\n');
  auto line = text.substr(0, end);
  text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
  return line;
}

/// The number at the start of `text`, after blanks.
std::optional<std::uint64_t> parse_number(std::string_view text) {
  auto begin = text.find_first_not_of(" \t");
  if (begin == std::string_view::npos) return std::nullopt;
  text.remove_prefix(begin);
  std::uint64_t number = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc{}) return std::nullopt;
  bool ends_here = end == text.data() + text.size() || *end == ' ' || *end == '\n' || *end == '\t';
  return ends_here ? std::optional(number) : std::nullopt;
}

/// One version of the control group's files, by their names in a group's directory.
struct CgroupFiles {
  std::vector<std::string_view> limits;
  std::string_view usage;
  std::string_view droppable_key;  ///< in memory.stat
};

std::optional<std::uint64_t> read_limit(const fs::path& path) {
  auto text = read_small_file(path);
  return text ? parse_cgroup_limit(*text) : std::nullopt;
}

std::optional<Ceiling> read_cgroup(const fs::path& directory, const CgroupFiles& files, std::string name) {
  std::optional<std::uint64_t> limit;
  for (auto file : files.limits)
    if (auto found = read_limit(directory / file)) limit = std::min(limit.value_or(*found), *found);
  if (!limit) return std::nullopt;

  auto usage_text = read_small_file(directory / files.usage);
  auto usage = usage_text ? parse_number(*usage_text).value_or(0) : 0;
  auto stat = read_small_file(directory / "memory.stat");
  auto droppable = stat ? parse_stat_value(*stat, files.droppable_key) : 0;
  auto used = usage - std::min(usage, droppable);
  return Ceiling{std::move(name), *limit, *limit - std::min(*limit, used)};
}

/// Every level from `path` up to the mount point: a parent's limit holds for its children. Levels that do not exist are
/// passed over: in a container the path may be the host's while only the container's own group is mounted.
void read_levels(const fs::path& root, const fs::path& mount, fs::path path, const CgroupFiles& files,
                 std::vector<Ceiling>& ceilings) {
  for (;; path = path.parent_path()) {
    auto below_mount = path.relative_path();
    auto seen_as = below_mount.empty() ? mount : mount / below_mount;
    if (auto ceiling = read_cgroup(root / seen_as, files, fmt::format("the control group /{}", seen_as.string())))
      ceilings.push_back(std::move(*ceiling));
    if (below_mount.empty()) return;
  }
}

}  // namespace

std::optional<Ceiling> parse_meminfo(std::string_view text) {
  std::optional<std::uint64_t> total_kib, available_kib;
  while (!text.empty()) {
    auto line = take_line(text);
    if (!line.ends_with(" kB")) continue;
    if (line.starts_with("MemTotal:")) total_kib = parse_number(line.substr(9));
    if (line.starts_with("MemAvailable:")) available_kib = parse_number(line.substr(13));
  }
  constexpr auto kMost = std::numeric_limits<std::uint64_t>::max() / kKiB;
  if (!total_kib || !available_kib || *total_kib > kMost || *available_kib > kMost) return std::nullopt;
  return Ceiling{"this machine", *total_kib * kKiB, *available_kib * kKiB};
}

CgroupPaths parse_proc_cgroup(std::string_view text) {
  CgroupPaths paths;
  while (!text.empty()) {
    auto line = take_line(text);
    auto first = line.find(':');
    if (first == std::string_view::npos) continue;
    auto second = line.find(':', first + 1);
    if (second == std::string_view::npos) continue;
    auto controllers = line.substr(first + 1, second - first - 1);
    std::string path(line.substr(second + 1));
    if (!path.starts_with('/') || (path + "/").contains("/../")) path = "/";

    if (line.substr(0, first) == "0" && controllers.empty()) paths.unified = path;
    while (!controllers.empty()) {
      auto end = controllers.find(',');
      if (controllers.substr(0, end) == "memory") paths.memory_v1 = path;
      controllers.remove_prefix(end == std::string_view::npos ? controllers.size() : end + 1);
    }
  }
  return paths;
}

std::optional<std::uint64_t> parse_cgroup_limit(std::string_view text) {
  // Version 1 writes "no limit" as the largest multiple of a page in 63 bits.
  constexpr std::uint64_t kNoLimit = std::uint64_t{1} << 60;
  auto limit = parse_number(text);
  return limit && *limit < kNoLimit ? limit : std::nullopt;
}

std::uint64_t parse_stat_value(std::string_view text, std::string_view key) {
  while (!text.empty()) {
    auto line = take_line(text);
    if (line.starts_with(key) && line.size() > key.size() && line[key.size()] == ' ')
      return parse_number(line.substr(key.size())).value_or(0);
  }
  return 0;
}

std::optional<Ceiling> read_machine(const fs::path& system_root) {
  auto text = read_small_file(system_root / "proc/meminfo");
  return text ? parse_meminfo(*text) : std::nullopt;
}

std::vector<Ceiling> read_ceilings(const fs::path& system_root) {
  static const CgroupFiles kVersion2{{"memory.max", "memory.high"}, "memory.current", "inactive_file"};
  static const CgroupFiles kVersion1{{"memory.limit_in_bytes"}, "memory.usage_in_bytes", "total_inactive_file"};

  std::vector<Ceiling> ceilings;
  if (auto machine = read_machine(system_root)) ceilings.push_back(std::move(*machine));
  if (auto text = read_small_file(system_root / "proc/self/cgroup")) {
    auto paths = parse_proc_cgroup(*text);
    if (paths.unified) read_levels(system_root, "sys/fs/cgroup", *paths.unified, kVersion2, ceilings);
    if (paths.memory_v1) read_levels(system_root, "sys/fs/cgroup/memory", *paths.memory_v1, kVersion1, ceilings);
  }
  return ceilings;
}

std::uint64_t read_free_huge_pages(const fs::path& system_root) {
  auto pool = system_root / "sys/kernel/mm/hugepages/hugepages-2048kB";
  auto number = [&](const char* file) {
    auto text = read_small_file(pool / file);
    return text ? parse_number(*text).value_or(0) : 0;
  };
  auto free = number("free_hugepages");
  return free - std::min(free, number("resv_hugepages"));
}

}  // namespace ckptd
