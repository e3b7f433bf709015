// The trace of a job as one page of HTML: no other file, no network, opens from a directory. Pure.
//
// trace_page.html is the page and can be edited as one; the build puts it into the program. At its marker goes the
// data, as JSON in a script block that no name of an engine, a checkpoint or a rank can end.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

namespace ckptd::ctl {

extern const std::string_view kTracePage;
inline constexpr std::string_view kTracePageMarker = "{\"ckptd\": \"the data goes here\"}";

/// `job` and `trace` as the daemon answered them.
std::string trace_page(const nlohmann::json& job, const nlohmann::json& trace);

/// JSON that may stand in a script block: what HTML would take for a tag, an entity or a comment is escaped.
std::string json_for_script(const nlohmann::json& value);

}  // namespace ckptd::ctl
