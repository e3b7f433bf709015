#include <unistd.h>

#include <charconv>
#include <iterator>
#include <sstream>

#include "common/files.h"
#include "daemon/metrics/state.h"

namespace ckptd::metrics {
namespace {

using prometheus::MetricFamily;
using prometheus::MetricType;

/// The fields of /proc/self/stat behind the name, which may have blanks and brackets: [0] is field 3 of proc(5).
std::vector<std::string> stat_fields(const std::string& text) {
  auto name_end = text.rfind(')');
  if (name_end == text.npos) return {};
  std::istringstream rest(text.substr(name_end + 1));
  return {std::istream_iterator<std::string>(rest), {}};
}

double number(const std::vector<std::string>& fields, std::size_t proc_5_field) {
  const auto& text = fields[proc_5_field - 3];
  double value = 0;
  std::from_chars(text.data(), text.data() + text.size(), value);
  return value;
}

}  // namespace

std::vector<MetricFamily> process_families(const std::filesystem::path& proc) {
  std::vector<MetricFamily> families;
  if (auto stat = read_small_file(proc / "self/stat")) {
    const auto fields = stat_fields(*stat);
    const auto page = static_cast<double>(::sysconf(_SC_PAGESIZE)), tick = static_cast<double>(::sysconf(_SC_CLK_TCK));
    if (fields.size() > 24 - 3) {
      families.push_back(single("process_cpu_seconds_total", "User and system time of the daemon.", MetricType::Counter,
                                (number(fields, 14) + number(fields, 15)) / tick));
      families.push_back(single("process_threads", "Threads of the daemon.", MetricType::Gauge, number(fields, 20)));
      families.push_back(single("process_resident_memory_bytes", "Resident memory, that of the store included.",
                                MetricType::Gauge, number(fields, 24) * page));
    }
  }
  std::error_code error;
  std::filesystem::directory_iterator open(proc / "self/fd", error), end;
  double count = 0;
  for (; !error && open != end; open.increment(error)) ++count;
  if (!error) families.push_back(single("process_open_fds", "Open file descriptors.", MetricType::Gauge, count));
  return families;
}

}  // namespace ckptd::metrics
