#include "common/random_name.h"

#include <sys/random.h>

#include <cerrno>
#include <cstdlib>

namespace ckptd {

std::string random_name(std::size_t length) {
  static constexpr char kAlphabet[] = "abcdefghijklmnopqrstuvwxyz0123456789";
  std::string name;
  while (name.size() < length) {
    unsigned char byte = 0;
    // One byte never comes short, and the only failure is a signal before the pool is initialised.
    if (::getrandom(&byte, 1, 0) != 1) {
      if (errno == EINTR) continue;
      std::abort();
    }
    if (byte < 252) name.push_back(kAlphabet[byte % 36]);  // 252 = 7 * 36: no letter is likelier than another
  }
  return name;
}

}  // namespace ckptd
