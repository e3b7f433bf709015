// Receipts: how a rank tells that it has unmapped CUDA memory, although the protocol has no word for it.
//
// torch counts down in a file of shared memory when the last tensor over such memory dies
// (proto/checkpoint_engine/counter_file.h has the bytes). Each session is given one counter of such a file, and none is
// given twice: what a late rank still counts can never be taken for somebody else's receipt. A file has 10000 of them;
// the next one is made when it is used up, or damaged, and a file goes when its last receipt does.
//
// Ranks may write to the file, cut it short and remove it. Nothing here maps it, so all they reach is that a receipt
// proves nothing. Its pages are reserved when it is made: a full /dev/shm is an error here and no SIGBUS there.
//
// Safe from any thread. Nothing blocks.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "common/result.h"
#include "common/unique_fd.h"

namespace ckptd::ranks {

class ReceiptFile;

/// One armed counter. Move only: it speaks for one session.
class Receipt {
 public:
  enum class Seen {
    held,      ///< as it was armed
    released,  ///< counted down: unmapped
    lost,      ///< neither can be said: a senseless value, or the file was cut or removed
  };

  Receipt(Receipt&&) noexcept = default;
  Receipt& operator=(Receipt&&) noexcept = default;

  const std::string& file() const;  ///< as shm_open takes it: "/ckptd-receipts-..."
  std::uint64_t index() const { return index_; }
  Seen look() const;

 private:
  friend class Receipts;
  Receipt(std::shared_ptr<ReceiptFile> file, std::uint64_t index) : file_(std::move(file)), index_(index) {}

  std::shared_ptr<ReceiptFile> file_;
  std::uint64_t index_;
};

class Receipts {
 public:
  struct Options {
    std::optional<gid_t> group;                    ///< may count too (mode 0660); absent: one uid alone (0600)
    std::filesystem::path directory = "/dev/shm";  ///< where shm_open looks
  };
  /// Removes the files of daemons of this uid that have ended. A running one holds a lock on its own.
  explicit Receipts(Options options);

  /// no_space, denied and the like when a file is needed and cannot be made.
  Result<Receipt> take();

 private:
  const Options options_;
  std::mutex mutex_;
  std::shared_ptr<ReceiptFile> file_;  ///< guarded by mutex_, as next_; made when the first receipt is wanted
  std::uint64_t next_ = 0;
};

}  // namespace ckptd::ranks
