// Reads of files through a ring: direct, many under way, and whatever the ring does not bring is read or explained by a
// blocking read, so that both backends give the same bytes and the same errors.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "daemon/source/opened_file.h"
#include "daemon/source/reader.h"
#include "daemon/source/ring.h"

namespace ckptd::source {

class RingReader final : public Reader {
 public:
  /// `files` outlive the reader, and each can be read directly.
  RingReader(std::span<const OpenedFile> files, std::unique_ptr<Ring> ring, unsigned depth);
  ~RingReader() override;
  RingReader(const RingReader&) = delete;  // reads write into what it holds
  RingReader& operator=(const RingReader&) = delete;

  std::string_view backend() const override { return "io_uring"; }
  unsigned depth() const override { return static_cast<unsigned>(slots_.size()); }
  void submit(const Read& read) override;
  void wait(Deadline deadline, std::vector<Done>& done) override;
  void cancel() override;

 private:
  struct Slot {
    Read read;
    std::uint64_t wanted = 0;  ///< that the file has there
    std::uint64_t come = 0;
    bool used = false;
  };

  void queue_rest(std::size_t number);
  void settle(std::size_t number, int result);
  Result<std::uint64_t> read_rest(const Slot& slot) const;
  void end(std::size_t number, Result<std::uint64_t> bytes);

  std::span<const OpenedFile> files_;
  std::unique_ptr<Ring> ring_;
  std::vector<Slot> slots_;
  std::size_t under_way_ = 0;
  bool cancelled_ = false;
  std::vector<Ring::Ended> ended_;  ///< reused from call to call
  std::vector<Done> done_;          ///< to be told by the next wait()
};

}  // namespace ckptd::source
