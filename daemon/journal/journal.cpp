#include "daemon/journal/journal.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <cerrno>
#include <exception>
#include <mutex>
#include <system_error>
#include <utility>

#include "common/directory_lock.h"
#include "common/files.h"
#include "common/unique_fd.h"
#include "common/units.h"
#include "daemon/journal/state_json.h"

namespace ckptd::journal {
namespace {

// Far above any real state: an engine takes about a kilobyte. More than this would not be read at the next start.
constexpr std::uint64_t kStateLimitBytes = 16 * kMiB;

Result<> sync_directory(const std::filesystem::path& directory) {
  UniqueFd fd(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd || ::fsync(fd.get()) != 0)
    return std::unexpected(system_error(errno, fmt::format("sync {}", directory.string())));
  return {};
}

Result<> make_directory(const std::filesystem::path& directory) {
  const auto parent = directory.parent_path();
  std::error_code error;
  if (!parent.empty()) std::filesystem::create_directories(parent, error);
  if (error) return std::unexpected(system_error(error.value(), fmt::format("create {}", parent.string())));
  if (::mkdir(directory.c_str(), 0750) == 0) return sync_directory(parent.empty() ? "." : parent);
  if (errno != EEXIST) return std::unexpected(system_error(errno, fmt::format("create {}", directory.string())));
  if (!std::filesystem::is_directory(directory, error))
    return fail(ErrorKind::invalid_argument, "the state directory {} exists and is not a directory",
                directory.string());
  return {};
}

Result<Contents> read_state(const std::filesystem::path& file) {
  std::error_code error;
  const auto status = std::filesystem::symlink_status(file, error);
  if (status.type() == std::filesystem::file_type::not_found) return Contents{};
  auto contents = from_json(CKPTD_TRY(read_small_file(file, kStateLimitBytes)));
  if (contents) return *contents;
  auto damage = contents.error().within(file.string());
  if (damage.kind == ErrorKind::corrupt)
    damage.sentence += "; restore it from a backup, or move it away: engines must then be added again, and ranks that "
                       "wait for an update which broke off must be restarted";
  return std::unexpected(std::move(damage));
}

}  // namespace

struct Journal::Impl {
  std::filesystem::path file;
  UniqueFd lock;

  std::mutex writing;  ///< held for the whole of a change
  mutable std::mutex mutex;  ///< guards `contents`; never held while the disk works
  Contents contents;
  Listeners<> listeners;

  Contents copy() const {
    std::scoped_lock lock(mutex);
    return contents;
  }
  /// What was made of a copy, as it will be read again, and its text.
  Result<std::pair<Contents, std::string>> changed(const std::function<void(Contents&)>& change) const;
  void take(Contents next) {
    std::scoped_lock lock(mutex);
    contents = std::move(next);
  }
};

Journal::Journal() : impl_(std::make_unique<Impl>()) {}

Journal::~Journal() = default;

Result<std::unique_ptr<Journal>> Journal::open(const std::filesystem::path& directory) {
  // "state/" has an empty last part, and its parent would be itself.
  const auto path = directory.has_filename() ? directory : directory.parent_path();
  if (path.empty()) return fail(ErrorKind::invalid_argument, "the path of the state directory is empty");
  CKPTD_TRY(make_directory(path));
  std::unique_ptr<Journal> journal(new Journal);
  journal->impl_->lock = CKPTD_TRY(lock_directory(path, "state directory", "--state-dir"));
  journal->impl_->file = path / "state.json";
  journal->impl_->contents = CKPTD_TRY(read_state(journal->impl_->file));
  return journal;
}

Contents Journal::contents() const {
  return impl_->copy();
}

Result<> Journal::change(const std::function<void(Contents&)>& change) {
  {
    std::scoped_lock one_at_a_time(impl_->writing);
    auto [next, text] = CKPTD_TRY(impl_->changed(change));
    CKPTD_TRY(write_file_atomically(impl_->file, text));
    impl_->take(std::move(next));
  }
  impl_->listeners.tell();
  return {};
}

Result<> Journal::note(const std::function<void(Contents&)>& change) {
  Result<> written;
  {
    std::scoped_lock one_at_a_time(impl_->writing);
    auto [next, text] = CKPTD_TRY(impl_->changed(change));
    written = write_file_atomically(impl_->file, text);
    impl_->take(std::move(next));
  }
  impl_->listeners.tell();
  return written;
}

Subscription Journal::on_change(std::function<void()> listener) { return impl_->listeners.add(std::move(listener)); }

Result<std::pair<Contents, std::string>> Journal::Impl::changed(const std::function<void(Contents&)>& change) const {
  auto next = copy();
  try {
    change(next);
  } catch (const std::exception& error) {
    return fail(ErrorKind::internal, "a change of {} ended with an exception: {}", file.string(), error.what());
  }
  auto text = to_json(next);
  if (text.size() > kStateLimitBytes)
    return fail(ErrorKind::no_space, "{} would grow to {}, and {} is its limit; remove engines that are gone",
                file.string(), show_bytes(text.size()), show_bytes(kStateLimitBytes));
  // What could not be read at the next start is refused now, while somebody is there to see it.
  auto as_read = from_json(text);
  if (!as_read)
    return fail(ErrorKind::internal, "a change of {} makes what cannot be read back: {}", file.string(),
                as_read.error().sentence);
  return std::pair{*std::move(as_read), std::move(text)};
}

}  // namespace ckptd::journal
