// Loads a checkpoint again and again, as ckptd does and without ckptd, and prints one JSON object a round. The first
// round takes memory that nobody has touched, the others take the same memory again.
//
// With --on-demand a round begins with each line on standard input, so that rounds of other programs can lie between.
#include <sys/resource.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>

#include "common/deadline.h"
#include "common/units.h"
#include "daemon/prefetch/prefetch.h"
#include "daemon/source/source.h"
#include "daemon/store/store.h"

namespace {

using namespace ckptd;

struct Settings {
  std::string path;
  int rounds = 5;
  bool on_demand = false, hash = true, direct_io = true, lock = true;
  prefetch::Options prefetch;
  std::uint64_t bytes_per_second = 0;
};

/// The same files without their tensors: bytes to read and nothing to hash.
class Unhashed final : public source::Source {
 public:
  explicit Unhashed(const source::Source& whole) : whole_(whole), manifest_{whole.manifest().files, {}} {}
  const weights::Manifest& manifest() const override { return manifest_; }
  Result<std::uint64_t> read(std::uint32_t file, std::uint64_t offset, std::span<std::byte> into) const override {
    return whole_.read(file, offset, into);
  }
  bool is_in_memory(std::uint32_t file, std::uint64_t offset, std::uint64_t bytes) const override {
    return whole_.is_in_memory(file, offset, bytes);
  }
  std::unique_ptr<source::Reader> make_reader(const source::ReaderOptions& options) const override {
    return whole_.make_reader(options);
  }
  Result<> check_unchanged() const override { return whole_.check_unchanged(); }

 private:
  const source::Source& whole_;
  weights::Manifest manifest_;
};

double core_seconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  auto seconds = [](const timeval& time) { return static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_usec); };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

/// The most memory that this process has had in use since reset_high_water().
std::uint64_t high_water_bytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.starts_with("VmHWM:")) return std::stoull(line.substr(6)) * kKiB;
  return 0;
}

void reset_high_water() { std::ofstream("/proc/self/clear_refs") << "5"; }

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

Result<nlohmann::json> load_once(const Settings& settings, std::unique_ptr<store::Store>& store) {
  reset_high_water();
  const auto start = Clock::now();
  const auto cores = core_seconds();
  const auto source = CKPTD_TRY(source::open(settings.path, {.roots = {}, .direct_io = settings.direct_io}));
  const auto open_seconds = seconds_since(start);

  const auto segment_bytes = store::default_segment_bytes(~std::uint64_t{0} >> 1);
  const weights::Layout layout(source->manifest(), segment_bytes);
  const bool untouched = store == nullptr;
  if (!store)
    store = CKPTD_TRY(store::Store::create(
        {.budget_bytes = layout.segment_count() * segment_bytes,
         .segment_bytes = segment_bytes,
         .lock = settings.lock ? store::LockPolicy::try_ : store::LockPolicy::off},
        {}));
  const auto memory = CKPTD_TRY(store->reserve(layout.segment_count()));
  const auto reserve_seconds = seconds_since(start) - open_seconds;

  prefetch::Progress progress;
  const Unhashed unhashed(*source);
  const auto& chosen = settings.hash ? *source : static_cast<const source::Source&>(unhashed);
  const auto filled = CKPTD_TRY(prefetch::fill(chosen, layout, memory, settings.prefetch, progress, {}));
  const auto seconds = seconds_since(start);
  const auto over = high_water_bytes();
  return nlohmann::json{{"seconds", seconds},
                        {"open_seconds", open_seconds},
                        {"reserve_seconds", reserve_seconds},
                        {"read_seconds", filled.seconds},
                        {"hash_core_seconds", progress.hash_seconds()},
                        {"throttle_seconds", progress.throttle_seconds()},
                        {"core_seconds", core_seconds() - cores},
                        {"bytes", filled.read_bytes},
                        {"cached_bytes", progress.cached_bytes.load()},
                        {"tensors", source->manifest().tensors.size()},
                        {"backend", filled.backend},
                        {"untouched", untouched},
                        {"overhead_bytes", over - std::min(over, memory.bytes())}};
}

Settings parse(int argc, char** argv) {
  CLI::App app{"Loads a checkpoint into pinned memory, again and again"};
  Settings settings;
  auto& prefetch = settings.prefetch;
  std::string io_priority = "none";
  app.add_option("path", settings.path, "Directory of safetensors files")->required();
  app.add_option("--rounds", settings.rounds, "How often");
  app.add_flag("--on-demand", settings.on_demand, "A round for each line on standard input, instead of --rounds");
  app.add_flag("!--no-hash", settings.hash, "Leaves the digests out");
  app.add_flag("!--no-direct-io", settings.direct_io, "Page cache only");
  app.add_flag("!--no-lock", settings.lock, "Does not lock memory");
  app.add_flag("!--no-io-uring", prefetch.io_uring, "Threads with pread");
  app.add_option("--readers", prefetch.readers, "Threads");
  app.add_option("--hashers", prefetch.hashers, "Threads");
  app.add_option("--queue-depth", prefetch.queue_depth, "Reads under way");
  app.add_option("--read-bytes", prefetch.read_bytes, "Bytes of one read");
  app.add_option("--max-bytes-per-second", settings.bytes_per_second, "0: no limit");
  app.add_option("--nice", prefetch.priority.nice, "0 to 19");
  app.add_option("--io-priority", io_priority, "none, best-effort or idle")
      ->check(CLI::IsMember({"none", "best-effort", "idle"}));
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    std::exit(app.exit(error));
  }
  if (io_priority == "best-effort") prefetch.priority.io = prefetch::IoPriority::best_effort;
  if (io_priority == "idle") prefetch.priority.io = prefetch::IoPriority::idle;
  prefetch.throttle = std::make_shared<prefetch::Throttle>(settings.bytes_per_second);
  return settings;
}

}  // namespace

int main(int argc, char** argv) {
  const auto settings = parse(argc, argv);
  std::unique_ptr<store::Store> store;
  std::string line;
  for (int round = 0; settings.on_demand ? bool(std::getline(std::cin, line)) : round < settings.rounds; ++round) {
    const auto told = load_once(settings, store);
    if (!told) {
      std::fprintf(stderr, "%s\n", told.error().sentence.c_str());
      return 1;
    }
    std::cout << told->dump() << std::endl;
  }
  return 0;
}
