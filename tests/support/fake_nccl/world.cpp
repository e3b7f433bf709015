#include "tests/support/fake_nccl/world.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>

namespace ckptd::fake_nccl {
namespace {

thread_local int depth = 0;
thread_local int group_error = kSuccess;
thread_local std::vector<Call> group;

std::string shown(const Communicator& communicator) {
  return "the communicator of rank " + std::to_string(communicator.rank);
}

}  // namespace

int World::make_id(char* id) {
  std::lock_guard lock(mutex_);
  std::memset(id, 0, 128);
  const auto number = ++ids_;
  std::memcpy(id, &number, sizeof number);
  const auto clique = cliques_[number] = std::make_shared<Clique>();
  if (!network) return kSuccess;
  clique->net = std::make_shared<Net>("ckptd-fake-nccl-" + std::to_string(::getpid()) + "-" + std::to_string(number));
  std::memcpy(id + sizeof number, clique->net->name().data(), clique->net->name().size());
  return kSuccess;
}

/// NCCL allows it from 2.30 on, if it is asked to by this variable.
bool World::may_share_a_device() const {
  const char* asked = std::getenv("NCCL_MULTI_RANK_GPU_ENABLE");
  return version >= 23000 && asked != nullptr && std::string(asked) == "1";
}

int World::init(void** out, int members, const char* id, int rank, int blocking, int later) {
  std::lock_guard lock(mutex_);
  *out = nullptr;
  std::uint64_t number = 0;
  std::memcpy(&number, id, sizeof number);
  const auto found = cliques_.find(number);
  if (found == cliques_.end()) return complain("init with an id that ncclGetUniqueId did not give", kInvalidArgument);
  if (blocking != 0)
    return complain("init of a blocking communicator, or with a config that is none", kInvalidArgument);
  if (rank < 0 || rank >= members) return complain("init of rank " + std::to_string(rank), kInvalidArgument);
  auto& clique = *found->second;
  if (clique.members == 0) {
    clique.members = static_cast<std::size_t>(members);
    clique.ranks.resize(clique.members);
  }
  if (clique.members != static_cast<std::size_t>(members))
    return complain("members disagree how many they are", kInvalidUsage);
  if (clique.ranks[static_cast<std::size_t>(rank)] != nullptr)
    return complain("rank " + std::to_string(rank) + " comes twice", kInvalidUsage);
  void* device = streams_.current_device(streams_.self);
  if (device == nullptr) return complain("init without a current device", kUnhandledCuda);
  for (const auto* other : clique.ranks)
    if (other != nullptr && other->device == device && !may_share_a_device())
      return complain("two ranks on one device", kInvalidUsage);
  auto& made = all_.emplace_back();
  made.rank = rank;
  made.device = device;
  made.clique = found->second;
  clique.ranks[static_cast<std::size_t>(rank)] = &made;
  *out = &made;
  start(made, later);
  return submit({.kind = Call::Kind::init, .communicator = &made});
}

/// Null with a complaint if it is none of ours, or none any more.
Communicator* World::known(void* handle, const char* what) {
  for (auto& each : all_) {
    if (&each != handle) continue;
    if (each.state == Communicator::State::aborted || each.state == Communicator::State::destroyed) break;
    return &each;
  }
  complain(std::string(what) + " of a communicator that is no longer there, or never was", kInvalidArgument);
  return nullptr;
}

Communicator* World::usable(void* handle, const char* what) {
  auto* found = known(handle, what);
  if (found == nullptr || !found->in_progress) return found;
  complain(std::string(what) + ": " + shown(*found) + " is in progress", kInvalidArgument);
  return nullptr;
}

int World::broadcast(void* bytes, std::size_t count, int root, void* handle, void* stream, int later) {
  return submit_collective(
      {.kind = Call::Kind::broadcast, .bytes = bytes, .stream = stream, .count = count, .root = root}, "ncclBroadcast", handle,
      later);
}

int World::sum(void* value, void* handle, void* stream, int later) {
  return submit_collective({.kind = Call::Kind::broadcast, .bytes = value, .stream = stream, .count = 1, .sum = true},
                           "ncclAllReduce", handle, later);
}

int World::submit_collective(Call call, const char* name, void* handle, int later) {
  std::lock_guard lock(mutex_);
  auto* communicator = usable(handle, name);
  if (communicator == nullptr) return group_error = kInvalidArgument;
  if (communicator->state == Communicator::State::finalized)
    return complain(std::string(name) + " after ncclCommFinalize", kInvalidUsage);
  if (call.sum && !communicator->clique->net) return complain("a sum between members of one process", kInvalidUsage);
  if (communicator->result != kSuccess) return communicator->result;
  if (later != kSuccess) communicator->result = later;
  call.communicator = communicator;
  return submit(call);
}

int World::end(Call::Kind kind, void* handle, int later) {
  std::lock_guard lock(mutex_);
  if (kind == Call::Kind::abort) {
    auto* communicator = known(handle, "ncclCommAbort");
    if (communicator == nullptr) return kInvalidArgument;
    cut(*communicator);
    communicator->state = Communicator::State::aborted;
    ++aborts_;
    changed_.notify_all();
    return submit({.kind = kind, .communicator = communicator});
  }
  const bool finalize = kind == Call::Kind::finalize;
  auto* communicator = usable(handle, finalize ? "ncclCommFinalize" : "ncclCommDestroy");
  if (communicator == nullptr) return group_error = kInvalidArgument;
  if (finalize && communicator->state == Communicator::State::finalized)
    return complain("ncclCommFinalize comes twice", kInvalidArgument);
  if (finalize && later != kSuccess) communicator->result = later;
  communicator->state = finalize ? Communicator::State::finalized : Communicator::State::destroyed;
  return submit({.kind = kind, .communicator = communicator});
}

int World::group_start() {
  ++depth;
  return kSuccess;
}

int World::submit(Call call) {
  if (depth > 0) {
    group.push_back(call);
    // A non-blocking communicator may already say so here.
    return call.kind != Call::Kind::abort && draw(2) == 0 ? kInProgress : kSuccess;
  }
  carry_out(call, false);
  return call.communicator->in_progress ? kInProgress : kSuccess;
}

int World::group_end() {
  std::lock_guard lock(mutex_);
  if (depth == 0) return complain("ncclGroupEnd without ncclGroupStart", kInvalidUsage);
  if (--depth > 0) return kSuccess;
  const auto calls = std::exchange(group, {});
  const int error = std::exchange(group_error, kSuccess);
  bool in_progress = false;
  for (const auto& call : calls) {
    if (error != kSuccess && call.kind == Call::Kind::broadcast) continue;
    const bool with_siblings = std::ranges::all_of(call.communicator->clique->ranks, [&](const auto* rank) {
      return rank == nullptr || !rank->begun || std::ranges::find(calls, rank, &Call::communicator) != calls.end();
    });
    carry_out(call, with_siblings);
    in_progress = in_progress || call.communicator->in_progress;
  }
  if (error != kSuccess) return error;
  return in_progress ? kInProgress : kSuccess;
}

void World::carry_out(const Call& call, bool with_siblings) {
  auto& communicator = *call.communicator;
  switch (call.kind) {
    case Call::Kind::init:
      communicator.begun = true;
      ++communicator.clique->begun;
      break;
    case Call::Kind::broadcast: join(communicator, call); break;
    case Call::Kind::finalize:
      ++communicator.clique->finalized;
      start(communicator, communicator.result);
      break;
    case Call::Kind::destroy:
    case Call::Kind::abort:
      if (!with_siblings && communicator.clique->members > 1)
        complain(shown(communicator) + " is ended without its siblings: they may wait for each other", kInvalidUsage);
      break;
  }
}

void World::start(Communicator& communicator, int result) {
  communicator.in_progress = true;
  communicator.result = result;
  communicator.never = result == kInProgress;
  communicator.polls = draw(4);
}

void World::join(Communicator& communicator, const Call& call) {
  auto& clique = *communicator.clique;
  auto& operation = open_[{&clique, ++communicator.operations}];
  if (!operation) {
    operation = operations_.emplace_back(std::make_shared<Operation>());
    operation->count = call.count;
    operation->root = call.root;
    operation->sum = call.sum;
    operation->parts.resize(clique.members);
    operation->polls_before_queued = draw(6);
  }
  if (operation->count != call.count || operation->root != call.root)
    complain(shown(communicator) + " disagrees with the others about a broadcast", kInvalidUsage);
  operation->parts[static_cast<std::size_t>(communicator.rank)] = {call.bytes, call.stream, true};
  start(communicator, communicator.result);
  communicator.operation = operation;
}

/// Whether the others have done their part of what it does.
bool World::may_finish(Communicator& communicator) {
  auto& clique = *communicator.clique;
  if (communicator.state == Communicator::State::finalized) return clique.net || clique.finalized == clique.members;
  if (!communicator.operation) return clique.net ? clique.net->all_here(clique.members) : clique.begun == clique.members;
  auto& operation = *communicator.operation;
  if (!clique.net && !std::ranges::all_of(operation.parts, &Operation::Part::here)) return false;
  if (operation.queued) return true;
  if (operation.polls_before_queued > 0) {
    --operation.polls_before_queued;
    return false;
  }
  operation.queued = true;
  if (const int code = queue(clique, operation); code != kSuccess)
    for (auto* rank : clique.ranks)
      if (rank != nullptr) rank->result = code;
  return true;
}

int World::async_error(void* handle, int* state) {
  std::lock_guard lock(mutex_);
  auto* communicator = known(handle, "ncclCommGetAsyncError");
  if (communicator == nullptr) return kInvalidArgument;
  if (const auto& net = communicator->clique->net; net && net->lost() && communicator->result == kSuccess) {
    communicator->result = kRemote;
    if (const auto wrong = net->complaint(); !wrong.empty()) complain(wrong, kInvalidUsage);
  }
  *state = communicator->result;
  if (!communicator->in_progress) return kSuccess;
  *state = kInProgress;
  if (communicator->never) return kSuccess;
  if (communicator->polls > 0) {
    --communicator->polls;
    return kSuccess;
  }
  if (communicator->result == kSuccess && !may_finish(*communicator)) return kSuccess;
  communicator->in_progress = false;
  communicator->operation.reset();
  *state = communicator->result;
  if (*state == kSuccess || *state == kRemote) return kSuccess;
  for (auto* other : communicator->clique->ranks)
    if (other != nullptr && other != communicator && other->result == kSuccess) other->result = kRemote;
  return kSuccess;
}

//  stream of the root:  | have[0]                               | wait have[1]
//  of its successor:    | wait have[0] | copy | record have[1]  | wait have[2]
//  of the last one:     | wait have[1] | copy | record have[2]
int World::queue(Clique& clique, Operation& operation) {
  if (clique.net) return queue_to_net(clique, operation);
  const auto members = clique.members;
  const auto rank_at = [&](std::size_t place) { return (static_cast<std::size_t>(operation.root) + place) % members; };
  std::vector<void*> have(members);
  int failed = 0;
  for (std::size_t place = 0; place < members; ++place) {
    const auto rank = rank_at(place);
    auto* device = clique.ranks[rank]->device;
    auto& part = operation.parts[rank];
    have[place] = streams_.make_event(streams_.self, device);
    if (have[place] == nullptr) return kUnhandledCuda;
    if (place > 0) {
      const auto& before = operation.parts[rank_at(place - 1)];
      failed |= streams_.wait(streams_.self, device, part.stream, have[place - 1]);
      failed |=
          streams_.copy(streams_.self, device, part.stream, part.bytes, before.bytes, operation.count, &operation.cut);
    }
    failed |= streams_.record(streams_.self, device, part.stream, have[place]);
  }
  for (std::size_t place = 0; place < members; ++place) {
    auto* device = clique.ranks[rank_at(place)]->device;
    if (place + 1 < members)
      failed |= streams_.wait(streams_.self, device, operation.parts[rank_at(place)].stream, have[place + 1]);
  }
  for (std::size_t place = 0; place < members; ++place)
    streams_.destroy_event(streams_.self, clique.ranks[rank_at(place)]->device, have[place]);
  return failed != 0 ? kUnhandledCuda : kSuccess;
}

/// One call on the stream of rank 0, which returns when all others have done their part, or at the abort.
int World::queue_to_net(Clique& clique, Operation& operation) {
  struct Work {
    std::shared_ptr<Net> net;
    Operation& operation;
  };
  const auto carry_out = [](void* data) {
    const std::unique_ptr<Work> work(static_cast<Work*>(data));
    auto& [net, todo] = *work;
    if (todo.cut) return;
    auto& part = todo.parts.front();
    if (todo.sum)
      net->sum(*static_cast<float*>(part.bytes), todo.cut);
    else
      net->broadcast(part.bytes, todo.count, todo.cut);
  };
  auto& part = operation.parts.front();
  auto* work = new Work{clique.net, operation};
  if (streams_.run(streams_.self, clique.ranks.front()->device, part.stream, carry_out, work) == 0) return kSuccess;
  delete work;
  return kUnhandledCuda;
}

/// What is queued of its clique does nothing any more.
void World::cut(Communicator& communicator) {
  for (auto& [key, operation] : open_)
    if (key.first == communicator.clique.get()) operation->cut = true;
  if (communicator.clique->net) communicator.clique->net->close();
}

}  // namespace ckptd::fake_nccl
