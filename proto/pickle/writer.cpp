#include "proto/pickle/writer.h"

#include <array>
#include <bit>
#include <limits>
#include <utility>

namespace ckptd::pickle {
namespace {

constexpr char kProto = '\x80', kProtocol = '\x03', kStop = '.';
constexpr char kGlobal = 'c', kReduce = 'R', kBuild = 'b', kMark = '(';
constexpr char kBinInt1 = 'K', kBinInt2 = 'M', kBinInt = 'J', kLong1 = '\x8a';
constexpr char kNewTrue = '\x88', kNewFalse = '\x89', kNone = 'N';
constexpr char kBinUnicode = 'X', kShortBinBytes = 'C', kBinBytes = 'B';
constexpr char kTuple = 't', kTuple1 = '\x85', kTuple2 = '\x86', kTuple3 = '\x87';
constexpr char kEmptyList = ']', kAppends = 'e', kEmptyDict = '}', kSetItems = 'u';

void put_little_endian(std::string& buffer, std::uint64_t value, unsigned bytes) {
  std::array<char, sizeof value> little{};
  for (unsigned i = 0; i < little.size(); ++i) little[i] = static_cast<char>(value >> (8 * i));
  buffer.append(little.data(), bytes);
}

/// Bytes of the shortest two's complement form: the top bit of the last byte is the sign.
unsigned signed_width(std::int64_t value) {
  auto magnitude = static_cast<std::uint64_t>(value < 0 ? ~value : value);
  return static_cast<unsigned>(std::bit_width(magnitude)) / 8 + 1;
}

}  // namespace

void Writer::begin() {
  buffer_.clear();
  op(kProto);
  op(kProtocol);
}

void Writer::global(std::string_view module, std::string_view name) {
  op(kGlobal);
  buffer_.append(module).push_back('\n');
  buffer_.append(name).push_back('\n');
}

void Writer::integer(std::int64_t value) {
  auto bits = static_cast<std::uint64_t>(value);
  if (value >= 0 && value <= std::numeric_limits<std::uint8_t>::max()) {
    op(kBinInt1);
    put_little_endian(buffer_, bits, 1);
  } else if (value >= 0 && value <= std::numeric_limits<std::uint16_t>::max()) {
    op(kBinInt2);
    put_little_endian(buffer_, bits, 2);
  } else if (value >= std::numeric_limits<std::int32_t>::min() && value <= std::numeric_limits<std::int32_t>::max()) {
    op(kBinInt);
    put_little_endian(buffer_, bits, 4);
  } else {
    auto width = signed_width(value);
    op(kLong1);
    op(static_cast<char>(width));
    put_little_endian(buffer_, bits, width);
  }
}

void Writer::unsigned_integer(std::uint64_t value) {
  if (value <= static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()))
    return integer(static_cast<std::int64_t>(value));
  op(kLong1);
  op(9);  // the eight bytes would read as a negative number: a ninth carries the sign
  put_little_endian(buffer_, value, 8);
  op(0);
}

void Writer::boolean(bool value) { op(value ? kNewTrue : kNewFalse); }

void Writer::none() { op(kNone); }

void Writer::text(std::string_view utf8) {
  op(kBinUnicode);
  put_little_endian(buffer_, utf8.size(), 4);
  buffer_.append(utf8);
}

void Writer::bytes(std::span<const std::uint8_t> content) {
  bool is_short = content.size() <= std::numeric_limits<std::uint8_t>::max();
  op(is_short ? kShortBinBytes : kBinBytes);
  put_little_endian(buffer_, content.size(), is_short ? 1 : 4);
  buffer_.append(content.begin(), content.end());
}

void Writer::mark() { op(kMark); }
void Writer::tuple_from_mark() { op(kTuple); }
void Writer::tuple1() { op(kTuple1); }
void Writer::tuple2() { op(kTuple2); }
void Writer::tuple3() { op(kTuple3); }
void Writer::empty_list() { op(kEmptyList); }
void Writer::appends() { op(kAppends); }
void Writer::empty_dict() { op(kEmptyDict); }
void Writer::set_items() { op(kSetItems); }
void Writer::reduce() { op(kReduce); }
void Writer::build() { op(kBuild); }

std::string Writer::take_part() {
  auto opcodes = buffer_.substr(2);  // behind kProto and kProtocol
  begin();
  return opcodes;
}

std::string Writer::take() {
  op(kStop);
  auto finished = std::move(buffer_);
  begin();
  return finished;
}

}  // namespace ckptd::pickle
