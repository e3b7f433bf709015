#include "tests/contract/session/harness.h"

#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <system_error>

#include "daemon/ranks/checkpoint_engine/endpoints.h"

namespace ckptd::test {
namespace {

std::byte pattern_at(std::uint64_t offset) { return static_cast<std::byte>(offset * 7 + (offset >> 8) * 13 + 1); }

bool at_least(Reached wanted, Reached point) { return static_cast<int>(wanted) >= static_cast<int>(point); }

/// With no step outstanding a wait ends at its deadline; it is how a test lets the session see who connected.
Result<> see_rank(ranks::Session& session) {
  auto patience = Deadline::in(kPatience);
  while (!session.peer() && !patience.passed()) {
    auto looked = session.wait({}, Deadline::in(std::chrono::milliseconds(20)));
    if (!looked && looked.error().kind != ErrorKind::timed_out) return std::unexpected(looked.error());
  }
  if (!session.peer()) return fail(ErrorKind::timed_out, "no rank connected");
  return {};
}

}  // namespace

TemporaryDirectory::TemporaryDirectory() {
  std::string name = "/tmp/ckptd-session-XXXXXX";
  if (!::mkdtemp(name.data())) throw std::system_error(errno, std::system_category(), "mkdtemp");
  path_ = name;
}

TemporaryDirectory::~TemporaryDirectory() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

std::unique_ptr<ranks::Endpoints> make_backend(const std::filesystem::path& directory,
                                               std::chrono::milliseconds keep_bound, const std::string& rank_group,
                                               std::chrono::milliseconds parting_wait,
                                               std::chrono::milliseconds stay_for_return) {
  auto made = ranks::checkpoint_engine::make_endpoints({.directory = directory,
                                                        .rank_group = rank_group,
                                                        .keep_bound = keep_bound,
                                                        .shared_memory = "/dev/shm",
                                                        .parting_wait = parting_wait,
                                                        .stay_for_return = stay_for_return});
  if (!made) throw std::runtime_error(made.error().sentence);
  return *std::move(made);
}

Memory::Memory(std::uint64_t bytes) : fd_(::memfd_create("ckptd-test", MFD_CLOEXEC)), bytes_(bytes) {
  auto content = part(0, bytes);
  if (!fd_ || ::write(fd_.get(), content.data(), bytes) != static_cast<ssize_t>(bytes))
    throw std::system_error(errno, std::system_category(), "memfd");
}

device::Export Memory::exported() const {
  return device::HostExport{fmt::format("/proc/{}/fd/{}", ::getpid(), fd_.get()), bytes_};
}

std::vector<std::byte> Memory::part(std::uint64_t offset, std::uint64_t bytes) const {
  std::vector<std::byte> content(bytes);
  for (std::uint64_t i = 0; i < bytes; ++i) content[i] = pattern_at(offset + i);
  return content;
}

RankThread::RankThread(const std::string& endpoint, reference_rank::Fault fault, reference_rank::Options options)
    : rank_([&] {
        options.pretend_cuda = true;
        options.given_up = [this] { return given_up_.load(); };
        options.goes_on = [this] { return goes_on_.load(); };
        return std::move(options);
      }()),
      future_(std::async(std::launch::async,
                         [this, endpoint, fault = std::move(fault)] { return rank_.update(endpoint, fault); })) {}

RankThread::~RankThread() {
  given_up_ = true;
  if (outcome()) return;
  std::fputs("a rank's thread does not end: its ZeroMQ context still has a reply to deliver\n", stderr);
  std::_Exit(EXIT_FAILURE);
}

std::optional<reference_rank::Outcome> RankThread::outcome(std::chrono::seconds patience) {
  if (!outcome_ && future_.wait_for(patience) == std::future_status::ready) outcome_ = future_.get();
  return outcome_;
}

Result<> acknowledged(ranks::Session& session, std::chrono::milliseconds patience) {
  auto woken = session.wait({}, Deadline::in(patience));
  if (!woken) return std::unexpected(woken.error());
  if (*woken != ranks::Session::Woken::acknowledged)
    return fail(ErrorKind::internal, "woken by a waker without wakers");
  return {};
}

Result<> reload_two(ranks::Session& session, std::uint32_t number) {
  static constexpr std::array<std::uint64_t, 2> matrix{3, 5};
  const std::array tensors{
      ranks::TensorView{"model.norm.weight", weights::Dtype::bf16, matrix, 256},
      ranks::TensorView{"scalar", weights::Dtype::f32, {}, 1024},
  };
  return session.reload(tensors, number);
}

device::Export exported_by_gpu() { return device::CudaExport{.handle = {4, 7, 1, 1}, .bytes = 1 << 16}; }

Result<> walk(ranks::Session& session, const Memory& memory, Reached to) {
  return walk(session, memory.exported(), to);
}

Result<> walk(ranks::Session& session, const device::Export& memory, Reached to) {
  if (at_least(to, Reached::connected)) CKPTD_TRY(see_rank(session));
  if (at_least(to, Reached::offered)) CKPTD_TRY(session.offer(memory));
  if (at_least(to, Reached::ready)) CKPTD_TRY(acknowledged(session));
  if (at_least(to, Reached::reloading)) CKPTD_TRY(reload_two(session));
  if (at_least(to, Reached::reloaded)) CKPTD_TRY(acknowledged(session));
  if (at_least(to, Reached::releasing)) CKPTD_TRY(session.release());
  if (at_least(to, Reached::released)) CKPTD_TRY(acknowledged(session));
  if (at_least(to, Reached::finishing)) CKPTD_TRY(session.finish());
  if (at_least(to, Reached::finished)) CKPTD_TRY(acknowledged(session));
  return {};
}

bool mentions(const Error& error, std::string_view text) { return error.sentence.find(text) != std::string::npos; }

std::string fact(const Error& error, std::string_view name) {
  for (const auto& [known, value] : error.facts)
    if (known == name) return value;
  return {};
}

Error test_failure() { return {ErrorKind::cancelled, "the test gave up"}; }

}  // namespace ckptd::test
