#include "daemon/weights/digest.h"

#include <xxhash.h>

#include <charconv>
#include <cstring>

namespace ckptd::weights {

std::string Digest::hex() const {
  std::string text;
  for (auto byte : bytes) text += fmt::format("{:02x}", byte);
  return text;
}

Result<Digest> Digest::from_hex(std::string_view text) {
  Digest digest;
  if (text.size() != 2 * digest.bytes.size())
    return fail(ErrorKind::invalid_argument, "'{}' is not a digest of 32 hexadecimal digits", text);
  for (std::size_t i = 0; i < digest.bytes.size(); ++i) {
    const char* first = text.data() + 2 * i;
    auto [end, error] = std::from_chars(first, first + 2, digest.bytes[i], 16);
    if (error != std::errc{} || end != first + 2)
      return fail(ErrorKind::invalid_argument, "'{}' is not a digest of 32 hexadecimal digits", text);
  }
  return digest;
}

Digest digest_of(std::span<const std::byte> block) {
  XXH128_canonical_t canonical;
  XXH128_canonicalFromHash(&canonical, XXH3_128bits(block.data(), block.size()));
  Digest digest;
  std::memcpy(digest.bytes.data(), canonical.digest, digest.bytes.size());
  return digest;
}

Digest combine_pieces(std::span<const Digest> pieces) {
  static_assert(sizeof(Digest) == 16);
  return digest_of(std::as_bytes(pieces));
}

}  // namespace ckptd::weights
