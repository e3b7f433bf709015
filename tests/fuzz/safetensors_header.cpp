// The header of a safetensors file, and what is made of the tensors that it names: layout, work and plan. The input is
// the file's first bytes, behind three that say how many more bytes the file has. With the highest bit of the third the
// header's length is filled in, since a search would rarely hit it.
#include "daemon/source/safetensors_header.h"

#include "daemon/plan/plan.h"
#include "daemon/prefetch/work.h"
#include "daemon/weights/layout.h"
#include "tests/fuzz/target.h"

namespace {

using namespace ckptd;

void check_tensors(const source::SafetensorsHeader& header, std::uint64_t file_bytes) {
  auto covered = header.data_begin;
  for (const auto& tensor : header.tensors) {
    fuzz::check(tensor.extent.offset == covered || tensor.extent.bytes == 0, "tensors leave no gap and never overlap");
    fuzz::check(tensor.extent.offset >= header.data_begin, "a tensor lies behind the header");
    covered = std::max(covered, tensor.extent.offset + tensor.extent.bytes);
  }
  fuzz::check(covered == file_bytes, "tensors cover the file");
}

void use(source::SafetensorsHeader header, std::uint64_t file_bytes) {
  weights::Manifest manifest;
  manifest.files = {{.path = "model.safetensors", .bytes = file_bytes, .stamp = "s"}};
  manifest.tensors = std::move(header.tensors);
  const weights::Layout layout(manifest, 1 << 16);
  fuzz::check(prefetch::cut_work(manifest, layout, 1 << 14).has_value(), "what was parsed can be read");
  const plan::Packing packing{.bucket_bytes = 1 << 12, .run_alignment = 256};
  const auto arena_bytes = plan::wanted_arena_bytes(manifest, packing);
  if (arena_bytes == 0) return;
  const auto plan = plan::make_plan(manifest, layout,
                                    {.members = 2,
                                     .arena_bytes = arena_bytes,
                                     .packing = packing,
                                     .fan_out = plan::FanOut::independent});
  if (!plan) return fuzz::check_refusal(plan.error());
  std::size_t placed = 0;
  for (const auto& bucket : plan->buckets) placed += bucket.tensors.size();
  fuzz::check(placed == manifest.tensors.size(), "every tensor is in a bucket, once");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz::Input input(data, size);
  std::uint64_t more_bytes = input.byte();
  more_bytes |= std::uint64_t{input.byte()} << 8;
  const auto last = input.byte();
  more_bytes |= std::uint64_t{last & 0x7fU} << 16;
  std::string text(input.rest());
  if ((last & 0x80U) != 0) {
    std::string length(8, '\0');
    for (std::size_t i = 0; i < length.size(); ++i) length[i] = static_cast<char>(std::uint64_t{text.size()} >> (8 * i));
    text.insert(0, length);
  }
  const auto start = std::as_bytes(std::span(text));
  const auto file_bytes = start.size() + more_bytes;
  auto header = source::parse_safetensors_header(start, file_bytes);
  if (!header) {
    fuzz::check_refusal(header.error());
    return 0;
  }
  check_tensors(*header, file_bytes);
  use(*std::move(header), file_bytes);
  return 0;
}
