#include "tests/support/fake_nccl/net.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <thread>
#include <utility>

namespace ckptd::fake_nccl {
namespace {

constexpr int kPieceMs = 5;

}  // namespace

Net::Net(std::string name) : name_(std::move(name)) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path + 1, name_.data(), std::min(name_.size(), sizeof address.sun_path - 1));
  listener_ = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name_.size());
  if (::bind(listener_, reinterpret_cast<sockaddr*>(&address), size) != 0 || ::listen(listener_, 64) != 0) lost_ = true;
}

Net::~Net() { close(); }

bool Net::all_here(std::size_t members) {
  std::lock_guard lock(mutex_);
  if (told_) return true;
  for (;;) {
    const int fd = ::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0) break;
    peers_.push_back({fd, 0});
  }
  for (auto& peer : peers_) {
    if (peer.rank != 0) continue;
    std::int32_t hello[2];  // a member writes it at once
    const auto got = ::recv(peer.fd, hello, sizeof hello, MSG_PEEK);
    if (got == 0) lose("", nullptr);
    if (got != sizeof hello) continue;
    ::recv(peer.fd, hello, sizeof hello, 0);
    if (hello[0] < 1 || static_cast<std::size_t>(hello[1]) != members || hello[0] >= hello[1])
      lose("rank " + std::to_string(hello[0]) + " comes to a clique of " + std::to_string(hello[1]) + " members", nullptr);
    peer.rank = hello[0];
  }
  const auto here = std::ranges::count_if(peers_, [](const Peer& peer) { return peer.rank != 0; });
  if (lost_ || static_cast<std::size_t>(here) + 1 < members) return false;
  for (const auto& peer : peers_)
    if (::send(peer.fd, "G", 1, MSG_NOSIGNAL) != 1) lose("", nullptr);
  return told_ = true;
}

bool Net::exchange(int fd, void* bytes, std::size_t count, bool out, const std::atomic<bool>& cut) {
  auto* at = static_cast<char*>(bytes);
  while (count > 0) {
    if (cut) return false;
    pollfd item{fd, static_cast<short>(out ? POLLOUT : POLLIN), 0};
    if (::poll(&item, 1, kPieceMs) <= 0) continue;
    const auto done = out ? ::send(fd, at, count, MSG_NOSIGNAL) : ::recv(fd, at, count, 0);
    if (done < 0 && (errno == EAGAIN || errno == EINTR)) continue;
    if (done <= 0) {
      lose("", &cut);
      return false;
    }
    at += done, count -= static_cast<std::size_t>(done);
  }
  return true;
}

/// Until every member has said what it does, which is `step` with so many bytes that `check` finds nothing wrong with.
bool Net::arrive(char step, std::size_t bytes, const std::atomic<bool>& cut,
                 const std::function<std::string(const void*)>& check) {
  for (const auto& peer : peers_) {
    char what = 0, said[8];
    if (!exchange(peer.fd, &what, 1, false, cut)) return false;
    std::string wrong = what == step ? "" : std::string("does '") + what + "' where the sender does '" + step + "'";
    if (wrong.empty()) {
      if (!exchange(peer.fd, said, bytes, false, cut)) return false;
      wrong = check(said);
    }
    if (wrong.empty()) continue;
    lose("rank " + std::to_string(peer.rank) + " " + wrong, &cut);
    return false;
  }
  return true;
}

void Net::sum(float& value, const std::atomic<bool>& cut) {
  std::lock_guard lock(mutex_);
  float total = value;
  const bool here = arrive('S', sizeof(float), cut, [&](const void* said) {
    float part = 0;
    std::memcpy(&part, said, sizeof part);
    total += part;
    return std::string();
  });
  if (!here) return;
  value = total;
  for (const auto& peer : peers_)
    if (!exchange(peer.fd, &total, sizeof total, true, cut)) return;
}

void Net::broadcast(const void* bytes, std::size_t count, const std::atomic<bool>& cut) {
  std::lock_guard lock(mutex_);
  const bool here = arrive('B', sizeof(std::uint64_t), cut, [&](const void* said) {
    std::uint64_t wanted = 0;
    std::memcpy(&wanted, said, sizeof wanted);
    if (wanted == count) return std::string();
    return "wants " + std::to_string(wanted) + " bytes of a broadcast of " + std::to_string(count);
  });
  if (!here) return;
  for (const auto& peer : peers_)
    if (!exchange(peer.fd, const_cast<void*>(bytes), count, true, cut)) return;
}

void Net::lose(std::string complaint, const std::atomic<bool>* cut) {
  if (!complaint.empty()) {
    std::lock_guard lock(complaint_mutex_);
    complaint_ = std::move(complaint);
  }
  lost_ = true;
  while (cut != nullptr && !*cut) std::this_thread::sleep_for(std::chrono::milliseconds(kPieceMs));
}

std::string Net::complaint() const {
  std::lock_guard lock(complaint_mutex_);
  return complaint_;
}

void Net::close() {
  std::lock_guard lock(mutex_);
  for (const auto& peer : peers_) ::close(peer.fd);
  peers_.clear();
  if (listener_ >= 0) ::close(std::exchange(listener_, -1));
}

}  // namespace ckptd::fake_nccl
