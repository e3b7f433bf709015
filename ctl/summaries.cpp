#include "ctl/summaries.h"

#include <fmt/ranges.h>

#include <nlohmann/json.hpp>

#include "common/units.h"
#include "ctl/text.h"

namespace ckptd::ctl {
namespace {

using nlohmann::json;
using proto::control::Job;

std::string text_in(const json& object, const char* name) {
  auto member = object.find(name);
  return member != object.end() && member->is_string() ? printable(member->get<std::string>()) : std::string();
}

std::optional<std::uint64_t> count_in(const json& object, const char* name) {
  auto member = object.find(name);
  if (member == object.end() || !member->is_number_unsigned()) return std::nullopt;
  return member->get<std::uint64_t>();
}

std::optional<double> seconds_in(const json& object, const char* name) {
  auto member = object.find(name);
  if (member == object.end() || !member->is_number()) return std::nullopt;
  return member->get<double>();
}

json list_in(const json& object, const char* name) {
  auto member = object.find(name);
  return member != object.end() && member->is_array() ? *member : json::array();
}

std::string summary_of_load(const Job& job, const json& result) {
  auto name = text_in(result, "checkpoint");
  auto resident = result.find("already_resident");
  bool was_there = resident != result.end() && resident->is_boolean() && resident->get<bool>();
  auto line =
      fmt::format("{}{}", was_there ? "already resident: " : "loaded ", name.empty() ? printable(job.subject) : name);
  auto bytes = count_in(result, "bytes"), tensors = count_in(result, "tensors");
  auto seconds = seconds_in(result, "seconds"), read_seconds = seconds_in(result, "read_seconds");
  if (bytes) line += ", " + show_bytes(*bytes);
  if (tensors) line += fmt::format(", {} tensors", *tensors);
  if (seconds && !was_there) line += " in " + show_seconds(*seconds);
  if (auto reading = read_seconds ? read_seconds : seconds; bytes && reading && *reading > 0)
    line += fmt::format(" (read at {})", show_rate(*bytes, *reading));
  auto identity = text_in(result, "identity");
  if (!identity.empty()) line += ", identity " + identity;
  line += "\n";
  for (const auto& gone : list_in(result, "evicted"))
    if (gone.is_string()) line += fmt::format("  {} left to make room\n", printable(gone.get<std::string>()));
  return line;
}

std::string summary_of_engine(const json& engine) {
  auto lanes = list_in(engine, "lanes").size();
  auto bytes = count_in(engine, "bytes");
  auto seconds = seconds_in(engine, "seconds"), waited = seconds_in(engine, "engine_wait_seconds"),
       first = seconds_in(engine, "first_bucket_seconds");
  auto fan_out = text_in(engine, "fan_out");
  auto line = fmt::format("  {}:", text_in(engine, "engine"));
  if (bytes) line += " " + show_bytes(*bytes);
  if (lanes > 0)
    line += fmt::format(" to {}{} {}", lanes > 1 ? "each of " : "", lanes, lanes > 1 ? "devices" : "device");
  if (seconds) line += " in " + show_seconds(*seconds);
  if (bytes && seconds && *seconds > 0)
    line += fmt::format(", {}{}", show_rate(*bytes, *seconds), lanes > 1 ? " to each" : "");
  if (!fan_out.empty()) line += ", " + fan_out;
  if (first) line += ", first bucket after " + show_seconds(*first);
  if (waited) line += ", waited " + show_seconds(*waited) + " for the engine";
  if (const auto sums = engine.find("checksums"); sums != engine.end() && sums->is_object())
    if (const auto ranks = list_in(*sums, "ranks").size(); ranks > 0)
      line += fmt::format(", checksums of {} {} taken", ranks, ranks == 1 ? "rank" : "ranks");
  line += "\n";
  for (const auto& warning : list_in(engine, "warnings"))
    if (warning.is_string()) line += fmt::format("    warning: {}\n", printable(warning.get<std::string>()));
  return line;
}

std::string summary_of_update(const Job& job, const json& result) {
  auto name = text_in(result, "checkpoint");
  auto engines = list_in(result, "engines");
  auto out = fmt::format("updated to {}", name.empty() ? printable(job.subject) : name);
  if (auto seconds = seconds_in(result, "seconds")) out += " in " + show_seconds(*seconds);
  out += engines.empty() ? "\n" : ":\n";
  for (const auto& engine : engines)
    if (engine.is_object()) out += summary_of_engine(engine);
  for (const auto& sentence : list_in(result, "left_out"))
    if (sentence.is_string()) out += fmt::format("  {}\n", printable(sentence.get<std::string>()));
  return out;
}

std::string summary_of_probe(const json& result) {
  std::string out = "measured, at best:\n";
  for (const auto& peak : list_in(result, "peaks")) {
    if (!peak.is_object()) continue;
    const auto device = text_in(peak, "device");
    const auto rate = seconds_in(peak, "bytes_per_second").value_or(0);
    const auto* from = text_in(peak, "stage") == "spread" ? " from another device" : "";
    out += fmt::format("  {}: {:.2f} GB/s\n",
                       device.empty() ? "hashing, one core" : fmt::format("copies to {}{}", device, from), rate / 1e9);
  }
  return out;
}

std::string summary_of_verification(const Job& job, const json& result) {
  const auto engine = text_in(result, "engine");
  auto out = fmt::format("engine {} holds {}: what its {} ranks tell of it is\n", engine.empty() ? printable(job.subject) : engine,
                         text_in(result, "checkpoint"), list_in(result, "ranks").size());
  for (const auto& with : list_in(result, "compared")) {
    if (!with.is_object()) continue;
    const auto other = text_in(with, "engine");
    const auto tensors = count_in(with, "tensors").value_or(0);
    out += other == engine ? fmt::format("  what it told after {}, at {} ({} tensors)\n", text_in(with, "job"),
                                         text_in(with, "taken"), tensors)
                           : fmt::format("  what engine {} told after {}, at {} ({} tensors)\n", other,
                                         text_in(with, "job"), text_in(with, "taken"), tensors);
  }
  if (const auto spots = result.find("spot_check"); spots != result.end() && spots->is_object()) {
    const auto tensors = spots->find("tensors");
    out += fmt::format("  a spot check, since its server tells no checksums: {} values of {} small tensors are the checkpoint's\n",
                       count_in(*spots, "values").value_or(0), tensors == spots->end() ? 0 : tensors->size());
  }
  return out;
}

}  // namespace

std::string summary_of(const Job& job) {
  auto result = json::parse(job.result, nullptr, false);
  if (!result.is_object()) result = json::object();
  if (job.kind == "load") return summary_of_load(job, result);
  if (job.kind == "update") return summary_of_update(job, result);
  if (job.kind == "verify") return summary_of_verification(job, result);
  if (job.kind == "probe") return summary_of_probe(result);
  return fmt::format("job {} succeeded: {}\n", printable(job.id), printable(job.subject));
}

std::string show_handles(const Job& job) {
  const auto id = printable(job.id);
  auto out = fmt::format("job {} waits for the ranks; call each engine yourself, with these as its zmq_handles:\n", id);
  for (const auto& engine : job.engines)
    out += engine.error ? fmt::format("  {}: nothing, {}\n", printable(engine.engine), printable(engine.error->sentence))
                        : fmt::format("  {}: {}\n", printable(engine.engine), printable(json(engine.zmq_handles).dump()));
  for (const auto& engine : job.engines)
    for (const auto& warning : engine.warnings)
      out += fmt::format("warning: {}: {}\n", printable(engine.engine), printable(warning));
  return out + fmt::format("pausing, flushing, labelling and resuming it is yours as well; 'ckptctl wait job/{}' tells how "
                           "it ended\n",
                           id);
}

}  // namespace ckptd::ctl
