#include "common/units.h"
#include "daemon/config/draft.h"

namespace ckptd::config {
namespace {

constexpr std::uint64_t kSegmentStepBytes = 4 * kKiB, kSmallestSegmentBytes = 64 * kKiB;
constexpr std::uint64_t kSmallestOwnSegmentBytes = 2 * kMiB;  ///< that the store chooses by itself

/// "store.segment (/etc/ckptd.toml:4:1)": which key, and who said so.
std::string shown(const Draft& draft, const std::string& key) {
  auto origin = draft.origins.find(key);
  return origin == draft.origins.end() ? key : fmt::format("{} ({})", key, origin->second);
}

Result<> check_budget(const Draft& draft) {
  if (draft.config.store_budget_bytes > 0) return {};
  const auto file = draft.file.empty() ? std::string("a file given with --config") : draft.file;
  return fail(ErrorKind::invalid_argument,
              "no store budget is set: give --store-budget 8GiB, or write budget = \"8GiB\" below [store] in {}. It is "
              "the host memory that ckptd pins for weights; choose the sum of the versions that shall be resident at "
              "once (for updates from one version to the next, twice the size of the model's files), and leave the "
              "machine what else it needs",
              file);
}

Result<> check_segment(const Draft& draft) {
  const auto bytes = draft.config.segment_bytes;
  if (bytes == 0 && draft.config.store_budget_bytes < kSmallestOwnSegmentBytes)
    return fail(ErrorKind::invalid_argument, "{}: {} is less than the smallest segment that is chosen by itself; write at "
                                             "least {}, or a smaller store.segment",
                shown(draft, "store.budget"), show_bytes(draft.config.store_budget_bytes),
                show_bytes(kSmallestOwnSegmentBytes));
  if (bytes == 0) return {};
  if (bytes < kSmallestSegmentBytes || bytes % kSegmentStepBytes != 0)
    return fail(ErrorKind::invalid_argument, "{}: {} bytes is not a multiple of {} of at least {}, such as 64MiB",
                shown(draft, "store.segment"), bytes, kSegmentStepBytes, show_bytes(kSmallestSegmentBytes));
  if (bytes > draft.config.store_budget_bytes)
    return fail(ErrorKind::invalid_argument, "{}: a segment of {} does not fit into the {} of {}",
                shown(draft, "store.segment"), show_bytes(bytes), show_bytes(draft.config.store_budget_bytes),
                shown(draft, "store.budget"));
  return {};
}

Result<> check_arena(const Draft& draft) {
  const auto bucket = draft.config.bucket_bytes, arena = draft.config.arena_bytes;
  if (bucket == 0 || arena == 0 || arena >= bucket) return {};
  return fail(ErrorKind::invalid_argument, "{}: an arena of {} cannot hold one bucket of {}, which {} asks for",
              shown(draft, "push.arena"), show_bytes(arena), show_bytes(bucket), shown(draft, "push.bucket"));
}

/// As the room operations says it of the same request; there the start would end.
Result<> check_engines(const Draft& draft) {
  for (const auto& engine : draft.config.engines) {
    if (engine.kind == "sglang" && engine.wake != Wake::none)
      return fail(ErrorKind::invalid_argument,
                  "engine {}: SGLang does not tell that it sleeps, so it cannot be woken: leave engine.wake at none, and resume "
                  "its memory before an update of it",
                  engine.name);
    if (engine.kind != "vllm" && engine.transfer == "native")
      return fail(ErrorKind::invalid_argument,
                  "engine {}: one of kind {} has no weight transfer of its own: leave engine.transfer at auto", engine.name,
                  engine.kind);
    if (!engine.target.empty() && !engine.target.starts_with(engine.checkpoint + "@"))
      return fail(ErrorKind::invalid_argument, "engine {}: its target {} is no version of its checkpoint {}", engine.name,
                  engine.target, engine.checkpoint);
  }
  return {};
}

}  // namespace

Result<> check(const Draft& draft) {
  CKPTD_TRY(check_budget(draft));
  CKPTD_TRY(check_segment(draft));
  CKPTD_TRY(check_arena(draft));
  return check_engines(draft);
}

}  // namespace ckptd::config
