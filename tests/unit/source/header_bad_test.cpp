// Headers that the format forbids: each is refused, and the sentence names what is wrong where.
#include <algorithm>
#include <random>

#include "daemon/source/safetensors_header.h"
#include "tests/support/checkpoint_files/safetensors.h"
#include "tests/unit/source/expect.h"

namespace ckptd::source {
namespace {

using tests::file_with_header;

Result<SafetensorsHeader> parse(std::string_view file) {
  return parse_safetensors_header(bytes_of_text(file), file.size());
}

/// Of a header: 4 bytes of data follow it.
struct Row {
  std::string_view why;
  std::string_view header;
  std::vector<std::string> named;
};

// clang-format off: one row a line
const Row kRows[] = {
    {"empty header", "", {"byte 8"}},
    {"only padding", "   ", {"byte 8"}},
    {"space before the brace", " {}", {"byte 8"}},
    {"byte order mark", "\xef\xbb\xbf{}", {"byte 8"}},
    {"array", "[]", {"byte 8"}},
    {"string", R"("a")", {"byte 8"}},
    {"null", "null", {"byte 8"}},
    {"open brace", "{", {"byte 8"}},
    {"cut off", R"({"a":{"dtype":"U8")", {"byte 25"}},
    {"cut off after an inner brace", R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]})", {"not JSON"}},
    {"two values", R"({}{})", {"not JSON"}},
    {"newline as padding", "{}\n", {"byte 10", "spaces"}},
    {"tabulator as padding", "{}\t", {"byte 10"}},
    {"NUL as padding", std::string_view("{}\0", 3), {"byte 10"}},
    {"trailing comma", R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},})", {"not JSON"}},
    {"single quotes", R"({'a':{}})", {"not JSON"}},
    {"comment", R"({/* */})", {"not JSON"}},
    {"NaN", R"({"a":NaN})", {"not JSON"}},
    {"control character in a name", "{\"a\nb\":{}}", {"not JSON"}},
    {"bad escape", R"({"a\q":{}})", {"not JSON"}},
    {"not UTF-8 in a name", "{\"a\xff\":{}}", {"byte 11", "UTF-8"}},
    {"overlong UTF-8", "{\"\xc0\xaf\":{}}", {"byte 10", "UTF-8"}},
    {"surrogate in UTF-8", "{\"\xed\xa0\x80\":{}}", {"byte 10", "UTF-8"}},
    {"UTF-8 cut off by a quote", "{\"\xe2\x82\":{}}", {"byte 10", "UTF-8"}},
    {"half a surrogate pair, first", R"({"a\ud800":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})", {}},
    {"half a surrogate pair, second", R"({"a\udc00":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})", {}},

    {"tensor is a number", R"({"a":1})", {"tensor a", "object"}},
    {"tensor is null", R"({"a":null})", {"tensor a", "object"}},
    {"tensor is an array", R"({"a":[]})", {"tensor a", "object"}},
    {"empty tensor", R"({"a":{}})", {"tensor a", "dtype"}},
    {"no dtype", R"({"a":{"shape":[4],"data_offsets":[0,4]}})", {"tensor a", "dtype"}},
    {"no shape", R"({"a":{"dtype":"U8","data_offsets":[0,4]}})", {"tensor a", "shape"}},
    {"no data_offsets", R"({"a":{"dtype":"U8","shape":[4]}})", {"tensor a", "data_offsets"}},
    {"unknown member", R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4],"strides":[1]}})", {"tensor a", "strides"}},
    {"member in capitals", R"({"a":{"Dtype":"U8","shape":[4],"data_offsets":[0,4]}})", {"tensor a", "Dtype"}},
    {"dtype twice", R"({"a":{"dtype":"U8","dtype":"U8","shape":[4],"data_offsets":[0,4]}})", {"tensor a", "dtype", "twice"}},
    {"shape twice", R"({"a":{"dtype":"U8","shape":[4],"shape":[4],"data_offsets":[0,4]}})", {"tensor a", "shape", "twice"}},
    {"offsets twice", R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4],"data_offsets":[0,4]}})", {"tensor a", "data_offsets", "twice"}},
    {"member twice by an escape", R"({"a":{"dtype":"U8","shape":[4],"sh\u0061pe":[4],"data_offsets":[0,4]}})", {"tensor a", "shape", "twice"}},
    {"tensor twice", R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})", {"'a'", "twice"}},
    {"tensor twice by an escape", R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"\u0061":{"dtype":"U8","shape":[0],"data_offsets":[4,4]}})", {"'a'", "twice"}},
    {"empty tensor twice", R"({"e":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"e":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}})", {"'e'", "twice"}},

    {"dtype is a number", R"({"a":{"dtype":8,"shape":[4],"data_offsets":[0,4]}})", {"tensor a", "dtype"}},
    {"shape is a number", R"({"a":{"dtype":"U8","shape":4,"data_offsets":[0,4]}})", {"tensor a", "shape"}},
    {"shape is a string", R"({"a":{"dtype":"U8","shape":"4","data_offsets":[0,4]}})", {"tensor a", "shape"}},
    {"shape with a float", R"({"a":{"dtype":"U8","shape":[4.0],"data_offsets":[0,4]}})", {"tensor a", "shape", "element 0"}},
    {"shape with an exponent", R"({"a":{"dtype":"U8","shape":[1,4e0],"data_offsets":[0,4]}})", {"tensor a", "shape", "element 1"}},
    {"shape with a string", R"({"a":{"dtype":"U8","shape":["4"],"data_offsets":[0,4]}})", {"tensor a", "shape"}},
    {"shape with null", R"({"a":{"dtype":"U8","shape":[null],"data_offsets":[0,4]}})", {"tensor a", "shape"}},
    {"shape with true", R"({"a":{"dtype":"U8","shape":[true],"data_offsets":[0,4]}})", {"tensor a", "shape"}},
    {"shape in a shape", R"({"a":{"dtype":"U8","shape":[[4]],"data_offsets":[0,4]}})", {"tensor a", "shape"}},
    {"negative shape", R"({"a":{"dtype":"U8","shape":[-4],"data_offsets":[0,4]}})", {"byte 36", "'-'"}},
    {"two negatives", R"({"a":{"dtype":"U8","shape":[-2,-2],"data_offsets":[0,4]}})", {"'-'"}},
    {"minus zero in a shape", R"({"e":{"dtype":"U8","shape":[-0],"data_offsets":[0,0]},"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})", {"byte 36", "'-'"}},
    {"minus zero as an offset", R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[-0,4]}})", {"'-'"}},
    {"minus behind a name with escapes", R"({"q\"-\\":{"dtype":"U8","shape":[4],"data_offsets":[-0,4]}})", {"byte 60", "'-'"}},
    {"leading zero", R"({"a":{"dtype":"U8","shape":[04],"data_offsets":[0,4]}})", {"not JSON"}},
    {"plus", R"({"a":{"dtype":"U8","shape":[+4],"data_offsets":[0,4]}})", {"not JSON"}},
    {"hexadecimal", R"({"a":{"dtype":"U8","shape":[0x4],"data_offsets":[0,4]}})", {"not JSON"}},
    {"2 to the 64 in a shape", R"({"a":{"dtype":"U8","shape":[18446744073709551616],"data_offsets":[0,4]}})", {}},
    {"2 to the 64 and 4 as an end", R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,18446744073709551620]}})", {}},

    {"one offset", R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[4]}})", {"tensor a", "data_offsets"}},
    {"three offsets", R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4,4]}})", {"tensor a", "data_offsets"}},
    {"no offset", R"({"a":{"dtype":"U8","shape":[0],"data_offsets":[]}})", {"tensor a", "data_offsets"}},
    {"offsets are an object", R"({"a":{"dtype":"U8","shape":[4],"data_offsets":{"begin":0,"end":4}}})", {"tensor a", "data_offsets"}},
    {"offset is a float", R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4.5]}})", {"tensor a", "data_offsets"}},
    {"end before begin", R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[4,0]}})", {"tensor a", "data_offsets"}},
    {"past the end", R"({"a":{"dtype":"U8","shape":[5],"data_offsets":[0,5]}})", {"tensor a", "end at 5"}},
    {"far past the end", R"({"a":{"dtype":"U8","shape":[18446744073709551615],"data_offsets":[0,18446744073709551615]}})", {"tensor a"}},
    {"sum of file position and offset overflows", R"({"a":{"dtype":"U8","shape":[0],"data_offsets":[18446744073709551610,18446744073709551610]}})", {"tensor a"}},

    {"shape too small", R"({"a":{"dtype":"U8","shape":[3],"data_offsets":[0,4]}})", {"tensor a", "U8 [3]", "3 bytes"}},
    {"shape too large", R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", {"tensor a", "8 bytes"}},
    {"a scalar is one element", R"({"a":{"dtype":"U8","shape":[],"data_offsets":[0,4]}})", {"tensor a"}},
    {"a zero in the shape leaves nothing", R"({"a":{"dtype":"U8","shape":[4,0],"data_offsets":[0,4]}})", {"tensor a"}},
    {"product overflows to 0", R"({"a":{"dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,0]}})", {"tensor a", "64-bit"}},
    {"product overflows to 4", R"({"a":{"dtype":"U8","shape":[9223372036854775810,2],"data_offsets":[0,4]}})", {"tensor a", "64-bit"}},
    {"bits overflow to 32", R"({"a":{"dtype":"U8","shape":[2305843009213693956],"data_offsets":[0,4]}})", {"tensor a", "64-bit"}},
    {"overflow before a zero", R"({"a":{"dtype":"U8","shape":[4294967296,4294967296,0],"data_offsets":[0,0]}})", {"tensor a", "64-bit"}},
    {"half a byte of F4", R"({"a":{"dtype":"F4","shape":[7],"data_offsets":[0,4]}})", {"tensor a", "28 bits"}},
    {"six bits", R"({"a":{"dtype":"F6_E2M3","shape":[5],"data_offsets":[0,4]}})", {"tensor a", "30 bits"}},
    {"six bits of the other kind", R"({"a":{"dtype":"F6_E3M2","shape":[],"data_offsets":[0,1]},"b":{"dtype":"U8","shape":[3],"data_offsets":[1,4]}})", {"tensor a", "6 bits"}},

    {"no tensor for the data", "{}", {"bytes 10 to 14"}},
    {"trailing bytes", R"({"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}})", {"tensor a", "no tensor"}},
    {"gap at the start", R"({"a":{"dtype":"U8","shape":[3],"data_offsets":[1,4]}})", {"tensor a", "the header", "no tensor"}},
    {"gap between", R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}})", {"tensor a", "tensor b", "no tensor"}},
    {"overlap", R"({"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},"b":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}})", {"tensor a", "tensor b", "overlaps"}},
    {"the same bytes twice", R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})", {"tensor a", "tensor b", "overlaps"}},
    {"one inside the other", R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})", {"tensor a", "tensor b", "overlaps"}},
    {"nothing inside of something", R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"e":{"dtype":"U8","shape":[0],"data_offsets":[2,2]}})", {"tensor a", "tensor e", "overlaps"}},

    {"metadata is a string", R"({"__metadata__":"pt","a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})", {"__metadata__"}},
    {"metadata is null", R"({"__metadata__":null,"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})", {"__metadata__"}},
    {"metadata is a tensor", R"({"__metadata__":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})", {"__metadata__", "shape"}},
    {"number in metadata", R"({"__metadata__":{"x":1},"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})", {"__metadata__", "'x'"}},
    {"object in metadata", R"({"__metadata__":{"x":{}},"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})", {"__metadata__", "'x'"}},
    {"null in metadata", R"({"__metadata__":{"x":null},"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})", {"__metadata__", "'x'"}},
    {"metadata twice", R"({"__metadata__":{},"__metadata__":{},"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})", {"__metadata__", "twice"}},
    {"key of metadata twice", R"({"__metadata__":{"x":"1","x":"1"},"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})", {"__metadata__", "'x'", "twice"}},
};
// clang-format on

