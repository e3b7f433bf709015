// Which calls are to fail, and what was complained of. Internal to tests/support/fake_cuda.
#pragma once

#include <cuda.h>

#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <string>
#include <vector>

namespace ckptd::fake_cuda {

/// Whether a context is lost with this code.
bool is_sticky(CUresult code);

class Faults {
 public:
  Faults();

  void add(std::string name, unsigned nth, CUresult code, int gpu);
  void clear();
  unsigned calls(const std::string& name) const;
  /// Counts the call; the code that it is to give, or CUDA_SUCCESS.
  CUresult count(const char* name, int gpu);

  void gather(std::string name, unsigned at_once);
  unsigned gathered() const;
  /// Waits if calls of that name are gathered.
  void meet(const char* name);

  void complain(std::string text);
  unsigned complaints() const;
  const char* last_complaint() const;
  void forget_complaints();

 private:
  struct Fault {
    std::string name;
    unsigned left;  ///< 0: every call
    CUresult code;
    int gpu;
  };
  void parse(const std::string& text);

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::string gather_;
  unsigned at_once_ = 0, inside_ = 0, most_ = 0;
  std::vector<Fault> faults_;
  std::map<std::string, unsigned> calls_;
  std::deque<std::string> complaints_;  // grows only, so that what was handed out stays
  std::size_t forgotten_ = 0;
};

}  // namespace ckptd::fake_cuda
