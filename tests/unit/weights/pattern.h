// Bytes that are easily made again elsewhere: byte i is (7 i + 3) mod 251.
#pragma once

#include <cstddef>
#include <vector>

namespace ckptd::weights {

inline std::vector<std::byte> pattern(std::size_t count) {
  std::vector<std::byte> bytes(count);
  for (std::size_t i = 0; i < count; ++i) bytes[i] = static_cast<std::byte>((i * 7 + 3) % 251);
  return bytes;
}

}  // namespace ckptd::weights
