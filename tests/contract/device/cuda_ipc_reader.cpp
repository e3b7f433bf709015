// Another process that opens an exported allocation: cuda_ipc_reader LIBRARY HANDLE BYTES, the handle in hexadecimal, the
// expected bytes on standard input. Ends with 0 when it has read them there, and has then written 0xa5 to the first one;
// any other status says which step failed.
#include <cuda.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "tests/support/opened_cuda.h"

namespace {

std::vector<char> standard_input() {
  std::vector<char> bytes;
  for (int each = std::getchar(); each != EOF; each = std::getchar()) bytes.push_back(static_cast<char>(each));
  return bytes;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4 || std::strlen(argv[2]) != 2 * CU_IPC_HANDLE_SIZE) return 100;
  CUipcMemHandle handle{};
  for (std::size_t i = 0; i < CU_IPC_HANDLE_SIZE; ++i)
    handle.reserved[i] = static_cast<char>(std::stoi(std::string(argv[2] + 2 * i, 2), nullptr, 16));
  const auto expected = standard_input();
  if (expected.size() != std::strtoull(argv[3], nullptr, 10)) return 101;

  const ckptd::tests::OpenedCuda library(argv[1]);
  if (!library.opened()) return 1;
  if (library.find<decltype(&cuInit)>("cuInit")(0) != CUDA_SUCCESS) return 2;
  CUcontext context = nullptr;
  if (library.find<decltype(&cuDevicePrimaryCtxRetain)>("cuDevicePrimaryCtxRetain")(&context, 0) != CUDA_SUCCESS) return 3;
  if (library.find<decltype(&cuCtxPushCurrent_v2)>("cuCtxPushCurrent_v2")(context) != CUDA_SUCCESS)
    return 4;
  CUdeviceptr at = 0;
  if (library.find<decltype(&cuIpcOpenMemHandle_v2)>("cuIpcOpenMemHandle_v2")(
          &at, handle, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS) != CUDA_SUCCESS)
    return 5;
  const auto copy = library.find<decltype(&cuMemcpy)>("cuMemcpy");
  std::vector<char> seen(expected.size());
  if (copy(reinterpret_cast<CUdeviceptr>(seen.data()), at, seen.size()) != CUDA_SUCCESS) return 6;
  if (seen != expected) return 7;
  const char mark = static_cast<char>(0xa5);
  if (copy(at, reinterpret_cast<CUdeviceptr>(&mark), 1) != CUDA_SUCCESS) return 8;
  if (library.find<decltype(&cuIpcCloseMemHandle)>("cuIpcCloseMemHandle")(at) != CUDA_SUCCESS) return 9;
  return library.find<decltype(&cuDevicePrimaryCtxRelease_v2)>("cuDevicePrimaryCtxRelease_v2")(0) ==
                 CUDA_SUCCESS
             ? 0
             : 10;
}
