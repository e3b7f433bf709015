// vLLM's calls around an update (all of development mode): pausing, memory, cache, label, checksums. Pure.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "common/result.h"
#include "proto/answer/answer.h"

namespace ckptd::proto::vllm {

inline constexpr std::string_view kResumeTarget = "/resume";
inline constexpr std::string_view kWakeWeightsTarget = "/wake_up?tags=weights";
inline constexpr std::string_view kWakeCacheTarget = "/wake_up?tags=kv_cache";
inline constexpr std::string_view kResetCacheTarget = "/reset_prefix_cache";
inline constexpr std::string_view kResetCacheOfRunningTarget = "/reset_prefix_cache?reset_running_requests=true";
inline constexpr std::string_view kLabelTarget = "/update_weight_version", kChecksumsTarget = "/weight_checker";

std::string pause_target(std::string_view mode);  ///< "/pause?mode=abort&clear_cache=true"
std::string label_body(std::string_view label);   ///< {"new_version":"7"}
std::string checksums_body();                     ///< {"action":"checksum"}

/// Of a call that says nothing but that it is done: 200, whatever the body, unless it says "success": false.
Result<> read_done(std::string_view request, unsigned status, std::string_view body, answer::Key sent);

/// {"success":bool}; older servers answer 200 with nothing, which is taken for a yes.
Result<bool> read_cache_reset(unsigned status, std::string_view body, answer::Key sent);

struct RankChecksums {
  std::string rank;                              ///< "dp0:pp0:pcp0:tp1:ep0"
  std::map<std::string, std::string> by_tensor;
};

/// 200 {"checksums":{"dp0:pp0:pcp0:tp0:ep0:NAME":HEX}}, by rank.
Result<std::vector<RankChecksums>> read_checksums(unsigned status, std::string_view body, answer::Key sent);

}  // namespace ckptd::proto::vllm
