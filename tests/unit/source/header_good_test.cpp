// Headers that the format allows, however odd: each is read for what it says.
#include <algorithm>

#include "daemon/source/safetensors_header.h"
#include "tests/support/checkpoint_files/safetensors.h"
#include "tests/unit/source/expect.h"

namespace ckptd::source {
namespace {

using tests::file_with_header;
using weights::Dtype;

SafetensorsHeader parsed(std::string_view file) {
  return must(parse_safetensors_header(bytes_of_text(file), file.size()));
}

/// Of a header that 4 bytes of data follow: the tensors as "name type offset+bytes", offsets counted from the data.
struct Row {
  std::string_view why;
  std::string_view header;
  std::vector<std::string> tensors;
};

// clang-format off: one row a line
const Row kRows[] = {
    {"one tensor", R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})", {"a U8 [4] 0+4"}},
    {"padded", R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}      )", {"a U8 [4] 0+4"}},
    {"members in another order", R"({"a":{"data_offsets":[0,4],"shape":[4],"dtype":"U8"}})", {"a U8 [4] 0+4"}},
    {"white space inside", "{ \"a\"\t:\n{\r\"dtype\" : \"U8\" , \"shape\" : [ 4 ] , \"data_offsets\" : [ 0 , 4 ] } }", {"a U8 [4] 0+4"}},
    {"scalar", R"({"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]}})", {"a F32 [] 0+4"}},
    {"many dimensions", R"({"a":{"dtype":"U8","shape":[1,1,2,1,1,2,1,1,1],"data_offsets":[0,4]}})", {"a U8 [1,1,2,1,1,2,1,1,1] 0+4"}},
    {"header in another order than the data", R"({"b":{"dtype":"U8","shape":[3],"data_offsets":[1,4]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", {"a U8 [1] 0+1", "b U8 [3] 1+3"}},
    {"names against the data", R"({"a":{"dtype":"U8","shape":[3],"data_offsets":[1,4]},"b":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", {"b U8 [1] 0+1", "a U8 [3] 1+3"}},
    {"nothing at the start", R"({"e":{"dtype":"F64","shape":[0],"data_offsets":[0,0]},"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})", {"a U8 [4] 0+4", "e F64 [0] 0+0"}},
    {"nothing at the end", R"({"e":{"dtype":"U8","shape":[3,0,2],"data_offsets":[4,4]},"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})", {"a U8 [4] 0+4", "e U8 [3,0,2] 4+0"}},
    {"nothing between, twice", R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"f":{"dtype":"U8","shape":[0],"data_offsets":[2,2]},"e":{"dtype":"U8","shape":[0],"data_offsets":[2,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}})", {"a U8 [2] 0+2", "b U8 [2] 2+2", "e U8 [0] 2+0", "f U8 [0] 2+0"}},
    {"zero before a large number", R"({"e":{"dtype":"U8","shape":[0,18446744073709551615],"data_offsets":[0,0]},"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})", {"a U8 [4] 0+4", "e U8 [0,18446744073709551615] 0+0"}},
    {"not aligned", R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"h":{"dtype":"BF16","shape":[1],"data_offsets":[1,3]},"c":{"dtype":"BOOL","shape":[1],"data_offsets":[3,4]}})", {"a U8 [1] 0+1", "h BF16 [1] 1+2", "c BOOL [1] 3+1"}},
    {"eight of F4", R"({"a":{"dtype":"F4","shape":[2,4],"data_offsets":[0,4]}})", {"a F4 [2,4] 0+4"}},
    {"four of F6 are three bytes", R"({"a":{"dtype":"F6_E2M3","shape":[4],"data_offsets":[0,3]},"b":{"dtype":"U8","shape":[],"data_offsets":[3,4]}})", {"a F6_E2M3 [4] 0+3", "b U8 [] 3+1"}},
    {"metadata", R"({"__metadata__":{"format":"pt","":"","x":"{\"y\":[1]}"},"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})", {"a U8 [4] 0+4"}},
    {"metadata at the end, empty", R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"__metadata__":{}})", {"a U8 [4] 0+4"}},
    {"minus signs in texts", R"({"__metadata__":{"-":"-1"},"a-b\"-":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})", {"a-b\"- U8 [4] 0+4"}},
    {"empty name", R"({"":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})", {" U8 [4] 0+4"}},
    {"name with escapes", R"({"\u00e4\n\/\\":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})", {"\xc3\xa4\n/\\ U8 [4] 0+4"}},
    {"name with a surrogate pair", R"({"\ud83d\ude00":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})", {"\xf0\x9f\x98\x80 U8 [4] 0+4"}},
    {"name in UTF-8", "{\"\xe6\x9d\x83\xe9\x87\x8d\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}", {"\xe6\x9d\x83\xe9\x87\x8d U8 [4] 0+4"}},
    {"name like a member", R"({"dtype":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})", {"dtype U8 [4] 0+4"}},
    {"name that is a path", R"({"../../etc/passwd":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})", {"../../etc/passwd U8 [4] 0+4"}},
};
// clang-format on

