#include "tests/contract/session/process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <stdexcept>
#include <system_error>

namespace ckptd::test {
namespace {

constexpr int kPatienceMs = 30'000;

struct Pipe {
  UniqueFd read, write;
};

Pipe make_pipe() {
  std::array<int, 2> fds{};
  if (::pipe2(fds.data(), O_CLOEXEC) != 0) throw std::system_error(errno, std::system_category(), "pipe2");
  return {UniqueFd(fds[0]), UniqueFd(fds[1])};
}

}  // namespace

Process::Process(const std::vector<std::string>& command) {
  auto in = make_pipe(), out = make_pipe();
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_adddup2(&actions, in.read.get(), STDIN_FILENO);
  ::posix_spawn_file_actions_adddup2(&actions, out.write.get(), STDOUT_FILENO);
  std::vector<char*> arguments;
  for (const auto& argument : command) arguments.push_back(const_cast<char*>(argument.c_str()));
  arguments.push_back(nullptr);
  int code = ::posix_spawn(&pid_, arguments[0], &actions, nullptr, arguments.data(), environ);
  ::posix_spawn_file_actions_destroy(&actions);
  if (code != 0) throw std::system_error(code, std::system_category(), command[0]);
  to_ = std::move(in.write);
  from_ = std::move(out.read);
}

Process::~Process() { kill(); }

void Process::kill() {
  if (pid_ < 0) return;
  ::kill(pid_, SIGKILL);
  while (::waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
  }
  pid_ = -1;
}

void Process::send(const nlohmann::json& line) {
  auto text = line.dump() + "\n";
  if (::write(to_.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size()))
    throw std::runtime_error("the child process takes no input");
}

nlohmann::json Process::receive() {
  for (;;) {
    if (auto end = read_.find('\n'); end != std::string::npos) {
      auto line = read_.substr(0, end);
      read_.erase(0, end + 1);
      return nlohmann::json::parse(line);
    }
    pollfd item{from_.get(), POLLIN, 0};
    if (::poll(&item, 1, kPatienceMs) <= 0) throw std::runtime_error("the child process is silent");
    std::array<char, 4096> block;
    auto got = ::read(from_.get(), block.data(), block.size());
    if (got <= 0) throw std::runtime_error("the child process has ended");
    read_.append(block.data(), static_cast<std::size_t>(got));
  }
}

}  // namespace ckptd::test
