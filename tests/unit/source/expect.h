// Shorthands of this room's tests.
#pragma once

#include <catch2/catch.hpp>
#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/result.h"

namespace ckptd::source {

inline std::span<const std::byte> bytes_of_text(std::string_view text) { return std::as_bytes(std::span(text)); }

template <class T>
T must(Result<T> result) {
  if (!result) FAIL(result.error().sentence);
  if constexpr (!std::is_void_v<T>) return std::move(*result);
}

/// The error is of this kind, and its sentence names all of `parts`.
template <class T>
void check_error(const Result<T>& result, ErrorKind kind, const std::vector<std::string>& parts) {
  if (result) {
    FAIL_CHECK("no error, expected " << name_of(kind));
    return;
  }
  INFO(result.error().sentence);
  CHECK(name_of(result.error().kind) == name_of(kind));
  for (const auto& part : parts) CHECK_THAT(result.error().sentence, Catch::Contains(part));
}

}  // namespace ckptd::source
