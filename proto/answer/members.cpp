#include "proto/answer/members.h"

#include <cstdint>
#include <nlohmann/json.hpp>

namespace ckptd::proto::answer {

using nlohmann::json;

std::string text_at(const json& object, const char* name) {
  const auto at = object.find(name);
  return at != object.end() && at->is_string() ? at->get<std::string>() : std::string();
}

bool truth_at(const json& object, const char* name) {
  const auto at = object.find(name);
  return at != object.end() && at->is_boolean() && at->get<bool>();
}

unsigned count_at(const json& object, const char* name, unsigned otherwise) {
  const auto at = object.find(name);
  if (at == object.end() || !at->is_number_integer()) return otherwise;
  const auto value = at->get<std::int64_t>();
  return value >= 1 && value <= 1'000'000 ? static_cast<unsigned>(value) : otherwise;
}

}  // namespace ckptd::proto::answer
