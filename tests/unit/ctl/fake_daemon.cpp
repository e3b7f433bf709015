#include "tests/unit/ctl/fake_daemon.h"

#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <stdexcept>

namespace ckptd::ctl::test {
namespace {

constexpr auto kPatience = std::chrono::seconds(30);

std::size_t content_length(const std::string& head) {
  auto lower = head;
  std::ranges::transform(lower, lower.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  auto at = lower.find("content-length:");
  return at == std::string::npos ? 0 : std::stoul(lower.substr(at + 15));
}

Asked read_request(int fd) {
  std::string received;
  std::array<char, 4096> chunk{};
  std::size_t head_end = std::string::npos;
  while (true) {
    head_end = received.find("\r\n\r\n");
    if (head_end != std::string::npos && received.size() >= head_end + 4 + content_length(received.substr(0, head_end)))
      break;
    auto count = ::recv(fd, chunk.data(), chunk.size(), 0);
    if (count <= 0) return {};
    received.append(chunk.data(), static_cast<std::size_t>(count));
  }
  auto first_blank = received.find(' '), second_blank = received.find(' ', first_blank + 1);
  return {received.substr(0, first_blank), received.substr(first_blank + 1, second_blank - first_blank - 1),
          received.substr(0, head_end), received.substr(head_end + 4)};
}

void send_all(int fd, std::string_view text) {
  while (!text.empty()) {
    auto count = ::send(fd, text.data(), text.size(), MSG_NOSIGNAL);
    if (count <= 0) return;
    text.remove_prefix(static_cast<std::size_t>(count));
  }
}

std::string on_the_wire(const Reply& reply) {
  if (!reply.raw.empty()) return reply.raw;
  return fmt::format(
      "HTTP/1.1 {} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{}",
      reply.status, reply.body.size(), reply.body);
}

}  // namespace

FakeDaemon::FakeDaemon(Handler handler, Handler events)
    : handler_(std::move(handler)), events_(std::move(events)) {
  std::string pattern = "/tmp/ckptctl-test-XXXXXX";
  if (!::mkdtemp(pattern.data())) throw std::runtime_error("mkdtemp");
  folder_ = pattern;
  socket_ = pattern + "/control.sock";
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, socket_.c_str(), socket_.size() + 1);
  listener_ = UniqueFd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const auto* generic = static_cast<const sockaddr*>(static_cast<const void*>(&address));
  if (::bind(listener_.get(), generic, sizeof address) != 0 || ::listen(listener_.get(), 64) != 0)
    throw std::runtime_error("bind " + socket_);
  accepting_ = std::thread([this] { accept_all(); });
}

FakeDaemon::~FakeDaemon() {
  die();
  std::error_code ignored;
  std::filesystem::remove_all(folder_, ignored);
}

void FakeDaemon::die() {
  {
    std::lock_guard lock(mutex_);
    dying_ = true;
    ::shutdown(listener_.get(), SHUT_RDWR);
    for (int fd : open_) ::shutdown(fd, SHUT_RDWR);
    changed_.notify_all();
  }
  if (accepting_.joinable()) accepting_.join();
  for (auto& thread : serving_) thread.join();
  serving_.clear();
  listener_ = UniqueFd();
}

void FakeDaemon::accept_all() {
  while (true) {
    int fd = ::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC);
    std::lock_guard lock(mutex_);
    if (fd >= 0 && dying_) ::close(fd);
    if (fd < 0 || dying_) return;
    open_.push_back(fd);
    serving_.emplace_back([this, fd] { serve(fd); });
  }
}

void FakeDaemon::serve(int fd) {
  auto request = read_request(fd);
  const bool is_stream = request.target.ends_with("/events");
  if (is_stream && !events_) {
    send_all(fd, on_the_wire({404, R"({"error":{"kind":"not_found","sentence":"there is no such path"}})"}));
  } else if (!request.method.empty()) {
    {
      std::lock_guard lock(mutex_);
      asked_.push_back(request);
      changed_.notify_all();
    }
    auto reply = [&] {
      std::lock_guard lock(calling_);
      return is_stream ? events_(request) : handler_(request);
    }();
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, reply.delay, [&] { return dying_; });
    bool answer = !dying_ && !reply.hang_up;
    lock.unlock();
    if (answer) send_all(fd, on_the_wire(reply));
  }
  std::lock_guard lock(mutex_);
  std::erase(open_, fd);
  ::close(fd);
}

std::vector<Asked> FakeDaemon::asked() const {
  std::lock_guard lock(mutex_);
  return asked_;
}

bool FakeDaemon::wait_for_requests(std::size_t count) const {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, kPatience, [&] { return asked_.size() >= count; });
}

}  // namespace ckptd::ctl::test
