#include "proto/vllm/weight_transfer/base64.h"

#include <cstdint>

namespace ckptd::proto::vllm::weight_transfer {
namespace {

constexpr std::string_view kAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
constexpr std::size_t kGroupBytes = 3, kGroupLetters = 4, kLetterBits = 6;

}  // namespace

std::string base64(std::string_view bytes) {
  std::string text;
  text.reserve((bytes.size() + kGroupBytes - 1) / kGroupBytes * kGroupLetters);
  for (std::size_t at = 0; at < bytes.size(); at += kGroupBytes) {
    const auto group = bytes.substr(at, kGroupBytes);
    std::uint32_t bits = 0;
    for (std::size_t i = 0; i < kGroupBytes; ++i)
      bits = bits << 8 | (i < group.size() ? static_cast<unsigned char>(group[i]) : 0U);
    for (std::size_t i = 0; i < kGroupLetters; ++i)
      text.push_back(i <= group.size() ? kAlphabet[bits >> (kLetterBits * (kGroupLetters - 1 - i)) & 63U] : '=');
  }
  return text;
}

}  // namespace ckptd::proto::vllm::weight_transfer
