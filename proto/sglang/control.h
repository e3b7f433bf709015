// SGLang's calls around an update: pausing, memory, checksums. Requests and answers as bytes. Pure.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "common/result.h"
#include "proto/answer/answer.h"

namespace ckptd::proto::sglang {

inline constexpr std::string_view kPauseTarget = "/pause_generation", kContinueTarget = "/continue_generation";
inline constexpr std::string_view kChecksumsTarget = "/weights_checker", kValuesTarget = "/get_weights_by_name";

std::string pause_body(std::string_view mode);                        ///< {"mode":"abort"}
std::string continue_body();                                          ///< {}
std::string checksums_body();                                         ///< {"action":"checksum"}

std::string values_body(std::string_view tensor, std::size_t count);   ///< {"name":"lm_head.weight","truncate_size":9}

/// Of a call that says nothing but that it is done: 200, whatever the body, unless it says "success": false.
Result<> read_done(std::string_view request, unsigned status, std::string_view body, answer::Key sent);

struct RankChecksums {
  std::string rank;                              ///< "tp0", "tp1 pp0 dp1": only sizes above one are told
  std::map<std::string, std::string> by_tensor;  ///< those of draft models as "draft.NAME"
};

/// 200 {"success":true,"message":..,"ranks":[{"checksums":{NAME:HEX},"parallelism_info":[{"role","tp_rank",..}],..}]}
/// unsupported for a server that knows the route and not the checksum.
Result<std::vector<RankChecksums>> read_checksums(unsigned status, std::string_view body, answer::Key sent);

/// 200 [0.5,..] of a one-dimensional tensor, from the first rank alone; one such list for each data-parallel rank where
/// there are several. A value that is not finite is null, and not a number here. unsupported for 400: this server tells no
/// values of this model, or has no tensor of that name.
Result<std::vector<std::vector<double>>> read_values(unsigned status, std::string_view body, answer::Key sent);

}  // namespace ckptd::proto::sglang
