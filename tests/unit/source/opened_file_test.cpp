#include "daemon/source/opened_file.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <memory>

#include "tests/support/checkpoint_files/folder.h"
#include "tests/unit/source/expect.h"

namespace ckptd::source {
namespace {

namespace fs = std::filesystem;
using tests::Folder;
using tests::write_file;

constexpr std::size_t kBlock = 4096;

std::string text_of(std::size_t bytes) {
  std::string text(bytes, '\0');
  for (std::size_t i = 0; i < bytes; ++i) text[i] = static_cast<char>(i * 7 + i / 256);
  return text;
}

struct Free {
  void operator()(std::byte* memory) const { std::free(memory); }
};

/// Memory that starts on a block, as direct reads want it.
class Aligned {
 public:
  explicit Aligned(std::size_t bytes)
      : bytes_(bytes),
        memory_(static_cast<std::byte*>(std::aligned_alloc(kBlock, (bytes + kBlock) / kBlock * kBlock))) {}
  std::span<std::byte> span() const { return {memory_.get(), bytes_}; }
  std::string text(std::size_t bytes) const { return {reinterpret_cast<const char*>(memory_.get()), bytes}; }

 private:
  std::size_t bytes_;
  std::unique_ptr<std::byte, Free> memory_;
};

std::unexpected<Error> refusal(const fs::path& path) {
  auto file = OpenedFile::open(path, Roots(), true);
  if (file) return fail(ErrorKind::internal, "it was opened");
  return std::unexpected(file.error());
}

TEST_CASE("what is no regular file is refused at once") {
  Folder folder;
  REQUIRE(::mkfifo((folder / "pipe").c_str(), 0600) == 0);
  check_error(Result<>(refusal(folder / "pipe")), ErrorKind::invalid_argument, {"pipe", "regular"});
  fs::create_symlink("pipe", folder / "link");
  check_error(Result<>(refusal(folder / "link")), ErrorKind::invalid_argument, {"link", "regular"});
  fs::create_directory(folder / "directory");
  check_error(Result<>(refusal(folder / "directory")), ErrorKind::invalid_argument, {"directory", "regular"});
  check_error(Result<>(refusal("/dev/null")), ErrorKind::invalid_argument, {"/dev/null", "device"});
  check_error(Result<>(refusal(folder / "gone")), ErrorKind::not_found, {"gone"});
  fs::create_symlink("gone", folder / "dangling");
  check_error(Result<>(refusal(folder / "dangling")), ErrorKind::not_found, {"dangling", "link"});
}

TEST_CASE("a socket is refused") {
  Folder folder;
  UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM, 0));
  ::sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, (folder / "socket").c_str(), sizeof address.sun_path - 1);
  REQUIRE(::bind(socket.get(), reinterpret_cast<::sockaddr*>(&address), sizeof address) == 0);
  check_error(Result<>(refusal(folder / "socket")), ErrorKind::invalid_argument, {"socket", "regular"});
}

TEST_CASE("a file that this uid may not read is denied") {
  if (::geteuid() == 0) return;  // who may read everything cannot see this
  Folder folder;
  write_file(folder / "secret", "x");
  fs::permissions(folder / "secret", fs::perms::none);
  check_error(Result<>(refusal(folder / "secret")), ErrorKind::denied, {"secret"});
}

TEST_CASE("a link is judged by where it leads") {
  Folder folder;
  write_file(folder / "in/real", "x");
  write_file(folder / "out/real", "x");
  fs::create_symlink("../out/real", folder / "in/leaves");
  fs::create_symlink("../in/real", folder / "out/enters");
  const Roots roots({folder / "in"});
  CHECK(OpenedFile::open(folder / "in/real", roots, true));
  CHECK(OpenedFile::open(folder / "out/enters", roots, true));
  check_error(OpenedFile::open(folder / "in/leaves", roots, true), ErrorKind::denied, {"in/leaves"});
  check_error(OpenedFile::open(folder / "out/real", roots, true), ErrorKind::denied, {"out/real"});
}

