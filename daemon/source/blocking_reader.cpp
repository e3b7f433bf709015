#include <optional>

#include "daemon/source/reader.h"
#include "daemon/source/source.h"

namespace ckptd::source {
namespace {

class BlockingReader final : public Reader {
 public:
  explicit BlockingReader(const Source& source) : source_(source) {}

  std::string_view backend() const override { return "pread"; }
  unsigned depth() const override { return 1; }
  void submit(const Read& read) override { next_ = read; }

  void wait(Deadline, std::vector<Done>& done) override {
    if (!next_) return;
    const auto read = *next_;
    next_.reset();
    done.push_back({read.tag, source_.read(read.file, read.offset, read.into)});
  }

  void cancel() override {}  // what wait() has begun is over when it returns

 private:
  const Source& source_;
  std::optional<Read> next_;
};

}  // namespace

std::unique_ptr<Reader> make_blocking_reader(const Source& source) {
  return std::make_unique<BlockingReader>(source);
}

}  // namespace ckptd::source
