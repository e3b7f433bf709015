#include "tests/support/fake_nccl/peer.h"

#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>

#include <chrono>
#include <cstdint>
#include <cstring>
#include <thread>

namespace ckptd::tests {
namespace {

constexpr std::size_t kNameAt = 8;
constexpr int kLongSeconds = 30;

}  // namespace

Peer::Peer(std::string_view id, int rank, int members)
    : name_(std::string(id.substr(kNameAt)).c_str()), rank_(rank), members_(members) {}

bool Peer::join() {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path + 1, name_.data(), name_.size());
  const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name_.size());
  socket_ = UniqueFd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const timeval patience{kLongSeconds, 0};
  ::setsockopt(socket_.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  if (::connect(socket_.get(), reinterpret_cast<const sockaddr*>(&address), size) != 0) return false;
  std::int32_t hello[2]{rank_, members_};
  char go = 0;
  return exchange(hello, sizeof hello, true) && exchange(&go, 1, false) && go == 'G';
}

std::optional<float> Peer::sum(float value) {
  char step = 'S';
  if (!exchange(&step, 1, true) || !exchange(&value, sizeof value, true) || !exchange(&value, sizeof value, false)) return {};
  return value;
}

std::optional<std::string> Peer::take(std::size_t count) {
  char step = 'B';
  std::uint64_t wanted = count;
  std::string bytes(count, '\0');
  if (!exchange(&step, 1, true) || !exchange(&wanted, sizeof wanted, true) || !exchange(bytes.data(), count, false)) return {};
  return bytes;
}

bool Peer::exchange(void* bytes, std::size_t count, bool out) {
  auto* at = static_cast<char*>(bytes);
  while (count > 0) {
    const auto done = out ? ::send(socket_.get(), at, count, MSG_NOSIGNAL) : ::recv(socket_.get(), at, count, 0);
    if (done <= 0) return false;
    at += done, count -= static_cast<std::size_t>(done);
  }
  return true;
}

}  // namespace ckptd::tests
