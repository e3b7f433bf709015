// Opens a checkpoint, yields its manifest, reads extents into memory it is given.
//
// A source is where a version's bytes come from: today a directory of safetensors files, later a peer's memory, an
// object store, a trainer. open() and read() block and may be called from any number of threads at once; a thread that
// wants several reads under way makes itself a Reader. Nothing is kept, and no mapped file is ever touched (one that
// somebody truncates would be a SIGBUS). tests/contract/source_contract.h
// states what every source keeps.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/result.h"
#include "daemon/source/reader.h"
#include "daemon/weights/manifest.h"

namespace ckptd::source {

class Source {
 public:
  virtual ~Source() = default;
  virtual const weights::Manifest& manifest() const = 0;

  /// Reads exactly into.size() bytes from `offset` of file number `file`, but stops at the end of the file; returns how
  /// many bytes that were; what `into` has behind them is undefined. When offset, address and size are multiples of
  /// weights::kBlockBytes the read may be direct (O_DIRECT): it is when the bytes are not in memory, and the file system
  /// allows it. corrupt, naming file and byte, when the file is shorter than it was when opened.
  virtual Result<std::uint64_t> read(std::uint32_t file, std::uint64_t offset, std::span<std::byte> into) const = 0;

  /// Whether these bytes lie in this machine's memory already (page cache, tmpfs), so that read() is a copy by the
  /// calling thread and no wait for a device. A hint that costs microseconds.
  virtual bool is_in_memory(std::uint32_t file, std::uint64_t offset, std::uint64_t bytes) const;

  /// Never fails: where the wished reader cannot be had it is the blocking one. Safe from any thread.
  virtual std::unique_ptr<Reader> make_reader(const ReaderOptions& options) const;

  /// corrupt, naming the file, if any file is no longer what open() saw. Called after the last read.
  virtual Result<> check_unchanged() const = 0;
};

struct Options {
  std::vector<std::filesystem::path> roots;  ///< what a client may name; empty: whatever this uid can read
  bool direct_io = true;
};

/// `uri` is file:///absolute/path or an absolute path: a directory of safetensors files (with or without an index, a
/// hub snapshot of symlinks too) or one .safetensors file. Validates every header to the letter. Errors name file,
/// tensor and byte: invalid_argument (not a checkpoint), corrupt (its bytes contradict themselves), denied (outside
/// the roots, or not readable), not_found, unsupported (an element type that safetensors 0.8 does not know, another
/// scheme than file, more files or headers than fit), no_space (memory or descriptors), io.
Result<std::unique_ptr<Source>> open(std::string_view uri, const Options& options);

}  // namespace ckptd::source
