#pragma once

#include <string>
#include <string_view>

namespace ckptd::proto::vllm::weight_transfer {

/// The standard alphabet, with padding, without line breaks.
std::string base64(std::string_view bytes);

}  // namespace ckptd::proto::vllm::weight_transfer