TEST_CASE("a header that the format forbids is refused") {
  for (const auto& row : kRows) {
    INFO(row.why);
    check_error(parse(file_with_header(row.header, "data")), ErrorKind::corrupt, row.named);
  }
}

TEST_CASE("an element type that nobody knows yet is unsupported") {
  for (std::string name : {"U4", "bf16", "BF16 ", "", "F8", "COMPLEX64"}) {
    INFO(name);
    auto file = file_with_header(R"({"a":{"dtype":")" + name + R"(","shape":[4],"data_offsets":[0,4]}})", "data");
    check_error(parse(file), ErrorKind::unsupported, {"tensor a", "dtype", "'" + name + "'"});
  }
}

TEST_CASE("the length of the header must fit the file and the format") {
  const std::string file = file_with_header("{}");
  for (std::size_t bytes = 0; bytes < file.size(); ++bytes) {
    INFO(bytes);
    check_error(parse(file.substr(0, bytes)), ErrorKind::corrupt, {"byte"});
  }
  for (std::uint64_t length : {std::uint64_t{3}, kHeaderLimitBytes, kHeaderLimitBytes + 1, std::uint64_t{1} << 63,
                               ~std::uint64_t{0}, ~std::uint64_t{0} - 7}) {
    INFO(length);
    check_error(parse(tests::header_length(length) + "{}"), ErrorKind::corrupt, {"first 8 bytes"});
  }
  // Big-endian: the same two bytes, read as 2 << 56.
  check_error(parse(std::string("\0\0\0\0\0\0\0\2{}", 10)), ErrorKind::corrupt, {"first 8 bytes"});
}

