// A child process that speaks JSON lines: the reference rank, or the daemon that is to be killed.
#pragma once

#include <sys/types.h>

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "common/unique_fd.h"

namespace ckptd::test {

class Process {
 public:
  explicit Process(const std::vector<std::string>& command);
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;
  ~Process();  ///< kills it

  pid_t pid() const { return pid_; }
  void send(const nlohmann::json& line);
  /// The next line of its output; throws when none comes in half a minute or the process has ended.
  nlohmann::json receive();
  nlohmann::json ask(const nlohmann::json& line) {
    send(line);
    return receive();
  }
  void kill();

 private:
  pid_t pid_ = -1;
  UniqueFd to_, from_;
  std::string read_;
};

}  // namespace ckptd::test
