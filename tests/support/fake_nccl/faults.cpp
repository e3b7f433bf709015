// What is to go wrong, and what was complained of.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <utility>

#include "tests/support/fake_nccl/world.h"

namespace ckptd::fake_nccl {

World& World::get() {
  static World& world = *[] {
    auto* made = new World;  // threads of the caller may outlive main()
    made->read_environment();
    return made;
  }();
  return world;
}

void World::read_environment() {
  const char* seed = std::getenv("CKPTD_TEST_SEED");
  if (seed != nullptr) random_.seed(std::strtoull(seed, nullptr, 10));
#ifdef CKPTD_HAVE_CUDA
  if (const char* cuda = std::getenv("CKPTD_FAKE_NCCL_CUDA"); cuda != nullptr)
    streams_ = *fake_nccl_cuda_streams(cuda);
#endif
  if (const char* network = std::getenv("CKPTD_FAKE_NCCL_NETWORK"); network != nullptr)
    this->network = std::string(network) == "1";
  if (const char* told = std::getenv("CKPTD_FAKE_NCCL_VERSION"); told != nullptr) version = std::atoi(told);
  if (const char* later = std::getenv("CKPTD_FAKE_NCCL_LATER"); later != nullptr) {
    char name[64];
    unsigned nth = 0;
    int code = 0;
    if (std::sscanf(later, "%63[^:]:%u=%d", name, &nth, &code) == 3) fail(name, nth, code, true);
  }
}

void World::begin(const FakeNcclStreams* streams, std::uint64_t seed) {
  std::lock_guard lock(mutex_);
  streams_ = *streams;
  random_.seed(seed);
  faults_.clear();
  calls_.clear();
  forgotten_ = complaints_.size();
  first_alive_ = all_.size();
  version = 22707;
  network = false;
}

void World::fail(const char* name, unsigned nth, int code, bool later) {
  std::lock_guard lock(mutex_);
  faults_.push_back({.name = name, .left = nth, .code = code, .later = later});
}

void World::hang(const char* name, unsigned nth, bool stubborn) {
  std::lock_guard lock(mutex_);
  faults_.push_back({.name = name, .left = nth, .hang = true, .stubborn = stubborn});
}

void World::release() {
  std::lock_guard lock(mutex_);
  ++releases_;
  changed_.notify_all();
}

void World::break_rank(int rank, int code) {
  std::lock_guard lock(mutex_);
  for (std::size_t i = first_alive_; i < all_.size(); ++i)
    if (all_[i].rank == rank && all_[i].state == Communicator::State::alive) all_[i].result = code;
}

unsigned World::calls(const char* name) {
  std::lock_guard lock(mutex_);
  return calls_[name];
}

unsigned World::hanging() {
  std::lock_guard lock(mutex_);
  return hanging_;
}

unsigned World::communicators() {
  std::lock_guard lock(mutex_);
  return static_cast<unsigned>(
      std::count_if(all_.begin() + static_cast<std::ptrdiff_t>(first_alive_), all_.end(), [](const auto& each) {
        return each.state == Communicator::State::alive || each.state == Communicator::State::finalized;
      }));
}

unsigned World::complaints() {
  std::lock_guard lock(mutex_);
  return static_cast<unsigned>(complaints_.size() - forgotten_);
}

const char* World::last_complaint() {
  std::lock_guard lock(mutex_);
  return complaints_.size() > forgotten_ ? complaints_.back().c_str() : "";
}

int World::complain(std::string text, int code) {
  std::fprintf(stderr, "fake NCCL: %s\n", text.c_str());
  complaints_.push_back(std::move(text));
  return code;
}

World::Entry World::enter(const char* name) {
  std::unique_lock lock(mutex_);
  ++calls_[name];
  Entry entry;
  for (auto fault = faults_.begin(); fault != faults_.end();) {
    if (fault->name != name || --fault->left != 0) {
      ++fault;
      continue;
    }
    const Fault found = *fault;
    fault = faults_.erase(fault);
    if (found.hang) {
      const auto releases = releases_, aborts = aborts_;
      ++hanging_;
      changed_.wait(lock, [&] { return releases_ != releases || (!found.stubborn && aborts_ != aborts); });
      --hanging_;
      break;
    }
    (found.later ? entry.later : entry.code) = found.code;
  }
  return entry;
}

}  // namespace ckptd::fake_nccl
