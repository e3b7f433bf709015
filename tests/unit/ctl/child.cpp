#include "tests/unit/ctl/child.h"

#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <stdexcept>

namespace ckptd::ctl::test {
namespace {

struct Ends {
  UniqueFd ours, theirs;
};

Ends make_pipe() {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) throw std::runtime_error("pipe");
  return {UniqueFd(ends[0]), UniqueFd(ends[1])};
}

Ends make_terminal(unsigned short columns) {
  int ours = -1, theirs = -1;
  winsize size{};
  size.ws_col = columns;
  size.ws_row = 24;
  if (::openpty(&ours, &theirs, nullptr, nullptr, &size) != 0) throw std::runtime_error("openpty");
  ::fcntl(ours, F_SETFD, FD_CLOEXEC);
  ::fcntl(theirs, F_SETFD, FD_CLOEXEC);
  return {UniqueFd(ours), UniqueFd(theirs)};
}

std::vector<char*> pointers(std::vector<std::string>& words) {
  std::vector<char*> result;
  for (auto& word : words) result.push_back(word.data());
  result.push_back(nullptr);
  return result;
}

/// Only what is allowed between fork and exec.
[[noreturn]] void become(char* const* arguments, char* const* environment, const char* directory, int out, int err) {
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  ::signal(SIGINT, SIG_DFL);
  ::signal(SIGTERM, SIG_DFL);
  if ((*directory && ::chdir(directory) != 0) || ::dup2(out, STDOUT_FILENO) < 0 || ::dup2(err, STDERR_FILENO) < 0)
    ::_exit(126);
  ::execve(arguments[0], arguments, environment);
  ::_exit(127);
}

}  // namespace

Child::Child(std::vector<std::string> arguments, Surroundings surroundings) {
  arguments.insert(arguments.begin(), CKPTCTL_PROGRAM);
  auto argv = pointers(arguments), environment = pointers(surroundings.environment);
  auto out = make_pipe(), err = surroundings.err_columns ? make_terminal(surroundings.err_columns) : make_pipe();
  pid_ = ::fork();
  if (pid_ < 0) throw std::runtime_error("fork");
  if (pid_ == 0)
    become(argv.data(), environment.data(), surroundings.directory.c_str(), out.theirs.get(), err.theirs.get());
  out_ = std::move(out.ours);
  err_ = std::move(err.ours);
  reading_ = std::thread([this] { read_all(); });
}

Child::~Child() {
  finish();
}

void Child::signal(int number) const {
  ::kill(pid_, number);
}

void Child::read_all() {
  std::array<pollfd, 2> sources{pollfd{out_.get(), POLLIN, 0}, pollfd{err_.get(), POLLIN, 0}};
  std::array<char, 4096> chunk{};
  while (sources[0].fd >= 0 || sources[1].fd >= 0) {
    ::poll(sources.data(), sources.size(), -1);
    for (auto& source : sources) {
      if (source.fd < 0 || !source.revents) continue;
      auto count = ::read(source.fd, chunk.data(), chunk.size());
      std::lock_guard lock(mutex_);
      // A terminal whose other end is gone answers EIO and not the end of the file.
      if (count <= 0)
        source.fd = -1;
      else
        (&source == sources.data() ? ended_.out : ended_.err).append(chunk.data(), static_cast<std::size_t>(count));
      changed_.notify_all();
    }
  }
  std::lock_guard lock(mutex_);
  closed_ = true;
  changed_.notify_all();
}

bool Child::wait_for_err(const std::string& text) const {
  std::unique_lock lock(mutex_);
  auto holds = [&] { return ended_.err.find(text) != std::string::npos; };
  changed_.wait_for(lock, std::chrono::seconds(30), [&] { return holds() || closed_; });
  return holds();
}

Ended Child::finish() {
  if (pid_ < 0) return ended_;
  {
    std::unique_lock lock(mutex_);
    if (!changed_.wait_for(lock, std::chrono::seconds(60), [&] { return closed_; })) ::kill(pid_, SIGKILL);
  }
  int status = 0;
  ::waitpid(pid_, &status, 0);
  pid_ = -1;
  reading_.join();
  ended_.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  return ended_;
}

Ended run_ctl(std::vector<std::string> arguments, Surroundings surroundings) {
  return Child(std::move(arguments), std::move(surroundings)).finish();
}

}  // namespace ckptd::ctl::test
