#include "daemon/ranks/session.h"

#include <poll.h>

namespace ckptd::ranks {

std::string_view name_of(Step step) {
  switch (step) {
    case Step::connect: return "connect";
    case Step::offer: return "offer";
    case Step::reload: return "reload";
    case Step::release: return "release";
    case Step::finish: return "finish";
  }
  return "unknown";
}

Result<Session::Woken> Session::wait_again(std::span<const int> wakers, Deadline deadline) {
  std::vector<pollfd> items;
  for (int fd : wakers) items.push_back({fd, POLLIN, 0});
  while (::poll(items.data(), items.size(), deadline.poll_timeout_ms()) <= 0)
    if (deadline.passed()) return ckptd::fail(ErrorKind::timed_out, "the rank on {} did not come back", device());
  return Woken::by_waker;
}

}  // namespace ckptd::ranks
