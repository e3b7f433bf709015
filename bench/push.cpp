// The push beside memcpy: one host device, one stream, and a rank in a process of its own that maps the arena and only
// acknowledges. Both move the same bytes between the same two mappings, from the store's segments into the arena's slots,
// all touched before; they take turns, and the ratio of each pair is what counts.
//
//   bench_push [--tensors LIST] [--bytes N] [--bucket N] [--rounds N]
//
// LIST is what bench/models.py prints; without it the model is N bytes in tensors of 16 MiB. What is timed of the push is
// all of pipeline::push(), from its call to its return, with the rank's process already there.
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <iostream>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "bench/tensor_list.h"
#include "common/units.h"
#include "daemon/device/host/host_device.h"
#include "daemon/pipeline/arena.h"
#include "daemon/pipeline/push.h"
#include "daemon/ranks/checkpoint_engine/endpoints.h"
#include "daemon/store/store.h"
#include "tests/support/reference_rank/rank.h"

namespace {

using namespace ckptd;
using namespace std::chrono_literals;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

/// This program again, as a rank: endpoints in on stdin, one line for each session out on stdout.
int be_a_rank() {
  reference_rank::Rank rank({.acknowledge_only = true});
  for (std::string endpoint; std::getline(std::cin, endpoint);) {
    const auto outcome = rank.update(endpoint);
    std::cout << (outcome.ok ? "ok" : "failed") << std::endl;
    if (!outcome.ok) std::cerr << outcome.error << '\n';
  }
  return EXIT_SUCCESS;
}

class RankProcess {
 public:
  RankProcess() {
    int in[2], out[2];
    if (::pipe(in) != 0 || ::pipe(out) != 0) throw std::runtime_error("no pipes for the rank");
    pid_ = ::fork();
    if (pid_ < 0) throw std::runtime_error("no process for the rank");
    if (pid_ == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      ::dup2(in[0], STDIN_FILENO);
      ::dup2(out[1], STDOUT_FILENO);
      for (int fd : {in[0], in[1], out[0], out[1]}) ::close(fd);
      ::execl("/proc/self/exe", "bench_push", "--rank", nullptr);
      ::_exit(127);
    }
    ::close(in[0]);
    ::close(out[1]);
    to_rank_ = ::fdopen(in[1], "w");
    from_rank_ = ::fdopen(out[0], "r");
  }
  RankProcess(const RankProcess&) = delete;
  RankProcess& operator=(const RankProcess&) = delete;
  ~RankProcess() {
    std::fclose(to_rank_);
    std::fclose(from_rank_);
    ::waitpid(pid_, nullptr, 0);
  }

  void begin(const std::string& endpoint) {
    std::fprintf(to_rank_, "%s\n", endpoint.c_str());
    std::fflush(to_rank_);
  }
  bool finished_well() {
    char line[64];
    return std::fgets(line, sizeof line, from_rank_) != nullptr && std::strcmp(line, "ok\n") == 0;
  }

 private:
  pid_t pid_ = 0;
  std::FILE* to_rank_ = nullptr;
  std::FILE* from_rank_ = nullptr;
};

struct Wishes {
  std::string tensors;
  std::uint64_t bytes = 4 * kGiB, bucket_bytes = 0;
  unsigned rounds = 7;
};

weights::Manifest plain_model(std::uint64_t bytes) {
  weights::Manifest manifest;
  manifest.files.push_back({.path = "model.safetensors", .bytes = 4096 + bytes, .data_begin = 4096, .stamp = {}});
  for (std::uint64_t at = 0; at < bytes; at += 16 * kMiB) {
    const auto size = std::min(16 * kMiB, bytes - at);
    manifest.tensors.push_back({fmt::format("model.layers.{}.weight", manifest.tensors.size()), weights::Dtype::u8,
                                {size}, {0, 4096 + at, size}});
  }
  return manifest;
}

/// Everything that both sides use, made ready before the first round.
class Bench {
 public:
  static Result<std::unique_ptr<Bench>> prepare(const Wishes& wishes) {
    std::unique_ptr<Bench> bench(new Bench);
    if (wishes.tensors.empty())
      bench->manifest_ = plain_model(wishes.bytes);
    else
      bench->manifest_ = CKPTD_TRY(ckptd::bench::read_tensor_list(wishes.tensors));
    CKPTD_TRY(bench->fill_store());
    CKPTD_TRY(bench->make_plan(wishes.bucket_bytes));
    return bench;
  }

