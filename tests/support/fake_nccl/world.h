// The communicators that the library pretends to have. Internal to tests/support/fake_nccl. One mutex guards
// everything.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <vector>

#include "tests/support/fake_nccl/fake_nccl.h"
#include "tests/support/fake_nccl/net.h"

namespace ckptd::fake_nccl {

inline constexpr int kSuccess = 0, kUnhandledCuda = 1, kInvalidArgument = 4, kInvalidUsage = 5, kRemote = 6,
                     kInProgress = 7;

struct Communicator;

/// One epoch: the communicators that were made with one unique id.
struct Clique {
  std::size_t members = 0;
  std::vector<Communicator*> ranks;  // null: has not come yet
  unsigned begun = 0, finalized = 0;
  std::shared_ptr<Net> net;  // not null: rank 0 is here, and all others are reached by it
};

/// One broadcast of a clique, as far as its members have called it.
struct Operation {
  struct Part {
    void* bytes = nullptr;
    void* stream = nullptr;
    bool here = false;
  };
  std::size_t count = 0;
  int root = 0;
  std::vector<Part> parts;
  bool sum = false;
  unsigned polls_before_queued = 0;
  bool queued = false;
  std::atomic<bool> cut = false;
};

struct Communicator {
  enum class State { alive, finalized, aborted, destroyed };
  State state = State::alive;
  int rank = 0;
  void* device = nullptr;
  std::shared_ptr<Clique> clique;
  bool begun = false;  // its group call has ended
  bool in_progress = false;
  bool never = false;                    // comes to no end
  unsigned polls = 0;                    // answers of ncclInProgress that are left
  int result = kSuccess;                 // what it comes to
  std::shared_ptr<Operation> operation;  // the one in progress
  unsigned operations = 0;
};

/// A call within ncclGroupStart and ncclGroupEnd.
struct Call {
  enum class Kind { init, broadcast, finalize, destroy, abort };
  Kind kind = Kind::init;
  Communicator* communicator = nullptr;
  void* bytes = nullptr;
  void* stream = nullptr;
  std::size_t count = 0;
  int root = 0;
  bool sum = false;
};

class World {
 public:
  static World& get();
  void read_environment();

  void begin(const FakeNcclStreams* streams, std::uint64_t seed);
  void fail(const char* name, unsigned nth, int code, bool later);
  void hang(const char* name, unsigned nth, bool stubborn);
  void release();
  void break_rank(int rank, int code);
  unsigned calls(const char* name);
  unsigned hanging();
  unsigned communicators();
  unsigned complaints();
  const char* last_complaint();

  struct Entry {
    int code = kSuccess;   // not success: answer it and do nothing
    int later = kSuccess;  // what the communicator is to come to
  };
  /// Counts a call, waits if it is to hang, and tells what is to become of it.
  Entry enter(const char* name);

  int make_id(char* id);
  int init(void** out, int members, const char* id, int rank, int blocking, int later);
  int broadcast(void* bytes, std::size_t count, int root, void* handle, void* stream, int later);
  int sum(void* value, void* handle, void* stream, int later);
  int end(Call::Kind kind, void* handle, int later);
  int async_error(void* handle, int* state);
  int group_start();
  int group_end();
  std::atomic<int> version = 22707;
  std::atomic<bool> network = false;

 private:
  struct Fault {
    std::string name;
    unsigned left = 0;
    int code = kSuccess;
    bool later = false, hang = false, stubborn = false;
  };

  Communicator* known(void* handle, const char* what);
  Communicator* usable(void* handle, const char* what);
  int submit(Call call);
  void carry_out(const Call& call, bool with_siblings);
  void start(Communicator& communicator, int result);
  void join(Communicator& communicator, const Call& call);
  bool may_finish(Communicator& communicator);
  bool may_share_a_device() const;
  int queue(Clique& clique, Operation& operation);
  int queue_to_net(Clique& clique, Operation& operation);
  int submit_collective(Call call, const char* name, void* handle, int later);
  void cut(Communicator& communicator);
  int complain(std::string text, int code);
  unsigned draw(unsigned below) { return static_cast<unsigned>(random_() % below); }

  std::mutex mutex_;
  std::condition_variable changed_;
  FakeNcclStreams streams_{};
  std::mt19937_64 random_{1};
  std::vector<Fault> faults_;
  std::map<std::string, unsigned> calls_;
  unsigned hanging_ = 0, aborts_ = 0, releases_ = 0;
  std::uint64_t ids_ = 0;
  std::map<std::uint64_t, std::shared_ptr<Clique>> cliques_;
  // Never freed: a handle that is used too late is to be recognised, and queued copies look at operations.
  std::deque<Communicator> all_;
  std::deque<std::shared_ptr<Operation>> operations_;
  std::map<std::pair<Clique*, unsigned>, std::shared_ptr<Operation>> open_;
  std::deque<std::string> complaints_;
  std::size_t forgotten_ = 0, first_alive_ = 0;
};

}  // namespace ckptd::fake_nccl
