// Writes each message sample into a directory, as NAME.bin.
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>

#include "tests/golden/worker_protocol/samples.h"

int main(int argc, char** argv) {
  if (argc != 2) return EXIT_FAILURE;
  for (const auto& [name, message] : ckptd::test::message_samples()) {
    std::ofstream file(std::filesystem::path(argv[1]) / (name + ".bin"), std::ios::binary);
    file << message;
    if (!file.flush()) {
      std::cerr << "cannot write " << name << '\n';
      return EXIT_FAILURE;
    }
  }
  return EXIT_SUCCESS;
}
