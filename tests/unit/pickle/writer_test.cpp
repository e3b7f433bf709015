#include "proto/pickle/writer.h"

#include <catch2/catch.hpp>
#include <limits>

namespace ckptd::pickle {
namespace {

using namespace std::string_literals;

/// What stands between PROTO 3 and STOP.
std::string body(Writer& writer) {
  auto pickle = writer.take();
  REQUIRE(pickle.size() >= 3);
  REQUIRE(pickle.substr(0, 2) == "\x80\x03"s);
  REQUIRE(pickle.back() == '.');
  return pickle.substr(2, pickle.size() - 3);
}

std::string integer(std::int64_t value) {
  Writer writer;
  writer.integer(value);
  return body(writer);
}

std::string unsigned_integer(std::uint64_t value) {
  Writer writer;
  writer.unsigned_integer(value);
  return body(writer);
}

}  // namespace

TEST_CASE("integers take the shortest form at each border") {
  CHECK(integer(0) == "K\x00"s);
  CHECK(integer(255) == "K\xff"s);
  CHECK(integer(256) == "M\x00\x01"s);
  CHECK(integer(65'535) == "M\xff\xff"s);
  CHECK(integer(65'536) == "J\x00\x00\x01\x00"s);
  CHECK(integer(2'147'483'647) == "J\xff\xff\xff\x7f"s);
  CHECK(integer(-1) == "J\xff\xff\xff\xff"s);
  CHECK(integer(-2'147'483'648) == "J\x00\x00\x00\x80"s);
}

TEST_CASE("long integers carry their sign in the top bit of the last byte") {
  CHECK(integer(2'147'483'648) == "\x8a\x05\x00\x00\x00\x80\x00"s);
  CHECK(integer(-2'147'483'649) == "\x8a\x05\xff\xff\xff\x7f\xff"s);
  CHECK(integer(17'179'869'184) == "\x8a\x05\x00\x00\x00\x00\x04"s);
  CHECK(integer((std::int64_t{1} << 39) - 1) == "\x8a\x05\xff\xff\xff\xff\x7f"s);
  CHECK(integer(std::int64_t{1} << 39) == "\x8a\x06\x00\x00\x00\x00\x80\x00"s);
  CHECK(integer(-(std::int64_t{1} << 39)) == "\x8a\x05\x00\x00\x00\x00\x80"s);
  CHECK(integer(std::numeric_limits<std::int64_t>::max()) == "\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f"s);
  CHECK(integer(std::numeric_limits<std::int64_t>::min()) == "\x8a\x08\x00\x00\x00\x00\x00\x00\x00\x80"s);
}

TEST_CASE("parts make the same pickle as what they were made of") {
  Writer parts, writer, whole;
  parts.empty_list();
  parts.mark();
  const auto begin = parts.take_part();
  parts.appends();
  CHECK(parts.take_part() == "e");
  CHECK(parts.take_part().empty());
  writer.part(begin);
  writer.integer(7);
  whole.empty_list();
  whole.mark();
  whole.integer(7);
  CHECK(writer.take() == whole.take());
}

TEST_CASE("unsigned integers above the signed range have a ninth byte") {
  CHECK(unsigned_integer(7) == "K\x07"s);
  CHECK(unsigned_integer(std::uint64_t{1} << 63) == "\x8a\x09\x00\x00\x00\x00\x00\x00\x00\x80\x00"s);
  CHECK(unsigned_integer(std::numeric_limits<std::uint64_t>::max()) == "\x8a\x09\xff\xff\xff\xff\xff\xff\xff\xff\x00"s);
}

TEST_CASE("text and bytes are preceded by their length") {
  Writer writer;
  writer.text("");
  writer.text("größe");
  CHECK(body(writer) ==
        "X\x00\x00\x00\x00X\x07\x00\x00\x00gr\xc3\xb6\xc3\x9f"s
        "e"s);

  const std::vector<std::uint8_t> short_bytes(255, 0xab), long_bytes(256, 0xcd);
  writer.bytes(short_bytes);
  CHECK(body(writer) == "C\xff"s + std::string(255, '\xab'));
  writer.bytes(long_bytes);
  CHECK(body(writer) == "B\x00\x01\x00\x00"s + std::string(256, '\xcd'));
  writer.bytes({});
  CHECK(body(writer) == "C\x00"s);
}

TEST_CASE("every other opcode") {
  Writer writer;
  writer.global("torch.storage", "TypedStorage");
  CHECK(body(writer) == "ctorch.storage\nTypedStorage\n");
  writer.none();
  writer.boolean(true);
  writer.boolean(false);
  writer.mark();
  writer.tuple_from_mark();
  writer.tuple1();
  writer.tuple2();
  writer.tuple3();
  writer.empty_list();
  writer.appends();
  writer.empty_dict();
  writer.set_items();
  writer.reduce();
  writer.build();
  CHECK(body(writer) == "N\x88\x89(t\x85\x86\x87]e}uRb");
}

TEST_CASE("taking a pickle begins the next one") {
  Writer writer;
  writer.none();
  CHECK(writer.take() == "\x80\x03N.");
  writer.boolean(true);
  CHECK(writer.take() == "\x80\x03\x88.");
}

}  // namespace ckptd::pickle
