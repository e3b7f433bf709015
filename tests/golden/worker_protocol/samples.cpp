#include "tests/golden/worker_protocol/samples.h"

#include <array>
#include <cstdint>
#include <limits>
#include <numeric>
#include <vector>

#include "proto/checkpoint_engine/messages.h"

namespace ckptd::test {
namespace {

namespace messages = proto::checkpoint_engine;
using messages::TensorMetadata;

constexpr std::uint64_t kMiB = 1 << 20;

std::array<std::uint8_t, 64> counting_bytes() {
  std::array<std::uint8_t, 64> bytes;
  std::iota(bytes.begin(), bytes.end(), std::uint8_t{0});
  return bytes;
}

std::string three_tensors() {
  static constexpr std::array<std::uint64_t, 2> matrix{256, 64}, empty{0, 5};
  return messages::reload(std::array{
      TensorMetadata{"lm_head.weight", "bfloat16", matrix, 256},
      TensorMetadata{"größe", "float32", {}, std::uint64_t{1} << 31},
      TensorMetadata{"empty", "float8_e4m3fn", empty, 0},
  });
}

/// Offsets around each border where an integer's form changes; extents as well.
std::string borders() {
  static std::vector<std::uint64_t> values;
  values.clear();
  for (int bits = 0; bits < 64; ++bits)
    for (std::uint64_t near : {(std::uint64_t{1} << bits) - 1, std::uint64_t{1} << bits}) values.push_back(near);
  values.push_back(std::numeric_limits<std::uint64_t>::max());
  std::vector<TensorMetadata> tensors;
  for (const auto& value : values) tensors.push_back({"t", "uint8", {&value, 1}, value});
  return messages::reload(tensors);
}

std::string three_hundred_tensors() {
  std::vector<std::string> names;
  std::vector<std::array<std::uint64_t, 3>> shapes;
  for (std::uint64_t i = 0; i < 300; ++i) {
    names.push_back("model.layers." + std::to_string(i) + ".権重");
    shapes.push_back({i, i * 1000, 1});
  }
  std::vector<TensorMetadata> tensors;
  for (std::uint64_t i = 0; i < 300; ++i) tensors.push_back({names[i], "float16", shapes[i], i * 16 * kMiB});
  return messages::reload(tensors);
}

}  // namespace

std::map<std::string, std::string> message_samples() {
  const auto handle = counting_bytes();
  return {
      {"offer_cuda", messages::offer_cuda(handle, 16ull << 30, "/ce_123_0", 0)},
      {"offer_cuda_small", messages::offer_cuda(handle, 2 * kMiB, "", 9999)},
      {"offer_file", messages::offer_file("/proc/4711/fd/12", kMiB)},
      {"offer_file_long", messages::offer_file("/" + std::string(5000, 'p') + "/ü", std::uint64_t{5} << 40)},
      {"reload", three_tensors()},
      {"reload_nothing", messages::reload({})},
      {"reload_borders", borders()},
      {"reload_300", three_hundred_tensors()},
      {"none", messages::none()},
      {"exception", messages::exception("rank 1 is gone: ü")},
      {"exception_invalid", messages::exception("broken \xff\xfe here\0too")},
      {"exception_long", messages::exception(std::string(1 << 20, 'x'))},
  };
}

}  // namespace ckptd::test
