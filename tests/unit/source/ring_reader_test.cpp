#include "daemon/source/ring_reader.h"

#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include <cstddef>
#include <cstdlib>
#include <map>
#include <thread>

#include "daemon/source/source.h"
#include "tests/support/checkpoint_files/folder.h"
#include "tests/support/checkpoint_files/layouts.h"
#include "tests/unit/source/expect.h"
#include "tests/unit/source/faulty_ring.h"

namespace ckptd::source {
namespace {

namespace fs = std::filesystem;
using tests::FaultyRing;
using tests::Folder;
using tests::write_file;

constexpr std::size_t kBlock = 4096;

unsigned seed_of_run() {
  const char* given = std::getenv("CKPTD_TEST_SEED");
  return given != nullptr ? static_cast<unsigned>(std::strtoul(given, nullptr, 10)) : std::random_device{}();
}

std::string random_text(std::mt19937& random, std::size_t bytes) {
  std::string text(bytes, '\0');
  for (auto& each : text) each = static_cast<char>(random());
  return text;
}

struct Memory {
  explicit Memory(std::size_t bytes) : bytes(bytes), at(static_cast<std::byte*>(std::aligned_alloc(kBlock, bytes))) {}
  ~Memory() { std::free(at); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  std::span<std::byte> span(std::size_t from, std::size_t count) const { return {at + from, count}; }
  std::string_view text(std::size_t from, std::size_t count) const {
    return {reinterpret_cast<const char*>(at) + from, count};
  }
  std::size_t bytes;
  std::byte* at;
};

/// The Done of each tag, once everything has ended.
std::map<std::uint64_t, Result<std::uint64_t>> all_of(Reader& reader, std::size_t count) {
  std::map<std::uint64_t, Result<std::uint64_t>> results;
  std::vector<Done> done;
  for (int i = 0; i < 100'000 && results.size() < count; ++i) {
    done.clear();
    reader.wait(Deadline::in(std::chrono::milliseconds(100)), done);
    for (auto& each : done)
      if (!results.emplace(each.tag, std::move(each.bytes)).second) FAIL("read " << each.tag << " ended twice");
  }
  return results;
}

/// A file on a disk that can be read directly, or nothing where the tests' directory has no such file system.
std::vector<OpenedFile> opened(const fs::path& path) {
  std::vector<OpenedFile> files;
  files.push_back(must(OpenedFile::open(path, Roots(), true)));
  return files;
}

/// Reads a file with a ring in blocks of random sizes and compares; answers what is wrong, or nothing.
std::string wrong_reads(std::span<const OpenedFile> files, std::unique_ptr<Ring> ring, std::string_view text,
                        std::mt19937& random) {
  constexpr unsigned kDepth = 4;
  RingReader reader(files, std::move(ring), kDepth);
  Memory memory((text.size() / kBlock + 8) * kBlock);
  for (std::size_t at = 0; at <= text.size();) {
    std::map<std::uint64_t, std::pair<std::size_t, std::size_t>> asked;
    for (unsigned i = 0; i < kDepth && at <= text.size(); ++i) {
      const auto bytes = std::min((1 + random() % 6) * kBlock, memory.bytes - at);
      asked[i] = {at, bytes};
      reader.submit({.file = 0, .offset = at, .into = memory.span(at, bytes), .tag = i});
      at += bytes;
    }
    auto results = all_of(reader, asked.size());
    for (const auto& [tag, range] : asked) {
      const auto& [offset, bytes] = range;
      const auto expected = offset < text.size() ? text.substr(offset, bytes) : std::string_view();
      if (!results.contains(tag)) return fmt::format("the read at {} never ended", offset);
      if (!results.at(tag)) return results.at(tag).error().sentence;
      if (*results.at(tag) != expected.size()) return fmt::format("{} bytes at {}", *results.at(tag), offset);
      if (memory.text(offset, expected.size()) != expected) return fmt::format("other bytes at {}", offset);
    }
  }
  return "";
}

TEST_CASE("whatever a ring does short of an error, every byte arrives once, in its place") {
  const auto seed = seed_of_run();
  std::mt19937 random(seed);
  Folder folder;
  for (int round = 0; round < 60; ++round) {
    INFO("CKPTD_TEST_SEED=" << seed << ", round " << round);
    // Around multiples of a block, where tails go wrong.
    const auto bytes = static_cast<std::size_t>(static_cast<long>(random() % 40 * kBlock) + static_cast<long>(random() % 5) - 2);
    const auto text = random_text(random, bytes > 1'000'000 ? 1 : bytes);
    write_file(folder / "file", text);
    const auto files = opened(folder / "file");
    FaultyRing::Faults faults{FaultyRing::none,        FaultyRing::cut_to_blocks, FaultyRing::cut_anywhere,
                              FaultyRing::interrupted, FaultyRing::again,         FaultyRing::nothing};
    if (round % 3 == 0) faults.push_back(FaultyRing::refused);
    CHECK(wrong_reads(files, std::make_unique<FaultyRing>(random(), faults), text, random) == "");
  }
}

TEST_CASE("a file system that refuses a direct read is read through the page cache from then on") {
  Folder folder;
  std::mt19937 random(1);
  const auto text = random_text(random, 10 * kBlock + 3);
  write_file(folder / "file", text);
  const auto files = opened(folder / "file");
  if (!files[0].is_direct()) return;
  CHECK(wrong_reads(files, std::make_unique<FaultyRing>(1, FaultyRing::Faults{FaultyRing::refused}), text, random) == "");
  CHECK_FALSE(files[0].is_direct());
}

TEST_CASE("an error of the disk names file and byte") {
  Folder folder;
  std::mt19937 random(1);
  write_file(folder / "file", random_text(random, 10 * kBlock));
  const auto files = opened(folder / "file");
  RingReader reader(files, std::make_unique<FaultyRing>(1, FaultyRing::Faults{FaultyRing::broken}), 2);
  Memory memory(kBlock);
  reader.submit({.file = 0, .offset = 3 * kBlock, .into = memory.span(0, kBlock), .tag = 7});
  check_error(all_of(reader, 1).at(7), ErrorKind::io, {"/file", "byte 12288"});
  reader.submit({.file = 9, .offset = 0, .into = memory.span(0, kBlock), .tag = 8});
  check_error(all_of(reader, 1).at(8), ErrorKind::internal, {"file 9"});
}

TEST_CASE("a file that became shorter is corrupt at the byte that is missing, through any ring") {
  for (bool real : {true, false}) {
    Folder folder;
    std::mt19937 random(1);
    const auto text = random_text(random, 10 * kBlock);
    write_file(folder / "file", text);
    const auto files = opened(folder / "file");
    fs::resize_file(folder / "file", kBlock + 10);
    auto ring = real ? make_kernel_ring(3) : Result<std::unique_ptr<Ring>>(std::make_unique<FaultyRing>(1, FaultyRing::Faults{FaultyRing::none}));
    if (!ring) continue;  // not allowed here: the sandbox test below says what happens then
    RingReader reader(files, *std::move(ring), 3);
    Memory memory(10 * kBlock);
    reader.submit({.file = 0, .offset = 0, .into = memory.span(0, kBlock), .tag = 0});
    reader.submit({.file = 0, .offset = kBlock, .into = memory.span(kBlock, 2 * kBlock), .tag = 1});
    reader.submit({.file = 0, .offset = 4 * kBlock, .into = memory.span(4 * kBlock, 2 * kBlock), .tag = 2});
    auto results = all_of(reader, 3);
    CHECK(must(results.at(0)) == kBlock);
    CHECK((memory.text(0, kBlock) == text.substr(0, kBlock)));
    check_error(results.at(1), ErrorKind::corrupt, {"/file", "byte 4106"});
    check_error(results.at(2), ErrorKind::corrupt, {"/file", "byte 16384"});
  }
}

TEST_CASE("cancelled reads still end, once each, and with no memory written afterwards") {
  const auto seed = seed_of_run();
  std::mt19937 random(seed);
  Folder folder;
  constexpr std::size_t kReads = 16, kReadBytes = 64 * kBlock;
  const auto text = random_text(random, kReads * kReadBytes);
  write_file(folder / "file", text);
  const auto files = opened(folder / "file");
  for (bool real : {true, false}) {
    INFO("CKPTD_TEST_SEED=" << seed);
    for (int round = 0; round < 6; ++round) {
      auto ring = real ? make_kernel_ring(kReads)
                       : Result<std::unique_ptr<Ring>>(std::make_unique<FaultyRing>(random(), FaultyRing::Faults{FaultyRing::none, FaultyRing::cut_to_blocks}));
      if (!ring) continue;
      Memory memory(kReads * kReadBytes);
      {
        RingReader reader(files, *std::move(ring), kReads);
        for (std::size_t i = 0; i < kReads; ++i)
          reader.submit({.file = 0, .offset = i * kReadBytes, .into = memory.span(i * kReadBytes, kReadBytes), .tag = i});
        if (round % 2 == 0) {
          reader.cancel();
          const auto results = all_of(reader, kReads);
          REQUIRE(results.size() == kReads);
          for (const auto& [tag, bytes] : results) {
            if (bytes) CHECK((memory.text(tag * kReadBytes, kReadBytes) == std::string_view(text).substr(tag * kReadBytes, kReadBytes)));
            else CHECK(bytes.error().kind == ErrorKind::cancelled);
          }
        }
      }  // odd rounds: the reader's end waits for them
      std::memset(memory.at, 0x11, memory.bytes);
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
      CHECK((memory.text(0, memory.bytes) == std::string(memory.bytes, 0x11)));
    }
  }
}

/// Makes io_uring_setup fail for the calling thread and what it starts, as container runtimes do.
bool forbid_io_uring(unsigned error_number) {
  ::sock_filter filter[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(::seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error_number),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  ::sock_fprog program{.len = 4, .filter = filter};
  return ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

TEST_CASE("where io_uring is forbidden or unwanted, files are read with pread") {
  Folder folder;
  tests::write_checkpoint(folder / "c", {{tests::random_tensor("t", "U8", {5 * kBlock})}}, false);
  const auto source = must(open((folder / "c").string(), {}));
  const bool can = make_kernel_ring(1).has_value() && must(OpenedFile::open(folder / "c/model.safetensors", Roots(), true)).is_direct();
  CHECK(source->make_reader({})->backend() == (can ? "io_uring" : "pread"));
  CHECK(source->make_reader({.io_uring = false})->backend() == "pread");
  for (unsigned error_number : {EPERM, ENOSYS}) {
    bool forbidden = false;
    Result<std::unique_ptr<Ring>> ring = fail(ErrorKind::internal, "");
    std::string backend;
    unsigned depth = 0;
    std::thread([&] {
      forbidden = forbid_io_uring(error_number);
      ring = make_kernel_ring(1);
      const auto reader = source->make_reader({});
      backend = reader->backend();
      depth = reader->depth();
    }).join();
    REQUIRE(forbidden);
    check_error(ring, ErrorKind::unsupported, {"io_uring_setup"});
    CHECK(backend == "pread");
    CHECK(depth == 1);
  }
}

}  // namespace
}  // namespace ckptd::source
