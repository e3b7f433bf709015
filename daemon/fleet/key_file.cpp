#include "daemon/fleet/key_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "common/unique_fd.h"

namespace ckptd::fleet {
namespace {

constexpr std::size_t kKeyBytes = 4096;

/// What may stand in "Authorization: Bearer KEY": visible characters, no blank.
bool is_key(std::string_view text) {
  return std::ranges::all_of(text, [](unsigned char c) { return c > 0x20 && c < 0x7f; });
}

}  // namespace

Result<std::string> read_key_file(std::string_view what, const std::string& path) {
  const auto refuse = [&](std::string_view why) {
    return fail(ErrorKind::denied, "the file of the {}, {}, {}", what, path, why);
  };
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (!fd && errno == EACCES) return refuse("may not be read by ckptd's user: give it to that user, with mode 0400");
  if (!fd) return refuse(fmt::format("cannot be opened: {}", std::strerror(errno)));
  struct stat info {};
  if (::fstat(fd.get(), &info) != 0 || !S_ISREG(info.st_mode)) return refuse("is not a regular file");
  if ((info.st_mode & S_IROTH) != 0)
    return refuse("can be read by everybody on this machine: chmod o-rwx it, and think of replacing the key");
  std::array<char, kKeyBytes + 1> text;
  std::size_t size = 0;
  while (size < text.size()) {
    const auto got = ::read(fd.get(), text.data() + size, text.size() - size);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return refuse(fmt::format("cannot be read: {}", std::strerror(errno)));
    if (got == 0) break;
    size += static_cast<std::size_t>(got);
  }
  if (size > kKeyBytes) return refuse(fmt::format("is longer than a key can be ({} bytes)", kKeyBytes));
  std::string_view key(text.data(), size);
  if (key.ends_with('\n')) key.remove_suffix(1);
  if (key.ends_with('\r')) key.remove_suffix(1);
  if (key.empty()) return refuse("is empty");
  if (!is_key(key)) return refuse("holds more than one line, a blank or something that no key can hold");
  return std::string(key);
}

}  // namespace ckptd::fleet
