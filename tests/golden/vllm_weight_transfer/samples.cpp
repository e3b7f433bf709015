#include "tests/golden/vllm_weight_transfer/samples.h"

#include <array>
#include <cstdint>
#include <numeric>
#include <vector>

#include "proto/vllm/weight_transfer/requests.h"

namespace ckptd::test {

std::map<std::string, std::string> vllm_samples() {
  using namespace proto::vllm::weight_transfer;
  std::array<std::uint8_t, 64> handle{};
  std::iota(handle.begin(), handle.end(), std::uint8_t{0});
  const proto::torch::SharedBytes memory{.handle = handle,
                                         .storage_bytes = std::uint64_t{16} << 30,
                                         .offset = std::uint64_t{5} << 30,
                                         .bytes = 42,
                                         .counter_name = "/ckptd-receipts-0123456789abcdef",
                                         .counter_index = 300};
  const std::vector<DeviceBytes> devices{{"GPU-1f2e3d4c-0000-1111-2222-333344445555", memory}, {"HOST-0", memory}};
  const std::vector<std::uint64_t> matrix{2, 5}, scalar{}, vector{9};
  const std::vector<PackedTensor> tensors{{"model.a.weight", "bfloat16", matrix, 20},
                                          {"model.a.scale", "float32", scalar, 4},
                                          {"mod\xC3\xA8le.b", "float16", vector, 18}};
  std::string unique_id(128, '\0');
  std::iota(unique_id.begin(), unique_id.end(), '\x80');  // all bytes that base64 may have to carry
  return {{"init.json", init_body(true)},
          {"init_older.json", init_body(false)},
          {"start.json", start_body()},
          {"update.json", update_body(tensors, devices, PackedForm::at_init)},
          {"update_each.json", update_body(tensors, devices, PackedForm::each_update)},
          {"nccl_init.json", nccl_init_body(unique_id, 16)},
          {"nccl_update.json", nccl_update_body(tensors)},
          {"finish.json", finish_body("step-7")},
          {"finish_unlabelled.json", finish_body({})},
          {"handles.pickle", pickled_handles(devices)}};
}

}  // namespace ckptd::test
