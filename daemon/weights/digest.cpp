#include "daemon/weights/digest.h"

#include <xxhash.h>
// The library's own code for AVX2 and AVX-512, chosen while it runs: the plain one is built for the oldest processor.
// The digests are the same. The header renames the functions of the one above.
#if defined(__x86_64__) && __has_include(<xxh_x86dispatch.h>)
#include <xxh_x86dispatch.h>
#endif

#include <charconv>
#include <cstring>
#include <new>

namespace ckptd::weights {
namespace {

Digest canonical(XXH128_hash_t hash) {
  XXH128_canonical_t text;
  XXH128_canonicalFromHash(&text, hash);
  Digest digest;
  std::memcpy(digest.bytes.data(), text.digest, digest.bytes.size());
  return digest;
}

}  // namespace

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
  return canonical(XXH3_128bits(block.data(), block.size()));
}

void DigestStream::Free::operator()(void* state) const { XXH3_freeState(static_cast<XXH3_state_t*>(state)); }

DigestStream::DigestStream() : state_(XXH3_createState()) {
  if (!state_) throw std::bad_alloc();
  XXH3_128bits_reset(static_cast<XXH3_state_t*>(state_.get()));
}

void DigestStream::add(std::span<const std::byte> part) {
  XXH3_128bits_update(static_cast<XXH3_state_t*>(state_.get()), part.data(), part.size());
}

Digest DigestStream::finish() {
  auto* state = static_cast<XXH3_state_t*>(state_.get());
  auto digest = canonical(XXH3_128bits_digest(state));
  XXH3_128bits_reset(state);
  return digest;
}

Digest combine_pieces(std::span<const Digest> pieces) {
  static_assert(sizeof(Digest) == 16);
  return digest_of(std::as_bytes(pieces));
}

}  // namespace ckptd::weights
