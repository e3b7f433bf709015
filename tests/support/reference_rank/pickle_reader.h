// Reads the pickles that a sender of the worker protocol writes: exactly those opcodes, nothing else. It shares no code
// with the writer under test and calls nothing: a call is kept as a value that says what would be called.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace ckptd::reference_rank {

struct Value {
  enum class Kind { none, boolean, integer, text, bytes, global, tuple, list, dict, call };

  Kind kind = Kind::none;
  std::int64_t integer = 0;  ///< also of boolean
  std::string text;          ///< of text and bytes; "module name" of global
  std::vector<Value>
      items;  ///< of tuple and list; keys and values in turn of dict; callable, arguments[, state] of call

  bool is(Kind other) const { return kind == other; }
  bool is_global(std::string_view name) const { return kind == Kind::global && text == name; }
  /// The value of a text key; throws PythonError KeyError.
  const Value& at(std::string_view key) const;
};

/// Throws PythonError, as pickle.loads would.
Value read_pickle(std::string_view pickle);

}  // namespace ckptd::reference_rank
