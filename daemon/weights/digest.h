// Digests of tensors and the identity of a version.
//
// Scheme 1. A tensor is cut into pieces of 4 MiB from its own first byte, the last one shorter; its digest is XXH3-128
// over the concatenated digests of the pieces, each 16 bytes in canonical (big-endian) order. A tensor without bytes has
// no pieces. The identity of a version is XXH3-128 over the text of describe_for_identity(). It detects damage and
// mix-ups, not an attack.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "common/result.h"

namespace ckptd::weights {

inline constexpr std::uint64_t kDigestPieceBytes = 4 << 20;

struct Digest {
  std::array<std::uint8_t, 16> bytes{};  ///< canonical order

  std::string hex() const;
  static Result<Digest> from_hex(std::string_view text);
  auto operator<=>(const Digest&) const = default;
};

/// XXH3-128 of one block. Thread-safe, never fails.
Digest digest_of(std::span<const std::byte> block);

/// digest_of() for a block that lies in several parts: add() them in order, finish() once, then it starts afresh and
/// may be used again without a new allocation. One thread at a time.
class DigestStream {
 public:
  DigestStream();
  void add(std::span<const std::byte> part);
  Digest finish();

 private:
  struct Free {
    void operator()(void* state) const;
  };
  std::unique_ptr<void, Free> state_;
};

/// The digest of a tensor from those of its pieces, in order.
Digest combine_pieces(std::span<const Digest> pieces);

}  // namespace ckptd::weights
