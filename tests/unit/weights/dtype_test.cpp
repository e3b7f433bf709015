#include "daemon/weights/dtype.h"

#include <catch2/catch.hpp>
#include <set>
#include <string>

namespace ckptd::weights {
namespace {

struct Row {
  Dtype dtype;
  std::string_view name;
  unsigned bits;
  unsigned alignment;
};

// The types of safetensors 0.8, spelled out once more: names and sizes are the file format's, not ours to change.
const Row kRows[] = {
    {Dtype::boolean, "BOOL", 8, 1},     {Dtype::f4, "F4", 4, 1},
    {Dtype::f6_e2m3, "F6_E2M3", 6, 1},  {Dtype::f6_e3m2, "F6_E3M2", 6, 1},
    {Dtype::u8, "U8", 8, 1},            {Dtype::i8, "I8", 8, 1},
    {Dtype::f8_e5m2, "F8_E5M2", 8, 1},  {Dtype::f8_e4m3, "F8_E4M3", 8, 1},
    {Dtype::f8_e8m0, "F8_E8M0", 8, 1},  {Dtype::f8_e4m3fnuz, "F8_E4M3FNUZ", 8, 1},
    {Dtype::f8_e5m2fnuz, "F8_E5M2FNUZ", 8, 1}, {Dtype::i16, "I16", 16, 2},
    {Dtype::u16, "U16", 16, 2},         {Dtype::f16, "F16", 16, 2},
    {Dtype::bf16, "BF16", 16, 2},       {Dtype::i32, "I32", 32, 4},
    {Dtype::u32, "U32", 32, 4},         {Dtype::f32, "F32", 32, 4},
    {Dtype::c64, "C64", 64, 8},         {Dtype::f64, "F64", 64, 8},
    {Dtype::i64, "I64", 64, 8},         {Dtype::u64, "U64", 64, 8},
};

TEST_CASE("element types have the names and sizes of the file format") {
  std::set<Dtype> seen;
  for (const auto& row : kRows) {
    INFO(row.name);
    CHECK(safetensors_name(row.dtype) == row.name);
    CHECK(dtype_named(row.name) == row.dtype);
    CHECK(bits_of(row.dtype) == row.bits);
    CHECK(alignment_of(row.dtype) == row.alignment);
    seen.insert(row.dtype);
  }
  CHECK(seen.size() == static_cast<std::size_t>(Dtype::u64) + 1);
}

TEST_CASE("other spellings are no element types") {
  for (std::string_view name : {"", "bf16", "BF16 ", "F8", "FLOAT", "U4", "I4", "C128", "F128", "BOOLEAN"}) {
    INFO(name);
    CHECK_FALSE(dtype_named(name));
  }
}

}  // namespace
}  // namespace ckptd::weights
