#include <catch2/catch.hpp>

#include <random>
#include <vector>

#include "daemon/weights/digest.h"

using namespace ckptd;

TEST_CASE("a digest over parts is that of the whole, and the stream starts afresh") {
  const auto seed = std::random_device{}();
  INFO("seed " << seed);
  std::mt19937 random(seed);
  weights::DigestStream stream;
  CHECK(stream.finish() == weights::digest_of({}));
  for (std::size_t size : {1UL, 240UL, 241UL, 4096UL, 70'000UL}) {
    std::vector<std::byte> bytes(size);
    for (auto& byte : bytes) byte = static_cast<std::byte>(random());
    for (std::size_t done = 0; done < size;) {
      auto part = std::min<std::size_t>(random() % 5000, size - done);
      stream.add(std::span(bytes).subspan(done, part));
      done += part;
    }
    CHECK(stream.finish() == weights::digest_of(bytes));
  }
}
