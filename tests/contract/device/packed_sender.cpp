// A sender without torch: packed_sender cuda|host UUID FILE puts the bytes of FILE onto the device, prints in hexadecimal the
// pickle with which a torch process opens all of it, and keeps the memory until its input ends. With `host` the device is
// memory of this process, and UUID is not looked at. scripts/lib/gpu_check/packed_receiver.py is the other side.
#include <cstdio>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "daemon/device/cuda/cuda_device.h"
#include "daemon/device/host/host_device.h"
#include "proto/checkpoint_engine/messages.h"

namespace {

using namespace ckptd;

Result<std::unique_ptr<device::Device>> find_device(const std::string& kind, const std::string& uuid) {
  if (kind == "host") return device::host::make_host_device(0);
  auto devices = CKPTD_TRY(device::cuda::make_cuda_devices({.library = {}, .devices = {uuid}, .system_root = "/"}));
  return std::move(devices.front());
}

std::string offer_of(const device::Export& exported) {
  namespace messages = proto::checkpoint_engine;
  if (const auto* host = std::get_if<device::HostExport>(&exported)) return messages::offer_file(host->path, host->bytes);
  const auto& cuda = std::get<device::CudaExport>(exported);
  return messages::offer_cuda(cuda.handle, cuda.bytes, "", 0);  // without a counter: whoever asks for receipts has ckptd
}

Result<> serve(const std::string& kind, const std::string& uuid, const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  const std::vector<char> bytes{std::istreambuf_iterator<char>(file), {}};
  if (bytes.empty()) return fail(ErrorKind::invalid_argument, "{} holds no bytes", path);
  const auto device = CKPTD_TRY(find_device(kind, uuid));
  const auto memory = CKPTD_TRY(device->allocate(bytes.size()));
  const auto stream = CKPTD_TRY(device->make_stream());
  CKPTD_TRY(stream->copy_from_host(memory->range(), reinterpret_cast<const std::byte*>(bytes.data())));
  CKPTD_TRY(stream->synchronize(Deadline::in(std::chrono::seconds(60))));
  const auto exported = CKPTD_TRY(memory->export_to_processes());
  for (const unsigned char byte : offer_of(exported)) std::printf("%02x", byte);
  std::printf("\n");
  std::fflush(stdout);
  while (std::getchar() != EOF) {
  }
  return {};
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  if (const auto served = serve(argv[1], argv[2], argv[3]); !served) {
    std::fprintf(stderr, "packed_sender: %s %s\n", served.error().sentence.c_str(), served.error().vendor.c_str());
    return 1;
  }
  return 0;
}
