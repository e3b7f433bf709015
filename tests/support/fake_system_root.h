// A directory that stands in for "/" where the store reads /proc and /sys. Empty at first: a machine without limits.
#pragma once

#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>
#include <string_view>

#include "common/units.h"

namespace ckptd::test {

class FakeSystemRoot {
 public:
  FakeSystemRoot() {
    std::string pattern = "/tmp/ckptd-root-XXXXXX";
    if (mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("mkdtemp failed");
    path_ = pattern;
  }
  ~FakeSystemRoot() { std::filesystem::remove_all(path_); }
  FakeSystemRoot(const FakeSystemRoot&) = delete;
  FakeSystemRoot& operator=(const FakeSystemRoot&) = delete;

  const std::filesystem::path& path() const { return path_; }

  void write(std::string_view relative, std::string_view content) const {
    auto file = path_ / relative;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file) << content;
  }

  void set_memory(std::uint64_t total_bytes, std::uint64_t available_bytes) const {
    write("proc/meminfo", fmt::format("MemTotal:       {} kB\nMemFree:  1 kB\nMemAvailable:   {} kB\nBuffers: 5 kB\n",
                                      total_bytes / kKiB, available_bytes / kKiB));
  }

 private:
  std::filesystem::path path_;
};

}  // namespace ckptd::test
