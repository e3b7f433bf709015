// Runs a fuzz target over the files and directories that it is given: how a corpus becomes an ordinary test.
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "tests/fuzz/target.h"

namespace {

namespace fs = std::filesystem;

int replay(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(file), {}};
  std::fprintf(stderr, "%s\n", path.c_str());  // the last line, if this input aborts
  LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size());
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  int inputs = 0;
  for (const auto& given : std::vector<fs::path>(argv + 1, argv + argc)) {
    if (fs::is_directory(given)) {
      for (const auto& entry : fs::directory_iterator(given)) inputs += replay(entry.path());
    } else {
      inputs += replay(given);
    }
  }
  std::fprintf(stderr, "%d inputs replayed\n", inputs);
  return inputs == 0 ? 1 : 0;  // an empty corpus tests nothing
}
