// How long it takes to plan an update and to encode all that its ranks are told, for a list of tensors as bench/models.py
// prints it. Planning and encoding alternate, round by round; medians are printed.
//
//   bench_plan LIST [ROUNDS]        LIST: one JSON object a line, as bench/models.py prints it
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "bench/tensor_list.h"
#include "common/deadline.h"
#include "common/units.h"
#include "daemon/plan/plan.h"
#include "daemon/ranks/checkpoint_engine/wire_types.h"

namespace {

using namespace ckptd;

double milliseconds_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

/// Every message of the update, one after another, as a lane makes them; returns their bytes.
Result<std::uint64_t> encode(const weights::Manifest& manifest, const plan::Plan& plan) {
  std::uint64_t bytes = 0;
  std::vector<ranks::TensorView> views;
  for (const auto& bucket : plan.buckets) {
    views.clear();
    for (const auto& placement : bucket.tensors) {
      const auto& tensor = manifest.tensors[placement.tensor];
      views.push_back({tensor.name, tensor.dtype, tensor.shape, bucket.slot_offset + placement.offset});
    }
    const auto message = CKPTD_TRY(ranks::checkpoint_engine::reload_message(views));
    bytes += message.size();
  }
  return bytes;
}

Result<nlohmann::json> measure(const std::string& list, unsigned rounds) {
  const auto manifest = CKPTD_TRY(bench::read_tensor_list(list));
  const weights::Layout layout(manifest, kGiB);
  const plan::Packing packing{.bucket_bytes = plan::default_bucket_bytes(manifest.tensor_bytes()),
                              .first_bucket_bytes = plan::kFirstBucketBytes};
  const plan::Request request{.arena_bytes = plan::wanted_arena_bytes(manifest, packing), .packing = packing};
  std::vector<double> plan_ms, encode_ms, both_ms;
  plan::Plan plan;
  std::uint64_t message_bytes = 0;
  for (unsigned round = 0; round < rounds; ++round) {
    auto start = Clock::now();
    plan = CKPTD_TRY(plan::make_plan(manifest, layout, request));
    plan_ms.push_back(milliseconds_since(start));
    start = Clock::now();
    message_bytes = CKPTD_TRY(encode(manifest, plan));
    encode_ms.push_back(milliseconds_since(start));
    both_ms.push_back(plan_ms.back() + encode_ms.back());
  }
  return nlohmann::json{{"tensors", manifest.tensors.size()},
                        {"bytes", plan.tensor_bytes},
                        {"buckets", plan.buckets.size()},
                        {"copy_runs", plan.copy_runs},
                        {"message_bytes", message_bytes},
                        {"rounds", rounds},
                        {"plan_ms", median(plan_ms)},
                        {"encode_ms", median(encode_ms)},
                        {"both_ms", median(both_ms)},
                        {"both_ms_worst", *std::ranges::max_element(both_ms)}};
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2 || argc > 3) {
    std::fputs("usage: bench_plan LIST [ROUNDS]\n", stderr);
    return EXIT_FAILURE;
  }
  const auto result = measure(argv[1], argc > 2 ? std::max(1, std::atoi(argv[2])) : 15);
  if (!result) {
    std::fprintf(stderr, "bench_plan: %s\n", result.error().sentence.c_str());
    return EXIT_FAILURE;
  }
  const auto& r = *result;
  std::printf("%s\n", r.dump().c_str());
  std::fprintf(stderr, "| plan | %zu tensors | %zu buckets, %zu copy runs | plan %.1f ms + encode %.1f ms = %.1f ms |\n",
               r["tensors"].get<std::size_t>(), r["buckets"].get<std::size_t>(), r["copy_runs"].get<std::size_t>(),
               r["plan_ms"].get<double>(), r["encode_ms"].get<double>(), r["both_ms"].get<double>());
  return EXIT_SUCCESS;
}
