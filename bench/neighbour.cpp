// A neighbour that lives on the memory's bandwidth, as decoding on CPUs or copies to GPUs do: a[i] = b[i] + s * c[i]
// over arrays that no cache holds. Prints a JSON object for each line on standard input: bytes a second since the line
// before, and the worst tenth of a second in that time.
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;
constexpr std::size_t kCount = std::size_t{8} << 20;  // 64 MiB an array
constexpr double kSliceSeconds = 0.1;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

/// Whether a line came; ends the process with the input.
bool asked() {
  pollfd input{.fd = 0, .events = POLLIN, .revents = 0};
  if (::poll(&input, 1, 0) <= 0) return false;
  char line[64];
  if (::read(0, line, sizeof line) <= 0) std::exit(0);
  return true;
}

}  // namespace

int main() {
  std::vector<double> a(kCount, 1), b(kCount, 2), c(kCount, 3);
  double bytes = 0, worst = 0, slice_bytes = 0;
  auto start = Clock::now(), slice = start;
  for (double s = 0;; s += 1) {
    for (std::size_t i = 0; i < kCount; ++i) a[i] = b[i] + s * c[i];
    asm volatile("" : : "r"(a.data()) : "memory");  // nobody may find out that a is not read
    bytes += 3 * sizeof(double) * kCount;
    slice_bytes += 3 * sizeof(double) * kCount;
    if (const auto seconds = seconds_since(slice); seconds >= kSliceSeconds) {
      worst = worst == 0 ? slice_bytes / seconds : std::min(worst, slice_bytes / seconds);
      slice = Clock::now();
      slice_bytes = 0;
    }
    if (!asked()) continue;
    std::printf("{\"bytes_per_second\":%.0f,\"worst_bytes_per_second\":%.0f}\n", bytes / seconds_since(start), worst);
    std::fflush(stdout);
    bytes = worst = slice_bytes = 0;
    start = slice = Clock::now();
  }
}
