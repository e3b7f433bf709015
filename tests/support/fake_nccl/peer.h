// A member of the fake in another place than its rank 0, as a worker of a server is: speaks what net.h describes. Each call
// blocks until it is done; false when rank 0 has gone, or nothing came for a long time.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

#include "common/unique_fd.h"

namespace ckptd::tests {

class Peer {
 public:
  /// `id`: the 128 bytes that ncclGetUniqueId gave.
  Peer(std::string_view id, int rank, int members);

  bool join();
  /// The sum over all members, this one bringing `value`.
  std::optional<float> sum(float value);
  std::optional<std::string> take(std::size_t count);
  void leave() { socket_ = {}; }

 private:
  bool exchange(void* bytes, std::size_t count, bool out);

  const std::string name_;
  const int rank_, members_;
  UniqueFd socket_;
};

}  // namespace ckptd::tests