TEST_CASE("a header is judged by the file's size and not by what was read of it") {
  const auto file = file_with_header(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})", "data");
  const auto header_end = must(safetensors_data_begin(bytes_of_text(file), file.size()));
  CHECK(header_end == file.size() - 4);
  must(parse_safetensors_header(bytes_of_text(file).first(header_end), file.size()));
  check_error(parse_safetensors_header(bytes_of_text(file).first(header_end - 1), file.size()), ErrorKind::corrupt,
              {"header"});
  check_error(parse_safetensors_header(bytes_of_text(file), file.size() - 1), ErrorKind::corrupt, {"tensor a"});
  check_error(parse_safetensors_header(bytes_of_text(file), file.size() + 1), ErrorKind::corrupt, {"tensor a"});
  check_error(parse_safetensors_header(bytes_of_text(file), std::uint64_t{1} << 62), ErrorKind::corrupt, {"tensor a"});
}

TEST_CASE("deep nesting is an error and not the end of the stack") {
  for (std::size_t depth : {std::size_t{900}, std::size_t{1'100}, std::size_t{1'000'000}}) {
    std::string arrays = R"({"a":)" + std::string(depth, '[') + std::string(depth, ']') + "}";
    check_error(parse(file_with_header(arrays, "data")), ErrorKind::corrupt, {});
    std::string objects;
    for (std::size_t i = 0; i < depth; ++i) objects += R"({"a":)";
    check_error(parse(file_with_header(objects + "1" + std::string(depth, '}'), "data")), ErrorKind::corrupt, {});
    check_error(parse(file_with_header(objects, "data")), ErrorKind::corrupt, {});
  }
}

TEST_CASE("what a message quotes of a file is short and printable") {
  const std::string name = std::string(100'000, 'n') + "\x7f";
  auto long_name = parse(file_with_header("{\"" + name + "\":1}"));
  check_error(long_name, ErrorKind::corrupt, {"tensor nnn"});
  CHECK(long_name.error().sentence.size() < 400);
  auto control = parse(file_with_header(R"({"a\u0000\u001b[31m":1})"));
  check_error(control, ErrorKind::corrupt, {R"(a\x00\x1b[31m)"});
  std::string shape = "1";
  for (int i = 0; i < 10'000; ++i) shape += ",1";
  auto long_shape = parse(file_with_header(R"({"a":{"dtype":"U8","shape":[)" + shape + R"(],"data_offsets":[0,4]}})", "data"));
  check_error(long_shape, ErrorKind::corrupt, {"tensor a"});
  CHECK(long_shape.error().sentence.size() < 600);
}

/// What every accepted header keeps, whatever it was made from.
void check_invariants(const SafetensorsHeader& header, std::uint64_t file_bytes) {
  std::uint64_t sum = 0;
  for (const auto& tensor : header.tensors) {
    CHECK(tensor.extent.offset >= header.data_begin);
    CHECK(tensor.extent.offset + tensor.extent.bytes <= file_bytes);
    sum += tensor.extent.bytes;
  }
  CHECK(header.data_begin + sum == file_bytes);
  CHECK(std::ranges::is_sorted(header.tensors, {}, [](const auto& t) { return std::pair(t.extent.offset, t.name); }));
}

TEST_CASE("damaged headers never crash, and what is accepted is whole") {
  const auto good = tests::safetensors_file({tests::random_tensor("a", "F32", {2, 3}),
                                             tests::random_tensor("h\xc3\xa4", "BF16", {5}),
                                             tests::random_tensor("empty", "U8", {0, 4}),
                                             tests::random_tensor("scalar", "I64", {})});
  std::mt19937_64 random(20240607);
  const std::string_view alphabet = "{}[]\",:0123456789-.eE\\u /\x00\xff\x80 dtypeshapBF";
  for (int round = 0; round < 20'000; ++round) {
    auto file = good;
    for (auto changes = 1 + random() % 3; changes > 0; --changes) {
      const auto at = random() % std::min<std::size_t>(file.size(), 260);
      const char with = round % 2 == 0 ? alphabet[random() % alphabet.size()] : static_cast<char>(random());
      switch (random() % 3) {
        case 0: file[at] = with; break;
        case 1: file.erase(at, 1 + random() % 4); break;
        default: file.insert(at, 1, with); break;
      }
    }
    if (random() % 2 == 0 && file.size() > 8) {
      const auto data = good.size() - must(safetensors_data_begin(bytes_of_text(good), good.size()));
      if (file.size() >= 8 + data) file.replace(0, 8, tests::header_length(file.size() - 8 - data));
    }
    if (auto header = parse(file)) check_invariants(*header, file.size());
  }
}

}  // namespace
}  // namespace ckptd::source
