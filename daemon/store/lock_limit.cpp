#include "daemon/store/lock_limit.h"

#include <linux/capability.h>

#include <charconv>

#include "common/files.h"

namespace ckptd::store {
namespace {

/// What follows `key` and blanks, up to the next blank; empty when no line starts with `key`.
std::string_view word_after(std::string_view text, std::string_view key) {
  for (std::size_t line = 0; line < text.size();) {
    auto end = std::min(text.find('\n', line), text.size());
    auto rest = text.substr(line, end - line);
    if (rest.starts_with(key)) {
      rest.remove_prefix(key.size());
      rest.remove_prefix(std::min(rest.find_first_not_of(" \t"), rest.size()));
      return rest.substr(0, rest.find_first_of(" \t"));
    }
    line = end + 1;
  }
  return {};
}

std::optional<std::uint64_t> parse(std::string_view word, int base) {
  std::uint64_t value = 0;
  auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), value, base);
  if (error != std::errc{} || end != word.data() + word.size()) return std::nullopt;
  return value;
}

}  // namespace

std::optional<std::uint64_t> parse_memlock_limit(std::string_view limits_text) {
  auto word = word_after(limits_text, "Max locked memory");
  if (word == "unlimited") return kNoLockLimit;
  return parse(word, 10);
}

bool parse_may_lock_anything(std::string_view status_text) {
  auto capabilities = parse(word_after(status_text, "CapEff:"), 16);
  return capabilities && (*capabilities >> CAP_IPC_LOCK & 1) != 0;
}

std::uint64_t read_lock_limit(const std::filesystem::path& system_root) {
  if (auto status = read_small_file(system_root / "proc/self/status"))
    if (parse_may_lock_anything(*status)) return kNoLockLimit;
  auto limits = read_small_file(system_root / "proc/self/limits");
  return limits ? parse_memlock_limit(*limits).value_or(kNoLockLimit) : kNoLockLimit;
}

std::string how_to_raise_the_lock_limit() {
  return "Raise the limit (LimitMEMLOCK=infinity in the systemd unit, `ulimit -l unlimited` in a shell), or start with "
         "--lock try to go on with memory that may be swapped out";
}

}  // namespace ckptd::store
