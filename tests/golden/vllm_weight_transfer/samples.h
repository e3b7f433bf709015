// One request of each form that a vLLM server is sent, and the pickle inside of them.
#pragma once

#include <map>
#include <string>

namespace ckptd::test {

/// By the name of its file: *.json are bodies, handles.pickle is what they carry in base64.
std::map<std::string, std::string> vllm_samples();

}  // namespace ckptd::test
