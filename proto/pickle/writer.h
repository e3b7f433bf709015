// Writes Python pickles, protocol 3, opcode by opcode. Nothing in this project reads one.
//
// Protocol 3 is the oldest with a bytes opcode and is read by every Python 3. No memo is used. Opcodes are those of
// CPython's pickletools.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace ckptd::pickle {

class Writer {
 public:
  Writer() { begin(); }

  void global(std::string_view module, std::string_view name);  ///< GLOBAL: an importable object
  void integer(std::int64_t value);                             ///< BININT1, BININT2, BININT or LONG1, the shortest
  void unsigned_integer(std::uint64_t value);
  void boolean(bool value);
  void none();
  void text(std::string_view utf8);                   ///< BINUNICODE
  void bytes(std::span<const std::uint8_t> content);  ///< SHORT_BINBYTES or BINBYTES
  void mark();                                        ///< MARK: opens a tuple, list or dict of any length
  void tuple_from_mark();                             ///< TUPLE
  void tuple1();
  void tuple2();
  void tuple3();
  void empty_list();
  void appends();     ///< APPENDS: mark .. items onto the list below the mark
  void empty_dict();
  void set_items();   ///< SETITEMS: mark .. key value pairs into the dict below the mark
  void reduce();      ///< REDUCE: callable and argument tuple -> the call's result
  void build();       ///< BUILD: object and state -> object.__setstate__(state)

  /// Opcodes that another writer has made, see take_part(): for what is repeated many times.
  void part(std::string_view opcodes) { buffer_.append(opcodes); }
  /// What was written so far, without the pickle's begin and end. The writer starts a new one.
  std::string take_part();

  void reserve(std::size_t bytes) { buffer_.reserve(bytes); }
  /// The finished pickle, with STOP. The writer starts a new one.
  std::string take();

 private:
  void begin();
  void op(char opcode) { buffer_.push_back(opcode); }
  std::string buffer_;
};

}  // namespace ckptd::pickle
