#include "tests/support/fake_cuda/faults.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <sstream>
#include <utility>

namespace ckptd::fake_cuda {

bool is_sticky(CUresult code) {
  static constexpr std::array kSticky{46u, 214u, 220u, 226u, 700u, 702u, 709u, 710u, 714u, 715u, 716u, 717u, 718u, 719u};
  return std::ranges::find(kSticky, static_cast<unsigned>(code)) != kSticky.end();
}

Faults::Faults() {
  if (const char* given = std::getenv("CKPTD_FAKE_CUDA_FAIL")) parse(given);
}

void Faults::parse(const std::string& text) {
  std::istringstream specs(text);
  for (std::string spec; std::getline(specs, spec, ',');) {
    const auto colon = spec.find(':'), equals = spec.find('='), at = spec.find('@');
    if (colon == std::string::npos || equals == std::string::npos) {
      std::fprintf(stderr, "fake_cuda: CKPTD_FAKE_CUDA_FAIL: '%s' is not NAME:N=CODE[@GPU]\n", spec.c_str());
      std::abort();
    }
    const auto nth = spec.substr(colon + 1, equals - colon - 1);
    add(spec.substr(0, colon), nth == "*" ? 0 : static_cast<unsigned>(std::atoi(nth.c_str())),
        static_cast<CUresult>(std::atoi(spec.c_str() + equals + 1)),
        at == std::string::npos ? -1 : std::atoi(spec.c_str() + at + 1));
  }
}

void Faults::add(std::string name, unsigned nth, CUresult code, int gpu) {
  std::lock_guard lock(mutex_);
  faults_.push_back({std::move(name), nth, code, gpu});
}

void Faults::clear() {
  std::lock_guard lock(mutex_);
  faults_.clear();
  gather_.clear();
}

unsigned Faults::calls(const std::string& name) const {
  std::lock_guard lock(mutex_);
  const auto at = calls_.find(name);
  return at == calls_.end() ? 0 : at->second;
}

CUresult Faults::count(const char* name, int gpu) {
  std::lock_guard lock(mutex_);
  ++calls_[name];
  for (auto fault = faults_.begin(); fault != faults_.end(); ++fault) {
    if (fault->name != name || (fault->gpu >= 0 && fault->gpu != gpu)) continue;
    if (fault->left == 0) return fault->code;
    if (--fault->left > 0) continue;
    const CUresult code = fault->code;
    faults_.erase(fault);
    return code;
  }
  return CUDA_SUCCESS;
}

void Faults::gather(std::string name, unsigned at_once) {
  std::lock_guard lock(mutex_);
  gather_ = std::move(name);
  at_once_ = at_once;
  most_ = 0;
}

unsigned Faults::gathered() const {
  std::lock_guard lock(mutex_);
  return most_;
}

void Faults::meet(const char* name) {
  std::unique_lock lock(mutex_);
  if (gather_ != name) return;
  most_ = std::max(most_, ++inside_);
  changed_.notify_all();
  changed_.wait_for(lock, std::chrono::seconds(30), [&] { return most_ >= at_once_; });
  --inside_;
}

void Faults::complain(std::string text) {
  std::fprintf(stderr, "fake_cuda: complaint of process %d: %s\n", ::getpid(), text.c_str());
  std::lock_guard lock(mutex_);
  complaints_.push_back(std::move(text));
}

unsigned Faults::complaints() const {
  std::lock_guard lock(mutex_);
  return static_cast<unsigned>(complaints_.size() - forgotten_);
}

const char* Faults::last_complaint() const {
  std::lock_guard lock(mutex_);
  return complaints_.size() == forgotten_ ? "" : complaints_.back().c_str();
}

void Faults::forget_complaints() {
  std::lock_guard lock(mutex_);
  forgotten_ = complaints_.size();
}

}  // namespace ckptd::fake_cuda