TEST_CASE("direct and cached reads see the same bytes, on every file system there is") {
  for (const auto& parent : {fs::path("/tmp"), tests::memory_directory()}) {
    for (std::size_t bytes : std::initializer_list<std::size_t>{0, 1, 4095, 4096, 4097, 5 * kBlock, 5 * kBlock + 77}) {
      Folder folder(parent);
      const auto text = text_of(bytes);
      write_file(folder / "file", text);
      const auto direct = must(OpenedFile::open(folder / "file", Roots(), true));
      const auto cached = must(OpenedFile::open(folder / "file", Roots(), false));
      CHECK(direct.bytes() == bytes);
      CHECK(direct.stamp() == cached.stamp());
      for (std::size_t offset : std::initializer_list<std::size_t>{0, 1, 4096, 4 * kBlock, 5 * kBlock, 5 * kBlock + 76})
        for (std::size_t size : {std::size_t{0}, std::size_t{1}, kBlock, 2 * kBlock, 8 * kBlock, 8 * kBlock + 1}) {
          INFO(parent << " " << bytes << " bytes, " << size << " from " << offset);
          const auto expected = offset < bytes ? text.substr(offset, size) : "";
          for (const auto* file : {&direct, &cached}) {
            Aligned memory(size);
            if (file == &direct) tests::drop_from_page_cache(folder / "file");
            const auto got = must(file->read(offset, memory.span()));
            REQUIRE(got == expected.size());
            CHECK((memory.text(got) == expected));
          }
        }
    }
  }
}

TEST_CASE("a file that became shorter is corrupt at the byte that is missing") {
  for (bool direct : {true, false}) {
    Folder folder;
    write_file(folder / "file", text_of(4 * kBlock));
    const auto file = must(OpenedFile::open(folder / "file", Roots(), direct));
    fs::resize_file(folder / "file", kBlock + 10);
    if (direct) tests::drop_from_page_cache(folder / "file");
    Aligned memory(4 * kBlock);
    CHECK(must(file.read(0, memory.span().first(kBlock))) == kBlock);
    check_error(file.read(0, memory.span()), ErrorKind::corrupt, {"/file", "byte 4106"});
    check_error(file.read(kBlock, memory.span().first(kBlock)), ErrorKind::corrupt, {"/file", "byte 4106"});
    check_error(file.read(2 * kBlock, memory.span().first(kBlock)), ErrorKind::corrupt, {"/file", "byte 8192"});
    check_error(file.read(kBlock + 5, memory.span().first(20)), ErrorKind::corrupt, {"/file", "byte 4106"});
    check_error(file.check_unchanged(), ErrorKind::corrupt, {"/file", "byte 4106"});
  }
}

TEST_CASE("a file that grew is read as far as it went and reported at the end") {
  for (bool direct : {true, false}) {
    Folder folder;
    write_file(folder / "file", text_of(kBlock + 10));
    const auto file = must(OpenedFile::open(folder / "file", Roots(), direct));
    fs::resize_file(folder / "file", 3 * kBlock);
    if (direct) tests::drop_from_page_cache(folder / "file");
    Aligned memory(4 * kBlock);
    CHECK(must(file.read(0, memory.span())) == kBlock + 10);
    check_error(file.check_unchanged(), ErrorKind::corrupt, {"/file"});
  }
}

TEST_CASE("the stamp follows the bytes, and not mode or links") {
  Folder folder;
  write_file(folder / "file", "some bytes");
  const auto stamp = [&] { return must(OpenedFile::open(folder / "file", Roots(), false)).stamp(); };
  const auto first = stamp();
  fs::permissions(folder / "file", fs::perms::owner_all);
  fs::create_hard_link(folder / "file", folder / "link");
  CHECK(stamp() == first);
  tests::rewrite_in_place(folder / "file", "same bytes");
  const auto second = stamp();
  CHECK(second != first);
  fs::copy_file(folder / "file", folder / "other");
  fs::last_write_time(folder / "other", fs::last_write_time(folder / "file"));
  fs::rename(folder / "other", folder / "file");
  CHECK(stamp() != second);
}

TEST_CASE("a change that hides its time of modification is seen") {
  Folder folder;
  write_file(folder / "file", "some bytes");
  const auto modified = fs::last_write_time(folder / "file");
  const auto file = must(OpenedFile::open(folder / "file", Roots(), false));
  CHECK(file.check_unchanged());
  // The time of change counts in ticks: write until the clock has left the one in which the file was made.
  bool seen = false;
  for (int i = 0; i < 10'000 && !seen; ++i) {
    tests::rewrite_in_place(folder / "file", "same bytes");
    fs::last_write_time(folder / "file", modified);
    seen = !file.check_unchanged().has_value();
    ::usleep(1000);
  }
  CHECK(seen);
}

}  // namespace
}  // namespace ckptd::source
