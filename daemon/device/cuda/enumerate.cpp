#include "daemon/device/cuda/enumerate.h"

#include <algorithm>
#include <cctype>
#include <cstring>
#include <fstream>
#include <utility>

namespace ckptd::device::cuda {
namespace {

Result<> check(const Driver& driver, CUresult code, std::string_view what) {
  if (code == CUDA_SUCCESS) return {};
  return std::unexpected(driver.error(code, what));
}

/// A name that a configuration may spell with capitals, as some tools print it.
std::string canonical(const std::string& uuid) {
  const auto dash = std::min(uuid.find('-'), uuid.size());
  std::string name = uuid;
  std::transform(name.begin(), name.begin() + static_cast<std::ptrdiff_t>(dash), name.begin(),
                 [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
  std::transform(name.begin() + static_cast<std::ptrdiff_t>(dash), name.end(),
                 name.begin() + static_cast<std::ptrdiff_t>(dash),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return name;
}

/// -1 where the kernel does not say, as on machines with one node and in most virtual machines.
int numa_node_of(const std::string& pci_bus_id, const std::filesystem::path& system_root) {
  std::string address = pci_bus_id;
  std::ranges::transform(address, address.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  std::ifstream file(system_root / "sys/bus/pci/devices" / address / "numa_node");
  int node = -1;
  return file >> node ? node : -1;
}

/// The driver gives the instance's UUID for an instance of a divided GPU, and the GPU's own by the older call.
Result<std::string> uuid_of(const Driver& driver, CUdevice device) {
  CUuuid uuid{}, of_gpu{};
  CKPTD_TRY(check(driver, driver.functions().device_get_uuid(&uuid, device), "ask a GPU for its UUID"));
  const auto older = driver.functions().device_get_gpu_uuid;
  const bool divided = older != nullptr && older(&of_gpu, device) == CUDA_SUCCESS &&
                       std::memcmp(&uuid, &of_gpu, sizeof uuid) != 0;
  return show_uuid(divided ? "MIG" : "GPU", uuid);
}

Result<Gpu> look_at(const Driver& driver, int ordinal, const std::filesystem::path& system_root) {
  const auto& functions = driver.functions();
  Gpu gpu;
  gpu.ordinal = ordinal;
  CKPTD_TRY(check(driver, functions.device_get(&gpu.device, ordinal), fmt::format("open GPU {}", ordinal)));
  gpu.uuid = CKPTD_TRY(uuid_of(driver, gpu.device));
  std::array<char, 128> text{};
  if (functions.device_get_name(text.data(), static_cast<int>(text.size()), gpu.device) == CUDA_SUCCESS)
    gpu.model = text.data();
  if (functions.device_get_pci_bus_id(text.data(), static_cast<int>(text.size()), gpu.device) == CUDA_SUCCESS)
    gpu.numa_node = numa_node_of(text.data(), system_root);
  return gpu;
}

}  // namespace

Result<std::vector<Gpu>> enumerate(const Driver& driver, const std::filesystem::path& system_root) {
  int count = 0;
  CKPTD_TRY(check(driver, driver.functions().device_get_count(&count), "count the GPUs"));
  if (count == 0)
    return fail(ErrorKind::unavailable,
                "CUDA's driver {} shows no GPU: look at `nvidia-smi -L` and at CUDA_VISIBLE_DEVICES, or set [device] kind "
                "(--device) to host",
                driver.name());
  std::vector<Gpu> gpus;
  for (int ordinal = 0; ordinal < count; ++ordinal) gpus.push_back(CKPTD_TRY(look_at(driver, ordinal, system_root)));
  return gpus;
}

Result<std::vector<Gpu>> choose(std::vector<Gpu> gpus, const std::vector<std::string>& uuids) {
  if (uuids.empty()) return gpus;
  std::vector<Gpu> chosen;
  for (const auto& wanted : uuids) {
    const auto uuid = canonical(wanted);
    if (std::ranges::find(chosen, uuid, &Gpu::uuid) != chosen.end())
      return fail(ErrorKind::invalid_argument, "[cuda] devices names {} twice", uuid);
    const auto at = std::ranges::find(gpus, uuid, &Gpu::uuid);
    if (at == gpus.end()) {
      std::string there;
      for (const auto& gpu : gpus) there += fmt::format("{}{} ({})", there.empty() ? "" : ", ", gpu.uuid, gpu.model);
      // Not not_found: whoever starts ckptd again and again is told not to by invalid_argument (systemd/ckptd.service.in).
      return fail(ErrorKind::invalid_argument,
                  "[cuda] devices names {}, which the driver does not show; there are: {}. Correct the list, or leave it "
                  "empty for all",
                  wanted, there);
    }
    chosen.push_back(*at);
  }
  return chosen;
}

std::string show_uuid(std::string_view prefix, const CUuuid& uuid) {
  std::string text(prefix);
  for (std::size_t i = 0; i < sizeof uuid.bytes; ++i) {
    if (i == 0 || i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    text += fmt::format("{:02x}", static_cast<unsigned char>(uuid.bytes[i]));
  }
  return text;
}

}  // namespace ckptd::device::cuda
