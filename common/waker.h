// Wakes a thread that polls file descriptors: an eventfd. A stop callback or a finished stream calls wake(), the
// polling thread sees fd() readable and calls drain(). wake() is safe from any thread and never blocks.
#pragma once

#include "common/result.h"
#include "common/unique_fd.h"

namespace ckptd {

class Waker {
 public:
  static Result<Waker> create();

  int fd() const { return fd_.get(); }
  void wake() const noexcept;
  void drain() const noexcept;

 private:
  explicit Waker(UniqueFd fd) : fd_(std::move(fd)) {}
  UniqueFd fd_;
};

}  // namespace ckptd
