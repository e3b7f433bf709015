// Runs parse_command_line over a file that is written for one test.
#pragma once

#include <stdlib.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <fstream>
#include <string>
#include <vector>

#include "daemon/config/config.h"

namespace ckptd::config {

inline Result<CommandLine> parse(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), "ckptd");
  std::vector<const char*> argv;
  for (const auto& argument : arguments) argv.push_back(argument.c_str());
  argv.push_back(nullptr);
  return parse_command_line(static_cast<int>(arguments.size()), argv.data());
}

/// A file under /tmp with this text, gone at the end.
class ConfigFile {
 public:
  explicit ConfigFile(std::string_view text) {
    char name[] = "/tmp/ckptd-config-XXXXXX";
    int fd = ::mkstemp(name);
    REQUIRE(fd >= 0);
    ::close(fd);
    path_ = name;
    std::ofstream(path_, std::ios::binary) << text;
  }
  ConfigFile(const ConfigFile&) = delete;
  ~ConfigFile() { ::unlink(path_.c_str()); }

  const std::string& path() const { return path_; }
  Result<CommandLine> parse(std::vector<std::string> flags = {}) const {
    flags.insert(flags.begin(), {"--config", path_});
    return config::parse(std::move(flags));
  }

 private:
  std::string path_;
};

inline bool contains(const std::string& text, std::string_view part) { return text.find(part) != std::string::npos; }

/// The sentence with which this file is refused.
inline std::string refusal_of(std::string_view text, std::vector<std::string> flags = {}) {
  ConfigFile file(text);
  auto line = file.parse(std::move(flags));
  INFO(text);
  REQUIRE_FALSE(line);
  CHECK(line.error().kind == ErrorKind::invalid_argument);
  return line.error().sentence;
}

}  // namespace ckptd::config
