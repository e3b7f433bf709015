#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "proto/vllm/weight_transfer/base64.h"
#include "tests/golden/vllm_weight_transfer/samples.h"

namespace ckptd::test {
namespace {

/// A body as it is; the pickle as pairs of hexadecimal digits, where '#' begins a comment.
std::string read_golden(const std::filesystem::path& path) {
  std::ifstream file(path);
  std::string bytes, line;
  if (path.extension() != ".hex") {
    std::getline(file, bytes);
    return bytes;
  }
  while (std::getline(file, line)) {
    std::istringstream pairs(line.substr(0, line.find('#')));
    for (std::string pair; pairs >> pair;) bytes.push_back(static_cast<char>(std::stoi(pair, nullptr, 16)));
  }
  return bytes;
}

}  // namespace

TEST_CASE("requests have the bytes that are committed") {
  const auto samples = vllm_samples();
  std::size_t compared = 0;
  for (const auto& entry : std::filesystem::directory_iterator(CKPTD_GOLDEN_DIRECTORY)) {
    if (entry.path().extension() != ".hex" && entry.path().extension() != ".json") continue;
    const auto name = entry.path().extension() == ".hex" ? entry.path().stem().string() + ".pickle"
                                                         : entry.path().filename().string();
    CAPTURE(name);
    REQUIRE(samples.contains(name));
    CHECK(samples.at(name) == read_golden(entry.path()));
    ++compared;
  }
  CHECK(compared == samples.size());
}

TEST_CASE("base64 pads to whole groups") {
  using proto::vllm::weight_transfer::base64;
  CHECK(base64("").empty());
  CHECK(base64("f") == "Zg==");
  CHECK(base64("fo") == "Zm8=");
  CHECK(base64("foo") == "Zm9v");
  CHECK(base64("foobar") == "Zm9vYmFy");
  CHECK(base64(std::string("\xff\xef\x00", 3)) == "/+8A");
}

}  // namespace ckptd::test
