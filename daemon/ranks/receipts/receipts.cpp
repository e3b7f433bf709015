#include "daemon/ranks/receipts/receipts.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <string_view>
#include <utility>

#include "common/random_name.h"
#include "proto/checkpoint_engine/counter_file.h"

namespace ckptd::ranks {
namespace {

namespace layout = proto::checkpoint_engine::counter_file;

constexpr std::string_view kPrefix = "ckptd-receipts-";
constexpr std::size_t kRandomLength = 16;
constexpr int kTries = 8;

std::string new_name() { return std::string(kPrefix) + random_name(kRandomLength); }

bool write_at(int fd, const void* value, std::size_t bytes, std::uint64_t offset) {
  return ::pwrite(fd, value, bytes, static_cast<off_t>(offset)) == static_cast<ssize_t>(bytes);
}

/// Whoever holds the lock lives: it goes with the last descriptor of its process.
bool lock(int fd) { return ::flock(fd, LOCK_EX | LOCK_NB) == 0; }

Result<> fill(int fd, std::optional<gid_t> group, const std::filesystem::path& path) {
  const auto refused = [&](int error_number, std::string_view what) {
    return std::unexpected(system_error(error_number, fmt::format("{} the file of receipts {}", what, path.native())));
  };
  int reserved = EINTR;
  while (reserved == EINTR) reserved = ::posix_fallocate(fd, 0, layout::kBytes);
  if (reserved != 0) return refused(reserved, "reserve");
  if (!write_at(fd, &layout::kOwnerAlone, sizeof layout::kOwnerAlone, 0)) return refused(errno, "write");
  if (group && ::fchown(fd, static_cast<uid_t>(-1), *group) != 0) return refused(errno, "give to rank_group");
  if (::fchmod(fd, group ? 0660 : 0600) != 0) return refused(errno, "set the mode of");
  return {};
}

/// A file whose daemon has ended. Others of our uid may be making theirs at this moment: see make_file().
void remove_if_left(const std::filesystem::path& path) {
  UniqueFd fd(::open(path.c_str(), O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
  struct stat info{};
  if (!fd || ::fstat(fd.get(), &info) != 0 || !S_ISREG(info.st_mode) || info.st_uid != ::geteuid()) return;
  if (!lock(fd.get()) || ::unlink(path.c_str()) != 0) return;
  spdlog::info("removed {}, which a ckptd that has ended left", path.native());
}

}  // namespace

/// Owns the file and its name.
class ReceiptFile {
 public:
  ReceiptFile(std::filesystem::path path, UniqueFd fd)
      : path_(std::move(path)), shm_name_("/" + path_.filename().string()), fd_(std::move(fd)) {}
  ReceiptFile(const ReceiptFile&) = delete;
  ReceiptFile& operator=(const ReceiptFile&) = delete;
  ~ReceiptFile() {
    if (has_its_name()) ::unlink(path_.c_str());
  }

  const std::string& shm_name() const { return shm_name_; }

  /// Ranks find it by its name, and it is whole.
  bool is_intact() const { return has_its_length() && has_its_name(); }

  bool arm(std::uint64_t counter) const {
    return write_at(fd_.get(), &layout::kArmed, sizeof layout::kArmed, layout::offset_of(counter));
  }

  Receipt::Seen look(std::uint64_t counter) const {
    using layout::Meaning;
    const auto meaning = layout::meaning_of(read_at<std::int64_t>(layout::offset_of(counter)).value_or(-1));
    if (meaning == Meaning::held && is_intact()) return Receipt::Seen::held;
    if (meaning == Meaning::released && was_never_cut()) return Receipt::Seen::released;
    return Receipt::Seen::lost;
  }

 private:
  template <class Value>
  std::optional<Value> read_at(std::uint64_t offset) const {
    Value value = 0;
    if (::pread(fd_.get(), &value, sizeof value, static_cast<off_t>(offset)) != sizeof value) return std::nullopt;
    return value;
  }

  bool has_its_length() const {
    struct stat info{};
    return ::fstat(fd_.get(), &info) == 0 && info.st_size == static_cast<off_t>(layout::kBytes);
  }

  bool has_its_name() const {
    struct stat ours{}, there{};
    return ::fstat(fd_.get(), &ours) == 0 && ::lstat(path_.c_str(), &there) == 0 && there.st_ino == ours.st_ino &&
           there.st_dev == ours.st_dev;
  }

  /// A file that was cut and made longer again reads as zeros: as receipts for everything, but for the header.
  bool was_never_cut() const {
    return has_its_length() && read_at<std::int32_t>(0).value_or(0) >= layout::kOwnerAlone;
  }

  std::filesystem::path path_;
  std::string shm_name_;
  UniqueFd fd_;
};

namespace {

Result<std::shared_ptr<ReceiptFile>> make_file(const Receipts::Options& options) {
  for (int i = 0; i < kTries; ++i) {
    const auto path = options.directory / new_name();
    UniqueFd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
    if (!fd) {
      if (errno == EEXIST) continue;
      return std::unexpected(system_error(errno, fmt::format("create the file of receipts {}", path.native())));
    }
    const bool locked = lock(fd.get());
    // Before it was locked, another daemon that starts may have taken it for one that was left.
    struct stat info{};
    if (!locked || ::fstat(fd.get(), &info) != 0 || info.st_nlink == 0) continue;
    if (auto filled = fill(fd.get(), options.group, path); !filled) {
      ::unlink(path.c_str());
      return std::unexpected(filled.error());
    }
    return std::make_shared<ReceiptFile>(path, std::move(fd));
  }
  return fail(ErrorKind::io, "no file of receipts in {} could be kept: somebody removes them",
              options.directory.native());
}

}  // namespace

const std::string& Receipt::file() const { return file_->shm_name(); }

Receipt::Seen Receipt::look() const { return file_->look(index_); }

Receipts::Receipts(Options options) : options_(std::move(options)) {
  std::error_code error;
  for (std::filesystem::directory_iterator entry(options_.directory, error), end; !error && entry != end;
       entry.increment(error))
    if (entry->path().filename().native().starts_with(kPrefix)) remove_if_left(entry->path());
}

Result<Receipt> Receipts::take() {
  std::lock_guard lock(mutex_);
  if (!file_ || next_ == layout::kCounters || !file_->is_intact()) {
    file_ = CKPTD_TRY(make_file(options_));
    next_ = 0;
  }
  const auto index = next_++;
  if (!file_->arm(index))
    return std::unexpected(system_error(errno, fmt::format("arm a receipt in {}", file_->shm_name())));
  return Receipt(file_, index);
}

}  // namespace ckptd::ranks
