// Errors as values.
//
// Every function that a rank, a file, a peer, a disk or a client can make fail returns Result<T>. An Error is a kind
// (what a program decides on), a sentence (what a person reads: who, at which step, what to do next), optional facts
// (named values for programs, such as the id of a job in the way) and optional text of a vendor or the system.
// Assertions are for our own bugs only.
#pragma once

#include <fmt/format.h>

#include <expected>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace ckptd {

/// What went wrong, as a program sees it. proto/control/outcome.h maps each kind to its HTTP status and exit code.
enum class ErrorKind {
  invalid_argument,  ///< the request itself is wrong
  not_found,         ///< a name that nobody knows
  conflict,          ///< the request contradicts what is there; repeating it does not help
  busy,              ///< in use right now; repeating it later helps
  no_space,          ///< a budget or limit of memory, arena or state is exhausted
  denied,            ///< not allowed to this client or this uid
  unsupported,       ///< well-formed, but nothing here can carry it out
  corrupt,           ///< bytes from a disk or a peer contradict their own description
  timed_out,         ///< somebody did not do a step before its deadline
  cancelled,         ///< a client asked for the end
  unavailable,       ///< a service that is needed is not there, or we are shutting down
  peer_failed,       ///< a rank or an engine reported a failure or died
  partial,           ///< of several engines some have what was asked for, and some have not
  io,                ///< the operating system refused
  internal,          ///< a bug of ours
};

struct Error {
  ErrorKind kind = ErrorKind::internal;
  std::string sentence;
  std::string vendor = {};
  std::vector<std::pair<std::string, std::string>> facts = {};

  /// The same error, its sentence preceded by where it happened: "loading llama@3: ...".
  [[nodiscard]] Error within(std::string_view where) const&;
  [[nodiscard]] Error with_fact(std::string name, std::string value) &&;
  [[nodiscard]] Error with_vendor(std::string text) &&;
};

template <class T = void>
using Result = std::expected<T, Error>;

template <class... Args>
[[nodiscard]] std::unexpected<Error> fail(ErrorKind kind, fmt::format_string<Args...> text, Args&&... args) {
  return std::unexpected(Error{kind, fmt::format(text, std::forward<Args>(args)...)});
}

/// An error of the operating system. `what` is what we tried, as in "open /data/model.safetensors".
/// ENOENT becomes not_found, EACCES and EPERM denied, ENOSPC and ENOMEM no_space, everything else io.
[[nodiscard]] Error system_error(int error_number, std::string_view what);

/// "invalid_argument", ...: the spelling on the wire. Its inverse returns internal for an unknown spelling.
std::string_view name_of(ErrorKind kind);
ErrorKind error_kind_named(std::string_view name);

namespace detail {
template <class T>
T take(Result<T>& result) {
  if constexpr (!std::is_void_v<T>) return std::move(*result);
}
}  // namespace detail

}  // namespace ckptd

/// The value of a Result, or return its error from the enclosing function. Not for coroutines. Only as a whole statement
/// or initialiser, or beside plain values: g++ does not destroy the other temporaries of an expression that it leaves in
/// the middle (found by LeakSanitizer).
#define CKPTD_TRY(expression)                                                              \
  __extension__({                                                                          \
    auto ckptd_result = (expression);                                                      \
    if (!ckptd_result) return std::unexpected(std::move(ckptd_result).error());            \
    ::ckptd::detail::take(ckptd_result);                                                   \
  })
