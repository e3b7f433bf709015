// Runs the real ckptctl as a child, with its stdout in a pipe and its stderr in a pipe or on a terminal of its own.
#pragma once

#include <sys/types.h>

#include <condition_variable>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "common/unique_fd.h"

namespace ckptd::ctl::test {

struct Ended {
  int exit_code = -1;  ///< minus the number of the signal that killed it
  std::string out, err;
};

struct Surroundings {
  unsigned short err_columns = 0;          ///< not 0: stderr is a terminal of this width
  std::vector<std::string> environment{};  ///< "LANG=C", ...; nothing else is passed on
  std::string directory{};                 ///< empty: ours
};

class Child {
 public:
  explicit Child(std::vector<std::string> arguments, Surroundings surroundings = {});
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  ~Child();

  void signal(int number) const;
  /// Blocks until stderr holds this text, half a minute at most. Whether it does.
  bool wait_for_err(const std::string& text) const;
  /// Waits for its end, a minute at most; then it is killed and the exit code is -SIGKILL.
  Ended finish();

 private:
  void read_all();

  pid_t pid_ = -1;
  UniqueFd out_, err_;
  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  Ended ended_;
  bool closed_ = false;
  std::thread reading_;
};

/// From start to end.
Ended run_ctl(std::vector<std::string> arguments, Surroundings surroundings = {});

}  // namespace ckptd::ctl::test
