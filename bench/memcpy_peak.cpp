// Prints how many bytes a second one thread's memcpy moves between memory that was touched before: the best of several
// rounds. What the stages of an update are compared with.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <vector>

int main() {
  constexpr std::size_t kBytes = std::size_t{256} << 20;
  constexpr int kRounds = 8;
  std::vector<char> from(kBytes, 'a'), to(kBytes, 'b');
  double best = 0;
  for (int round = 0; round < kRounds; ++round) {
    from[static_cast<std::size_t>(round)] = static_cast<char>(round);
    const auto start = std::chrono::steady_clock::now();
    std::memcpy(to.data(), from.data(), kBytes);
    const std::chrono::duration<double> span = std::chrono::steady_clock::now() - start;
    if (to[static_cast<std::size_t>(round)] != static_cast<char>(round)) return 1;  // and nobody may skip the copy
    best = std::max(best, static_cast<double>(kBytes) / span.count());
  }
  std::printf("%.0f\n", best);
  return 0;
}
