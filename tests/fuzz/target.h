// What a fuzz target is made of: libFuzzer's one function, and a check that ends the process, so that the input which
// breaks a promise is found and kept.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <span>
#include <string>
#include <string_view>

#include "common/result.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace ckptd::fuzz {

inline void check(bool holds, std::string_view promise) {
  if (holds) return;
  std::fprintf(stderr, "broken promise: %.*s\n", static_cast<int>(promise.size()), promise.data());
  std::abort();
}

/// What every refusal of bad input promises: it has a sentence that fits a line, and is nobody's bug.
inline void check_refusal(const Error& error) {
  check(error.kind != ErrorKind::internal, "bad input is not an internal error");
  check(!error.sentence.empty(), "a refusal has a sentence");
  check(error.sentence.size() < 4096, "a sentence is not as long as the input");
  check(std::ranges::none_of(error.sentence, [](unsigned char c) { return c < 0x20 || c == 0x7f; }),
        "a sentence has no control characters");
}

inline std::string_view text_of(std::span<const std::uint8_t> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

/// Reads a search's input as numbers and what is left of it.
class Input {
 public:
  Input(const std::uint8_t* data, std::size_t size) : rest_(data, size) {}

  std::uint8_t byte() {
    if (rest_.empty()) return 0;
    const auto value = rest_.front();
    rest_ = rest_.subspan(1);
    return value;
  }

  std::string_view text(std::size_t most) {
    const auto length = std::min(most, rest_.size());
    const auto text = text_of(rest_.first(length));
    rest_ = rest_.subspan(length);
    return text;
  }

  std::string_view rest() { return text(rest_.size()); }
  bool empty() const { return rest_.empty(); }

  /// Up to the next line feed, which goes too.
  std::string_view line() {
    const auto all = text_of(rest_);
    const auto end = all.find('\n');
    const auto line = text(std::min(end, all.size()));
    byte();
    return line;
  }

 private:
  std::span<const std::uint8_t> rest_;
};

}  // namespace ckptd::fuzz
