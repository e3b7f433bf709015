// model.safetensors.index.json.
#include "daemon/source/index.h"
#include "tests/fuzz/target.h"

using namespace ckptd;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto index = source::parse_index(std::as_bytes(std::span(data, size)));
  if (!index) {
    fuzz::check_refusal(index.error());
    return 0;
  }
  fuzz::check(!index->entries.empty(), "an index names at least one tensor");
  for (const auto& shard : index->shards()) {
    fuzz::check(!shard.empty() && shard != "." && shard != "..", "a shard is a file");
    fuzz::check(shard.find('/') == shard.npos && shard.find('\0') == shard.npos, "a shard lies beside its index");
  }
  if (const auto agreed = source::check_agreement(*index, {}); !agreed) fuzz::check_refusal(agreed.error());
  return 0;
}
