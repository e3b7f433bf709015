// The holds of several sessions on one arena, as one. Internal to the room. Safe from any thread.
#pragma once

#include <memory>
#include <utility>

#include "daemon/ranks/session.h"

namespace ckptd::pipeline {

/// Lets go when both have.
class JointHold final : public ranks::Hold {
 public:
  JointHold(std::shared_ptr<ranks::Hold> first, std::shared_ptr<ranks::Hold> second)
      : first_(std::move(first)), second_(std::move(second)) {}

  bool let_go() override { return first_->let_go() && second_->let_go(); }
  ranks::Holder holder() const override { return first_->holder(); }  // one rank's, of one process
  std::string why() const override { return first_->let_go() ? second_->why() : first_->why(); }

 private:
  const std::shared_ptr<ranks::Hold> first_, second_;
};

/// Either may be null: nothing is held.
inline std::shared_ptr<ranks::Hold> joined(std::shared_ptr<ranks::Hold> first, std::shared_ptr<ranks::Hold> second) {
  if (!first || !second) return first ? std::move(first) : std::move(second);
  return std::make_shared<JointHold>(std::move(first), std::move(second));
}

}  // namespace ckptd::pipeline
