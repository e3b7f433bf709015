#include <spdlog/spdlog.h>

#include <algorithm>
#include <new>

#include "daemon/source/checkpoint_files.h"
#include "daemon/source/json_text.h"
#include "daemon/source/opened_file.h"
#include "daemon/source/ring_reader.h"
#include "daemon/source/safetensors_header.h"
#include "daemon/source/source.h"

namespace ckptd::source {
namespace {

/// For all headers of one checkpoint together: what stands in them stays in memory, three times over. The largest
/// models of today have some 20 MB.
constexpr std::uint64_t kAllHeadersLimitBytes = 200'000'000;

class SafetensorsSource final : public Source {
 public:
  const weights::Manifest& manifest() const override { return manifest_; }

  Result<std::uint64_t> read(std::uint32_t file, std::uint64_t offset, std::span<std::byte> into) const override {
    if (file >= files_.size())
      return fail(ErrorKind::internal, "file {} of a checkpoint with {} files was to be read", file, files_.size());
    return files_[file].read(offset, into);
  }

  bool is_in_memory(std::uint32_t file, std::uint64_t offset, std::uint64_t bytes) const override {
    return file < files_.size() && files_[file].is_in_memory(offset, bytes);
  }

  std::unique_ptr<Reader> make_reader(const ReaderOptions& options) const override {
    // Reads through the page cache are copies by whoever asks: many threads are faster at that than one queue.
    if (!options.io_uring || !std::ranges::all_of(files_, &OpenedFile::is_direct)) return make_blocking_reader(*this);
    auto ring = make_kernel_ring(options.depth);
    if (ring) return std::make_unique<RingReader>(files_, *std::move(ring), options.depth);
    spdlog::info("files are read by threads with pread: {}", ring.error().sentence);
    return make_blocking_reader(*this);
  }

  Result<> check_unchanged() const override {
    for (const auto& file : files_) CKPTD_TRY(file.check_unchanged());
    return {};
  }

  Result<> add(OpenedFile file) {
    auto header = CKPTD_TRY(read_header(file));
    const auto number = static_cast<std::uint32_t>(files_.size());
    manifest_.files.push_back({.path = file.path().string(),
                               .bytes = file.bytes(),
                               .data_begin = header.data_begin,
                               .stamp = file.stamp()});
    for (auto& tensor : header.tensors) {
      tensor.extent.file = number;
      manifest_.tensors.push_back(std::move(tensor));
    }
    files_.push_back(std::move(file));
    return {};
  }

 private:
  Result<SafetensorsHeader> read_header(const OpenedFile& file) {
    std::byte length[8];
    const auto got = CKPTD_TRY(file.read(0, length));
    const auto data_begin = CKPTD_TRY(in_file(file, safetensors_data_begin(std::span(length, got), file.bytes())));
    headers_bytes_ += data_begin;
    if (headers_bytes_ > kAllHeadersLimitBytes)
      return fail(ErrorKind::unsupported, "{}: with this file the headers of the checkpoint have more than {} bytes",
                  shown(file.path().native()), kAllHeadersLimitBytes);
    std::vector<std::byte> start(data_begin);
    CKPTD_TRY(file.read(0, start));
    // Half an old header and half a new one would be blamed on whoever wrote them.
    CKPTD_TRY(file.check_unchanged());
    return in_file(file, parse_safetensors_header(start, file.bytes()));
  }

  template <class T>
  static Result<T> in_file(const OpenedFile& file, Result<T> result) {
    if (!result) return std::unexpected(result.error().within(shown(file.path().native())));
    return result;
  }

  weights::Manifest manifest_;
  std::vector<OpenedFile> files_;
  std::uint64_t headers_bytes_ = 0;
};

Result<OpenedFile> open_file(const CheckpointFiles& found, const std::string& name, const Roots& roots,
                             const Options& options) {
  auto file = OpenedFile::open(found.directory / name, roots, options.direct_io);
  if (!file && file.error().kind == ErrorKind::not_found && found.index)
    return std::unexpected(file.error().within(fmt::format("{} lists a shard that is missing",
                                                           shown(found.index_path().native()))));
  return file;
}

Result<std::unique_ptr<Source>> open_checkpoint(std::string_view uri, const Options& options) {
  const auto path = CKPTD_TRY(parse_uri(uri));
  const Roots roots(options.roots);
  const auto found = CKPTD_TRY(find_checkpoint_files(path, roots));
  auto source = std::make_unique<SafetensorsSource>();
  for (const auto& name : found.names) {
    auto file = CKPTD_TRY(open_file(found, name, roots, options));
    CKPTD_TRY(source->add(std::move(file)));
  }
  auto within_directory = [&](const Error& error) {
    return std::unexpected(error.within(shown((found.index ? found.index_path() : found.directory).native())));
  };
  if (auto once = check_defined_once(source->manifest()); !once) return within_directory(once.error());
  if (found.index)
    if (auto agree = check_agreement(*found.index, source->manifest()); !agree) return within_directory(agree.error());
  if (source->manifest().tensors.empty())
    return fail(ErrorKind::invalid_argument, "{} is not a checkpoint: its files hold no tensor", shown(path.native()));
  return source;
}

}  // namespace

bool Source::is_in_memory(std::uint32_t, std::uint64_t, std::uint64_t) const { return false; }

std::unique_ptr<Reader> Source::make_reader(const ReaderOptions&) const { return make_blocking_reader(*this); }

Result<std::unique_ptr<Source>> open(std::string_view uri, const Options& options) {
  try {
    return open_checkpoint(uri, options);
  } catch (const std::bad_alloc&) {
    return fail(ErrorKind::no_space, "{}: there is no memory to read the headers of this checkpoint", shown(uri));
  } catch (const std::exception& error) {
    return fail(ErrorKind::internal, "{}: {}", shown(uri), error.what());
  }
}

}  // namespace ckptd::source