  double copy_plainly() {
    const auto start = Clock::now();
    for (const auto& bucket : plan_.buckets)
      for (const auto& run : bucket.runs)
        std::memcpy(slot(bucket) + run.bucket_offset, resting(run.resting_offset, run.bytes).data(), run.bytes);
    return seconds_since(start);
  }

  Result<double> push() {
    std::vector<pipeline::Lane> lanes(1);
    lanes[0].device = device_.get();
    lanes[0].arena = arena_.get();
    lanes[0].session = CKPTD_TRY(endpoints_->open("bench", device_->identity().uuid));
    rank_.begin(lanes[0].session->endpoint());
    std::this_thread::sleep_for(50ms);  // its start is not what is measured
    const pipeline::Gates gates{[]() -> Result<> { return {}; }, []() -> Result<> { return {}; }};
    pipeline::Progress progress;
    const auto start = Clock::now();
    CKPTD_TRY(pipeline::push(
        plan_, manifest_, [this](auto offset, auto limit) { return resting(offset, limit); }, std::move(lanes), {}, gates,
        progress, {}, report_));
    const auto seconds = seconds_since(start);
    if (!rank_.finished_well()) return fail(ErrorKind::peer_failed, "the rank's session did not end well");
    return seconds;
  }

  const plan::Plan& plan() const { return plan_; }
  const weights::Manifest& manifest() const { return manifest_; }
  const pipeline::LaneReport& lane() const { return report_.lanes.front(); }
  std::uint64_t bucket_bytes() const { return bucket_bytes_; }

 private:
  Bench() { std::filesystem::create_directories(directory_); }

 public:
  ~Bench() {
    endpoints_.reset();
    std::error_code ignored;
    std::filesystem::remove_all(directory_, ignored);
  }

 private:
  Result<> fill_store() {
    const weights::Layout draft(manifest_, 4096);
    const auto budget = draft.total_bytes() + 2 * kGiB;
    store_ = CKPTD_TRY(store::Store::create({.budget_bytes = budget, .lock = store::LockPolicy::off}, {}));
    layout_.emplace(manifest_, store_->segment_bytes());
    memory_ = CKPTD_TRY(store_->reserve(layout_->segment_count()));
    std::mt19937_64 random(1);
    for (const auto* segment : memory_.segments())
      for (std::size_t at = 0; at + 8 <= segment->memory.size(); at += 8) {
        const auto word = random();
        std::memcpy(segment->memory.data() + at, &word, 8);
      }
    return {};
  }

  Result<> make_plan(std::uint64_t bucket_bytes) {
    bucket_bytes_ = bucket_bytes ? bucket_bytes : plan::default_bucket_bytes(manifest_.tensor_bytes());
    endpoints_ = CKPTD_TRY(ranks::checkpoint_engine::make_endpoints({directory_ / "r", "", 60s}));
    const plan::Packing packing{bucket_bytes_, endpoints_->traits().run_alignment, plan::kFirstBucketBytes};
    arena_ = CKPTD_TRY(pipeline::allocate_arena(*device_, plan::wanted_arena_bytes(manifest_, packing),
                                                plan::smallest_arena_bytes(manifest_, packing)));
    plan_ = CKPTD_TRY(plan::make_plan(manifest_, *layout_, {.arena_bytes = arena_->range().bytes, .packing = packing}));
    return {};
  }

  std::span<const std::byte> resting(std::uint64_t offset, std::uint64_t limit) const {
    const auto bytes = store_->segment_bytes();
    const auto& segment = *memory_.segments()[offset / bytes];
    return std::span(segment.memory).subspan(offset % bytes, std::min(limit, bytes - offset % bytes));
  }

  std::byte* slot(const plan::Bucket& bucket) const {
    return reinterpret_cast<std::byte*>(arena_->range().address) + bucket.slot_offset;
  }