TEST_CASE("a header that the format allows is read for what it says") {
  for (const auto& row : kRows) {
    INFO(row.why);
    const auto header = parsed(file_with_header(row.header, "data"));
    CHECK(header.data_begin == 8 + row.header.size());
    std::vector<std::string> tensors;
    for (const auto& tensor : header.tensors) {
      CHECK(tensor.extent.file == 0);
      tensors.push_back(fmt::format("{} {} {}+{}", tensor.name, weights::show_type(tensor),
                                    tensor.extent.offset - header.data_begin, tensor.extent.bytes));
    }
    CHECK(tensors == row.tensors);
  }
}

TEST_CASE("a file without tensors is valid") {
  for (std::string_view text : {"{}", "{}  ", R"({"__metadata__":{"format":"pt"}})"}) {
    const auto header = parsed(file_with_header(text));
    CHECK(header.tensors.empty());
    CHECK(header.data_begin == 8 + text.size());
  }
}

TEST_CASE("every element type has the size that its name says") {
  const std::pair<Dtype, std::size_t> bytes_of_eight[] = {
      {Dtype::boolean, 8},     {Dtype::f4, 4},          {Dtype::f6_e2m3, 6},     {Dtype::f6_e3m2, 6},
      {Dtype::u8, 8},          {Dtype::i8, 8},          {Dtype::f8_e5m2, 8},     {Dtype::f8_e4m3, 8},
      {Dtype::f8_e8m0, 8},     {Dtype::f8_e4m3fnuz, 8}, {Dtype::f8_e5m2fnuz, 8}, {Dtype::i16, 16},
      {Dtype::u16, 16},        {Dtype::f16, 16},        {Dtype::bf16, 16},       {Dtype::i32, 32},
      {Dtype::u32, 32},        {Dtype::f32, 32},        {Dtype::c64, 64},        {Dtype::f64, 64},
      {Dtype::i64, 64},        {Dtype::u64, 64}};
  for (auto [dtype, bytes] : bytes_of_eight) {
    const std::string name(weights::safetensors_name(dtype));
    INFO(name);
    const auto header = parsed(tests::safetensors_file({{"t", name, {2, 4}, std::string(bytes, 'x')}}));
    REQUIRE(header.tensors.size() == 1);
    CHECK(header.tensors[0].dtype == dtype);
    CHECK(header.tensors[0].extent.bytes == bytes);
  }
}

TEST_CASE("offsets beyond 4 GiB are whole") {
  const std::string header = R"({"a":{"dtype":"U8","shape":[5000000000],"data_offsets":[0,5000000000]},)"
                             R"("b":{"dtype":"F32","shape":[1250000000],"data_offsets":[5000000000,10000000000]}})";
  const auto start = file_with_header(header);
  const auto parsed_header = must(parse_safetensors_header(bytes_of_text(start), start.size() + 10'000'000'000));
  REQUIRE(parsed_header.tensors.size() == 2);
  CHECK(parsed_header.tensors[1].extent.offset == start.size() + 5'000'000'000);
  CHECK(parsed_header.tensors[1].extent.bytes == 5'000'000'000);
}

TEST_CASE("a header with very many tensors is read") {
  std::vector<tests::TestTensor> tensors;
  for (int i = 0; i < 10'000; ++i) tensors.push_back({fmt::format("layers.{}.weight", i), "U8", {1}, "x"});
  const auto header = parsed(tests::safetensors_file(tensors));
  CHECK(header.tensors.size() == tensors.size());
  CHECK(header.tensors[9'999].name == "layers.9999.weight");
}

}  // namespace
}  // namespace ckptd::source
