// A child process that the system gives so many threads and no more, as a unit's TasksMax does.
#pragma once

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <exception>
#include <functional>
#include <optional>

namespace ckptd::tests {

/// What `act` returns in a child that may have `threads` besides its first, from 0 to 100. Nothing where that cannot be: the
/// limit is one of a user, so it takes root, who becomes one that nobody else is; and ThreadSanitizer has threads of its own.
inline std::optional<int> with_few_threads(unsigned threads, const std::function<int()>& act) {
#ifdef __SANITIZE_THREAD__
  static_cast<void>(threads), static_cast<void>(act);
  return std::nullopt;
#else
  constexpr int kCannot = 101, kThrew = 102;
  const auto child = ::fork();
  if (child < 0) return std::nullopt;
  if (child == 0) {
    const auto uid = static_cast<uid_t>(2'000'000'000 + ::getpid());
    const rlimit limit{threads + 1, threads + 1};
    if (::setrlimit(RLIMIT_NPROC, &limit) != 0 || ::setresuid(uid, uid, uid) != 0) ::_exit(kCannot);
    try {
      ::_exit(act());
    } catch (...) {
      ::_exit(kThrew);
    }
  }
  int status = 0;
  if (::waitpid(child, &status, 0) != child) return std::nullopt;
  if (!WIFEXITED(status)) return -WTERMSIG(status);
  if (WEXITSTATUS(status) == kCannot) return std::nullopt;
  return WEXITSTATUS(status);
#endif
}

}  // namespace ckptd::tests
