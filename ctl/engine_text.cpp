#include "ctl/engine_text.h"

namespace ckptd::ctl {

using proto::control::Engine;

bool is_poisoned(const Engine& engine) {
  return engine.state == "poisoned" || !engine.poisoned.empty();
}

std::string state_of(const Engine& engine) {
  if (engine.state == "poisoned") return "POISONED";
  return engine.state + (engine.job.empty() ? "" : " by " + engine.job) + (is_poisoned(engine) ? ", POISONED" : "");
}

bool heals_by_itself(const Engine& engine) {
  return is_poisoned(engine) && (engine.next == "push" || engine.next == "wait");
}

std::string cure_for(const Engine& engine) {
  if (heals_by_itself(engine))
    return fmt::format("it may hold a mixture of two versions until it has been given {} in full, which ckptd does by "
                       "itself",
                       engine.target);
  auto what = engine.target.empty() ? engine.checkpoint + "@VERSION" : engine.target;
  return fmt::format(
      "it may hold a mixture of two versions until a full update succeeds: ckptctl update {} --engine {}", what,
      engine.name);
}

}  // namespace ckptd::ctl