  const std::filesystem::path directory_ = fmt::format("/tmp/ckptd-bench-push-{}", ::getpid());
  RankProcess rank_;  // first: it is forked before there are threads
  weights::Manifest manifest_;
  std::optional<weights::Layout> layout_;
  std::unique_ptr<store::Store> store_;
  store::Reservation memory_;
  std::unique_ptr<device::Device> device_ = device::host::make_host_device(0);
  std::unique_ptr<ranks::Endpoints> endpoints_;
  std::unique_ptr<device::Allocation> arena_;
  std::uint64_t bucket_bytes_ = 0;
  plan::Plan plan_;
  pipeline::Report report_;
};

Result<nlohmann::json> measure(const Wishes& wishes) {
  auto bench = CKPTD_TRY(Bench::prepare(wishes));
  const auto bytes = static_cast<double>(bench->plan().tensor_bytes);
  std::vector<double> memcpy_seconds, push_seconds, ratios;
  auto pairs = nlohmann::json::array();
  bench->copy_plainly();  // both sides have touched everything once
  CKPTD_TRY(bench->push());
  for (unsigned round = 0; round < wishes.rounds; ++round) {
    const bool memcpy_first = round % 2 == 0;
    if (memcpy_first) memcpy_seconds.push_back(bench->copy_plainly());
    push_seconds.push_back(CKPTD_TRY(bench->push()));
    if (!memcpy_first) memcpy_seconds.push_back(bench->copy_plainly());
    ratios.push_back(memcpy_seconds.back() / push_seconds.back());
    double busy = 0;
    for (const auto& span : bench->lane().spans)
      if (span.what == pipeline::Span::What::upload) busy += std::chrono::duration<double>(span.end - span.begin).count();
    pairs.push_back({{"memcpy_seconds", memcpy_seconds.back()},
                     {"push_seconds", push_seconds.back()},
                     {"upload_seconds", busy},
                     {"ratio", ratios.back()}});
  }
  return nlohmann::json{{"tensors", bench->manifest().tensors.size()},
                        {"bytes", bench->plan().tensor_bytes},
                        {"bucket_bytes", bench->bucket_bytes()},
                        {"arena_bytes", bench->plan().arena_bytes},
                        {"buckets", bench->plan().buckets.size()},
                        {"copy_runs", bench->plan().copy_runs},
                        {"memcpy_bytes_per_second", bytes / median(memcpy_seconds)},
                        {"push_bytes_per_second", bytes / median(push_seconds)},
                        {"ratio", median(ratios)},
                        {"ratio_lowest", *std::ranges::min_element(ratios)},
                        {"pairs", pairs}};
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 2 && std::string_view(argv[1]) == "--rank") return be_a_rank();
  Wishes wishes;
  CLI::App app{"The push beside memcpy"};
  app.add_option("--tensors", wishes.tensors, "a list that bench/models.py printed");
  app.add_option("--bytes", wishes.bytes, "of the model, without a list");
  app.add_option("--bucket", wishes.bucket_bytes, "bytes of a bucket; 0: as the daemon chooses");
  app.add_option("--rounds", wishes.rounds)->check(CLI::Range(1, 1000));
  CLI11_PARSE(app, argc, argv);
  const auto result = measure(wishes);
  if (!result) {
    std::fprintf(stderr, "bench_push: %s\n", result.error().sentence.c_str());
    return EXIT_FAILURE;
  }
  const auto& r = *result;
  std::printf("%s\n", r.dump().c_str());
  std::fprintf(stderr, "| push | %s in %zu buckets, %zu copy runs | memcpy %.2f GB/s, push %.2f GB/s | ratio %.3f (lowest %.3f) |\n",
               show_bytes(r["bytes"].get<std::uint64_t>()).c_str(), r["buckets"].get<std::size_t>(),
               r["copy_runs"].get<std::size_t>(), r["memcpy_bytes_per_second"].get<double>() / 1e9,
               r["push_bytes_per_second"].get<double>() / 1e9, r["ratio"].get<double>(), r["ratio_lowest"].get<double>());
  return EXIT_SUCCESS;
}
