// The golden values come from another implementation: Python's xxhash 4.1.0 over the same texts.
#include "daemon/weights/manifest.h"

#include <catch2/catch.hpp>

#include "tests/unit/weights/pattern.h"

namespace ckptd::weights {
namespace {

Tensor tensor(std::string name, Dtype dtype, std::vector<std::uint64_t> shape, std::uint64_t bytes = 0) {
  const Extent extent = {.file = 0, .offset = 0, .bytes = bytes};
  return {.name = std::move(name), .dtype = dtype, .shape = std::move(shape), .extent = extent};
}

Digest digest_of_pattern(std::size_t bytes) {
  const auto piece = digest_of(pattern(bytes));
  return combine_pieces({&piece, 1});
}

const Manifest kThree = {.files = {},
                         .tensors = {tensor("b.weight", Dtype::bf16, {2, 3}, 12), tensor("a", Dtype::f32, {}, 4),
                                     tensor("\xc3\xa4", Dtype::u8, {0, 7})}};
const std::vector<Digest> kDigests = {digest_of_pattern(12), digest_of_pattern(4), combine_pieces({})};

TEST_CASE("schema and identity are those of scheme 1") {
  CHECK(schema_of(kThree).hex() == "50d9c8f56cd50c57836754dce2e9762e");
  CHECK(identity_of(kThree, kDigests).hex() == "a187197b73a802eb55ff720787708556");
  CHECK(schema_of({}).hex() == "684ac3ee82b1179077587bbb97590424");
  CHECK(identity_of({}, {}).hex() == "109abd94e48d3dd90095c06b42e63ea8");
}

TEST_CASE("the stamp is over paths and stamps in order") {
  Manifest manifest;
  manifest.files = {{.path = "/m/a.sft", .bytes = 1, .data_begin = 0, .stamp = "s1"},
                    {.path = "/m/b.sft", .bytes = 2, .data_begin = 0, .stamp = "s2"}};
  const auto stamp = source_stamp_of(manifest);
  CHECK(stamp.hex() == "62b0a7cc872fcfec6d745361619a8c8d");
  manifest.files[1].stamp = "s3";
  CHECK(source_stamp_of(manifest) != stamp);
}

TEST_CASE("where the bytes lay does not matter to identity and schema") {
  auto other = kThree;
  std::swap(other.tensors[0], other.tensors[2]);
  for (auto& each : other.tensors) each.extent.file = 3, each.extent.offset += 4096;
  other.files.resize(4);
  const std::vector<Digest> digests = {kDigests[2], kDigests[1], kDigests[0]};
  CHECK(identity_of(other, digests) == identity_of(kThree, kDigests));
  CHECK(schema_of(other) == schema_of(kThree));
}

TEST_CASE("every part of a tensor matters") {
  const auto schema = schema_of(kThree), identity = identity_of(kThree, kDigests);
  auto differs = [&](auto change) {
    auto other = kThree;
    change(other.tensors[0]);
    CHECK(schema_of(other) != schema);
    CHECK(identity_of(other, kDigests) != identity);
  };
  differs([](Tensor& t) { t.name = "b.weighs"; });
  differs([](Tensor& t) { t.dtype = Dtype::f16; });
  differs([](Tensor& t) { t.shape = {3, 2}; });
  differs([](Tensor& t) { t.shape = {2, 3, 1}; });
  differs([](Tensor& t) { t.shape = {23}; });
  auto digests = kDigests;
  std::swap(digests[0], digests[1]);
  CHECK(identity_of(kThree, digests) != identity);
}

TEST_CASE("names cannot imitate the text around them") {
  // The first has one tensor whose name contains what would describe a second one.
  const Manifest one = {.files = {}, .tensors = {tensor("a U8 1\n1:b", Dtype::u8, {1}, 1)}};
  const Manifest two = {.files = {}, .tensors = {tensor("a", Dtype::u8, {1}, 1), tensor("b", Dtype::u8, {1}, 1)}};
  CHECK(schema_of(one) != schema_of(two));
}

TEST_CASE("sums and the largest") {
  CHECK(kThree.tensor_bytes() == 16);
  CHECK(kThree.largest_tensor_bytes() == 12);
  CHECK(Manifest{}.tensor_bytes() == 0);
  CHECK(Manifest{}.largest_tensor_bytes() == 0);
}

TEST_CASE("types are shown as people write them") {
  CHECK(show_type(tensor("x", Dtype::bf16, {4096, 1024})) == "BF16 [4096,1024]");
  CHECK(show_type(tensor("x", Dtype::f32, {})) == "F32 []");
}

TEST_CASE("differences name the tensor and both sides") {
  CHECK(schema_differences(kThree, kThree).empty());
  CHECK(schema_differences({}, {}).empty());
  auto there = kThree;
  there.tensors[0].dtype = Dtype::f32;
  there.tensors[1].shape = {1};
  there.tensors[2].name = "z";
  CHECK(schema_differences(kThree, there) ==
        std::vector<std::string>{"a: F32 [] here, F32 [1] there", "b.weight: BF16 [2,3] here, F32 [2,3] there",
                                 "z: missing here, U8 [0,7] there", "\xc3\xa4: U8 [0,7] here, missing there"});
  CHECK(schema_differences(kThree, {}).size() == 3);
  CHECK(schema_differences({}, kThree).size() == 3);
}

TEST_CASE("differences stop at the limit") {
  Manifest many;
  for (int i = 0; i < 20; ++i) many.tensors.push_back(tensor(fmt::format("t{:02}", i), Dtype::u8, {1}, 1));
  CHECK(schema_differences(many, {}).size() == 5);
  CHECK(schema_differences(many, {}, 20).size() == 20);
  CHECK(schema_differences(many, {}, 2) ==
        std::vector<std::string>{"t00: U8 [1] here, missing there", "t01: U8 [1] here, missing there"});
  CHECK(schema_differences(many, {}, 0).empty());
}

}  // namespace
}  // namespace ckptd::weights
