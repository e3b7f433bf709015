#include <fmt/ranges.h>

#include "common/units.h"
#include "ctl/summaries.h"
#include "ctl/table.h"
#include "ctl/text.h"

namespace ckptd::ctl {
namespace {

using namespace proto::control;

constexpr std::size_t kShortIdentity = 12;

std::string show_size(const Version& version) {
  return version.tensor_bytes > 0 || version.state == "resident" ? show_bytes(version.tensor_bytes) : "";
}

std::string show_store(const Version& version) {
  if (version.store_bytes == 0) return "";
  auto text = show_bytes(version.store_bytes);
  if (version.shared_bytes > 0) text += fmt::format(", {} of it shared with other versions", show_bytes(version.shared_bytes));
  return text;
}

std::string show_shape(const std::vector<std::uint64_t>& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

Table tensor_table(const Version& version) {
  Table table{{{"TENSOR", true}, {"DTYPE"}, {"SHAPE"}, {"SIZE", false, true}, {"DIGEST", true}}, {}};
  for (const auto& tensor : version.tensors)
    table.rows.push_back(
        {tensor.name, tensor.dtype, show_shape(tensor.shape), show_bytes(tensor.bytes), tensor.digest});
  return table;
}

}  // namespace

std::string show_versions(const std::vector<Version>& versions, const View& view) {
  if (versions.empty()) return "no version is loaded; load one with: ckptctl load NAME@VERSION DIR\n";
  Table table{{{"CHECKPOINT", true},
               {"STATE"},
               {"SIZE", false, true},
               {"SHARED", false, true},
               {"TENSORS", false, true},
               {"KEPT"},
               {"IN USE BY", true},
               {"SINCE"},
               {"IDENTITY"},
               {"SOURCE", true}},
              {}};
  for (const auto& version : versions)
    table.rows.push_back({version.name + "@" + version.version, version.state, show_size(version),
                          version.shared_bytes > 0 ? show_bytes(version.shared_bytes) : "",
                          version.tensor_count > 0 ? std::to_string(version.tensor_count) : "",
                          version.kept ? "kept" : "", fmt::format("{}", fmt::join(version.leased_by, ", ")),
                          show_age(version.since, view.now), version.identity.substr(0, kShortIdentity),
                          version.source_uri});
  return render(table, view.width, view.utf8);
}

std::string show_version(const Version& version, const View& view) {
  auto out = render_fields({
      {"checkpoint", version.name + "@" + version.version},
      {"state", version.state + (version.kept ? ", kept" : "")},
      {"since", fmt::format("{} ({})", show_age(version.since, view.now), show_time(version.since))},
      {"last use", version.last_use ? fmt::format("{} ({})", show_age(*version.last_use, view.now),
                                                  show_time(*version.last_use))
                                    : ""},
      {"source", version.source_uri},
      {"identity", version.identity},
      {"schema", version.schema},
      {"size", fmt::format("{} in {} tensors", show_bytes(version.tensor_bytes), version.tensor_count)},
      {"store", show_store(version)},
      {"in use by", fmt::format("{}", fmt::join(version.leased_by, ", "))},
      {"job", version.job},
      {"error", version.error ? version.error->sentence : ""},
  });
  if (!version.tensors.empty()) out += "\n" + render(tensor_table(version), view.width, view.utf8);
  return out;
}

}  // namespace ckptd::ctl
