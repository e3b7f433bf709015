// Writes the samples into a directory, for Python to read.
#include <filesystem>
#include <fstream>

#include "tests/golden/vllm_weight_transfer/samples.h"

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  for (const auto& [name, bytes] : ckptd::test::vllm_samples())
    std::ofstream(std::filesystem::path(argv[1]) / name, std::ios::binary) << bytes;
  return 0;
}
