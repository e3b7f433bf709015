#include "common/group.h"

#include <grp.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <vector>

namespace ckptd {

Result<gid_t> gid_of(const std::string& group, const std::string& key) {
  if (group.empty()) return ::getegid();
  gid_t number = 0;
  auto [end, error] = std::from_chars(group.data(), group.data() + group.size(), number);
  if (error == std::errc{} && end == group.data() + group.size()) return number;
  std::vector<char> buffer(16 * 1024);
  struct group entry{};
  struct group* found = nullptr;
  int code = 0;
  while ((code = ::getgrnam_r(group.c_str(), &entry, buffer.data(), buffer.size(), &found)) == ERANGE &&
         buffer.size() < (1u << 24))
    buffer.resize(buffer.size() * 2);
  if (!found)
    return fail(ErrorKind::invalid_argument, "{} '{}' is no group of this machine; see getent group", key, group);
  return entry.gr_gid;
}

}  // namespace ckptd
