// How rank 0 of the fake reaches members in other processes: one Unix socket, whose abstract name the unique id carries.
//
//   id[0..8)   the number of the clique, as for members of one process
//   id[8..]    the name of the socket, ended by a zero byte
//
//   member                               rank 0
//   connect, i32 rank, i32 members  ──▶  until all have come, then to each
//                                   ◀──  'G'
//   'S', f32                        ──▶  until all have: the sum
//                                   ◀──  f32
//   'B', u64 count                  ──▶  until all have: the same count that the sender has
//                                   ◀──  the bytes
//
// Numbers are of this machine. Whoever goes away makes the others wait for ever, as NCCL's kernels do: what rank 0 is told of
// it is an asynchronous error (ncclRemoteError), and what ends its wait is an abort. None of this is NVIDIA's.
#pragma once

#include <atomic>
#include <cstddef>
#include <functional>
#include <mutex>
#include <string>
#include <vector>

namespace ckptd::fake_nccl {

class Net {
 public:
  explicit Net(std::string name);
  Net(const Net&) = delete;
  Net& operator=(const Net&) = delete;
  ~Net();

  const std::string& name() const { return name_; }
  /// Hears who has come; whether all others of `members` have, who are then told so. Does not block.
  bool all_here(std::size_t members);
  // On a stream: blocks until every member has done its part, or the abort.
  void sum(float& value, const std::atomic<bool>& cut);
  void broadcast(const void* bytes, std::size_t count, const std::atomic<bool>& cut);
  bool lost() const { return lost_; }  ///< somebody has gone, or does something else
  std::string complaint() const;       ///< what somebody did else; empty: nothing
  void close();                        ///< after the abort

 private:
  struct Peer {
    int fd = -1;
    int rank = 0;
  };
  bool exchange(int fd, void* bytes, std::size_t count, bool out, const std::atomic<bool>& cut);
  bool arrive(char step, std::size_t bytes, const std::atomic<bool>& cut,
              const std::function<std::string(const void*)>& check);
  void lose(std::string complaint, const std::atomic<bool>* cut);

  const std::string name_;
  int listener_ = -1;
  mutable std::mutex mutex_;  // of a step
  std::vector<Peer> peers_;
  bool told_ = false;
  std::atomic<bool> lost_ = false;
  mutable std::mutex complaint_mutex_;
  std::string complaint_;
};

}  // namespace ckptd::fake_nccl
