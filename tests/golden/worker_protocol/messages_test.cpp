#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "tests/golden/worker_protocol/samples.h"

namespace ckptd::test {
namespace {

/// Bytes as pairs of hexadecimal digits; '#' begins a comment.
std::string read_hex(const std::filesystem::path& path) {
  std::ifstream file(path);
  std::string bytes;
  for (std::string line; std::getline(file, line);) {
    std::istringstream pairs(line.substr(0, line.find('#')));
    for (std::string pair; pairs >> pair;) bytes.push_back(static_cast<char>(std::stoi(pair, nullptr, 16)));
  }
  return bytes;
}

std::string show(const std::string& bytes) {
  std::ostringstream text;
  for (unsigned char byte : bytes) text << std::hex << (byte < 16 ? "0" : "") << int{byte} << ' ';
  return text.str();
}

}  // namespace

TEST_CASE("messages have the bytes that are committed") {
  const auto samples = message_samples();
  int compared = 0;
  for (const auto& entry : std::filesystem::directory_iterator(CKPTD_GOLDEN_DIRECTORY)) {
    if (entry.path().extension() != ".hex") continue;
    CAPTURE(entry.path().filename().string());
    REQUIRE(samples.contains(entry.path().stem().string()));
    CHECK(show(samples.at(entry.path().stem().string())) == show(read_hex(entry.path())));
    ++compared;
  }
  CHECK(compared == 6);
  CHECK(samples.at("offer_cuda").size() == 222);
}

}  // namespace ckptd::test
