#include "daemon/journal/journal.h"

#include <csignal>
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <fstream>
#include <random>
#include <sstream>
#include <stdexcept>
#include <thread>

#include "samples.h"

namespace ckptd::journal {
namespace {

namespace fs = std::filesystem;

/// A directory under /tmp that is gone at the end.
class Folder {
 public:
  Folder() {
    char name[] = "/tmp/ckptd-journal-XXXXXX";
    REQUIRE(::mkdtemp(name) != nullptr);
    path_ = name;
  }
  Folder(const Folder&) = delete;
  ~Folder() { fs::remove_all(path_); }
  operator const fs::path&() const { return path_; }
  fs::path operator/(const char* name) const { return path_ / name; }

 private:
  fs::path path_;
};

std::string content_of(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream content;
  content << file.rdbuf();
  return content.str();
}

void put(const fs::path& path, std::string_view text) { std::ofstream(path, std::ios::binary) << text; }

bool contains(const std::string& text, std::string_view part) { return text.find(part) != std::string::npos; }

auto set_to(const Contents& contents) {
  return [&contents](Contents& current) { current = contents; };
}

Contents with_one_engine(std::string name, std::string poisoned = {}) {
  return {.engines = {{.name = std::move(name), .kind = "sglang", .poisoned = std::move(poisoned)}}};
}

/// Runs `body` in a child, which reports the value that it returns as its exit status.
template <class Body>
pid_t in_child(Body body) {
  auto pid = ::fork();
  REQUIRE(pid >= 0);
  if (pid == 0) ::_exit(body());
  return pid;
}

int status_of(pid_t pid) {
  int status = 0;
  REQUIRE(::waitpid(pid, &status, 0) == pid);
  return status;
}

/// A child that holds the directory until it is killed.
class Holder {
 public:
  explicit Holder(const fs::path& directory) {
    int pipe[2];
    REQUIRE(::pipe(pipe) == 0);
    pid_ = in_child([&] {
      auto journal = Journal::open(directory);
      char answer = journal ? 'y' : 'n';
      if (::write(pipe[1], &answer, 1) != 1) return 1;
      for (;;) ::pause();
    });
    char answer = 0;
    auto got = ::read(pipe[0], &answer, 1);
    ::close(pipe[0]), ::close(pipe[1]);
    REQUIRE(got == 1);
    REQUIRE(answer == 'y');
  }
  Holder(const Holder&) = delete;
  ~Holder() { kill(); }

  pid_t pid() const { return pid_; }
  void kill() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
    pid_ = -1;
  }

 private:
  pid_t pid_ = -1;
};

TEST_CASE("what is written is there at the next start") {
  Folder folder;
  {
    auto journal = Journal::open(folder);
    REQUIRE(journal);
    CHECK((*journal)->contents() == Contents{});
    CHECK_FALSE(fs::exists(folder / "state.json"));
    REQUIRE((*journal)->change(set_to(full_contents())));
    CHECK((*journal)->contents() == full_contents());
  }
  auto journal = Journal::open(folder);
  REQUIRE(journal);
  CHECK((*journal)->contents() == full_contents());
  REQUIRE((*journal)->change([](Contents& contents) { contents.engines.pop_back(); }));
  CHECK((*journal)->contents().engines.size() == 1);
  CHECK_FALSE(fs::exists(folder / "state.json.new"));
}

TEST_CASE("a missing directory is made for us alone") {
  Folder folder;
  auto old = ::umask(022);
  auto journal = Journal::open(folder / "var" / "lib" / "ckptd/");
  ::umask(old);
  REQUIRE(journal);
  struct stat info {};
  REQUIRE(::stat((folder / "var" / "lib" / "ckptd").c_str(), &info) == 0);
  CHECK((info.st_mode & 07777) == 0750);
  REQUIRE((*journal)->change(set_to(full_contents())));
  REQUIRE(::stat((folder / "var" / "lib" / "ckptd" / "state.json").c_str(), &info) == 0);
  CHECK((info.st_mode & 0007) == 0);
}

TEST_CASE("what is in the way of the directory is named") {
  Folder folder;
  put(folder / "file", "");
  for (auto path : {folder / "file", folder / "file" / "below"}) {
    auto journal = Journal::open(path);
    REQUIRE_FALSE(journal);
    CHECK(contains(journal.error().sentence, "file"));
  }
  CHECK_FALSE(Journal::open(""));
}

TEST_CASE("one process holds a directory, and the refusal names it") {
  Folder folder;
  Holder holder(folder);
  auto second = Journal::open(folder);
  REQUIRE_FALSE(second);
  CHECK(second.error().kind == ErrorKind::unavailable);
  CHECK(contains(second.error().sentence, fmt::format("pid {}", holder.pid())));
  CHECK(contains(second.error().sentence, fs::path(folder).string()));
  holder.kill();
  auto after = Journal::open(folder);
  REQUIRE(after);
  CHECK(contains(content_of(folder / "lock"), std::to_string(::getpid())));
  CHECK_FALSE(Journal::open(folder));
  after->reset();
  CHECK(Journal::open(folder));
}

TEST_CASE("a lock file with anything in it is no lock") {
  Folder folder;
  put(folder / "lock", "this was never a pid, and it is long enough to fill the buffer");
  auto journal = Journal::open(folder);
  REQUIRE(journal);
  CHECK(content_of(folder / "lock") == fmt::format("{}\n", ::getpid()));
}

TEST_CASE("a change that cannot be written leaves all as it was") {
  Folder folder;
  auto journal = Journal::open(folder);
  REQUIRE(journal);
  REQUIRE((*journal)->change(set_to(full_contents())));
  const auto before = content_of(folder / "state.json");
  fs::create_directory(folder / "state.json.new");

  auto refused = (*journal)->change(set_to(Contents{}));
  REQUIRE_FALSE(refused);
  CHECK(contains(refused.error().sentence, "state.json.new"));
  CHECK((*journal)->contents() == full_contents());
  CHECK(content_of(folder / "state.json") == before);

  fs::remove(folder / "state.json.new");
  REQUIRE((*journal)->change(set_to(Contents{})));
  CHECK((*journal)->contents() == Contents{});
}

TEST_CASE("what has happened holds although it cannot be written, and is written with the next change") {
  Folder folder;
  {
    auto journal = Journal::open(folder);
    REQUIRE(journal);
    REQUIRE((*journal)->change(set_to(full_contents())));
    auto told = 0;
    const auto listener = (*journal)->on_change([&] { ++told; });
    fs::create_directory(folder / "state.json.new");
    auto unwritten = (*journal)->note([](Contents& contents) { contents.engines.front().poisoned = "half of it"; });
    REQUIRE_FALSE(unwritten);
    CHECK(contains(unwritten.error().sentence, "state.json.new"));
    CHECK((*journal)->contents().engines.front().poisoned == "half of it");
    CHECK(told == 1);
    CHECK_FALSE((*journal)->note([](Contents&) { throw std::runtime_error("no"); }));
    CHECK(told == 1);
    fs::remove(folder / "state.json.new");
    REQUIRE((*journal)->change([](Contents& contents) { contents.drained = true; }));
  }
  auto again = Journal::open(folder);
  REQUIRE(again);
  CHECK((*again)->contents().engines.front().poisoned == "half of it");
  CHECK((*again)->contents().drained);
}

TEST_CASE("a disk that fills up in the middle of a write costs nothing but the change") {
  Folder folder;
  {
    auto journal = Journal::open(folder);
    REQUIRE(journal);
    REQUIRE((*journal)->change(set_to(full_contents())));
  }
  auto status = status_of(in_child([&] {
    auto journal = Journal::open(folder);
    if (!journal) return 1;
    ::signal(SIGXFSZ, SIG_IGN);
    struct rlimit limit {64, 64};
    if (::setrlimit(RLIMIT_FSIZE, &limit) != 0) return 2;
    if ((*journal)->change(set_to(with_one_engine("other")))) return 3;
    return (*journal)->contents() == full_contents() ? 0 : 4;
  }));
  CHECK(status == 0);
  CHECK(fs::exists(folder / "state.json.new"));  // half of it, as after a crash
  auto journal = Journal::open(folder);
  REQUIRE(journal);
  CHECK((*journal)->contents() == full_contents());
  REQUIRE((*journal)->change(set_to(with_one_engine("other"))));
  CHECK((*journal)->contents() == with_one_engine("other"));
}

TEST_CASE("a process that is killed at any moment leaves the old or the new state") {
  const auto seed = std::random_device{}();
  INFO("seed " << seed);
  std::mt19937 random(seed);
  Folder folder;
  const auto one = with_one_engine("one", std::string(60'000, '1'));
  const auto two = with_one_engine("two", std::string(200'000, '2'));
  for (int round = 0; round < 15; ++round) {
    auto pid = in_child([&] {
      auto journal = Journal::open(folder);
      if (!journal) return 1;
      for (;;)
        if (!(*journal)->change(set_to(one)) || !(*journal)->change(set_to(two))) return 2;
    });
    ::usleep(std::uniform_int_distribution<useconds_t>(0, 30'000)(random));
    ::kill(pid, SIGKILL);
    auto status = status_of(pid);
    REQUIRE(WIFSIGNALED(status));
    auto journal = Journal::open(folder);
    REQUIRE(journal);
    const auto found = (*journal)->contents();
    CHECK((found == Contents{} || found == one || found == two));
  }
}

TEST_CASE("a file of format 1 is read, and becomes format 2 at its first change") {
  Folder folder;
  put(folder / "state.json", kFormat1);
  {
    auto journal = Journal::open(folder);
    REQUIRE(journal);
    CHECK((*journal)->contents() == contents_of_format_1());
    CHECK(content_of(folder / "state.json") == kFormat1);  // reading alone leaves an older ckptd its way back
    REQUIRE((*journal)->change([](Contents& contents) { contents.engines[0].label = "2"; }));
  }
  CHECK(contains(content_of(folder / "state.json"), "\"format\": 2"));
  auto journal = Journal::open(folder);
  REQUIRE(journal);
  auto expected = contents_of_format_1();
  expected.engines[0].label = "2";
  CHECK((*journal)->contents() == expected);
}

TEST_CASE("a damaged file is named with its byte and left alone") {
  Folder folder;
  const std::string damaged = R"({"format":1,"engines":[],"updates":[}")";
  put(folder / "state.json", damaged);
  auto journal = Journal::open(folder);
  REQUIRE_FALSE(journal);
  CHECK(journal.error().kind == ErrorKind::corrupt);
  CHECK(contains(journal.error().sentence, (folder / "state.json").string()));
  CHECK(contains(journal.error().sentence, "byte 37"));
  CHECK(content_of(folder / "state.json") == damaged);

  put(folder / "state.json", R"({"format":3})");
  auto newer = Journal::open(folder);
  REQUIRE_FALSE(newer);
  CHECK(newer.error().kind == ErrorKind::unsupported);
  CHECK(contains(newer.error().sentence, (folder / "state.json").string()));

  put(folder / "state.json", "");
  CHECK(Journal::open(folder).error().kind == ErrorKind::corrupt);

  fs::remove(folder / "state.json");
  fs::create_directory(folder / "state.json");
  CHECK(contains(Journal::open(folder).error().sentence, "state.json"));
}

TEST_CASE("what a damaged file holds cannot drive the terminal that its refusal is shown on") {
  for (const auto* text : {
           R"({"format":1,"engines":[],"updates":[],"in_custody":[],"\u001b[31m":1})",
           R"({"format":1,"\u001b":1,"\u001b":2})",
           R"({"format":1,"engines":[],"in_custody":[],"updates":[
               {"job":"j","engine":"e","version":"v","phase":"\u0007","sessions":[]}]})",
           R"({"format":1,"updates":[],"in_custody":[],"engines":[
               {"name":"\u001b","kind":"k","endpoint":"","checkpoint":"","devices":[],"poisoned":""},
               {"name":"\u001b","kind":"k","endpoint":"","checkpoint":"","devices":[],"poisoned":""}]})"}) {
    INFO(text);
    Folder folder;
    put(folder / "state.json", text);
    const auto journal = Journal::open(folder);
    REQUIRE_FALSE(journal);
    CHECK(journal.error().kind == ErrorKind::corrupt);
    CHECK(contains(journal.error().sentence, "\\x"));
    CHECK(std::ranges::none_of(journal.error().sentence, [](unsigned char c) { return c < 0x20; }));
  }
}

TEST_CASE("a change that makes no sense is refused before it is written") {
  Folder folder;
  auto journal = Journal::open(folder);
  REQUIRE(journal);
  REQUIRE((*journal)->change(set_to(full_contents())));
  auto twice = (*journal)->change([](Contents& contents) { contents.engines.push_back(contents.engines[0]); });
  REQUIRE_FALSE(twice);
  CHECK(twice.error().kind == ErrorKind::internal);
  CHECK(contains(twice.error().sentence, "sglang-0"));
  auto thrown = (*journal)->change([](Contents& contents) {
    contents.engines.clear();
    throw std::runtime_error("changed my mind");
  });
  REQUIRE_FALSE(thrown);
  CHECK(contains(thrown.error().sentence, "changed my mind"));
  auto huge = (*journal)->change(set_to(with_one_engine("big", std::string(17 << 20, 'x'))));
  REQUIRE_FALSE(huge);
  CHECK(huge.error().kind == ErrorKind::no_space);
  CHECK((*journal)->contents() == full_contents());
  journal->reset();
  CHECK((*Journal::open(folder))->contents() == full_contents());
}

TEST_CASE("changes of many threads all count, and readers see whole states") {
  Folder folder;
  auto journal = Journal::open(folder);
  REQUIRE(journal);
  constexpr int kThreads = 4, kChanges = 25;
  std::atomic<int> failures = 0, torn = 0;
  std::atomic<bool> done = false;
  std::thread reader([&] {
    while (!done) {
      auto contents = (*journal)->contents();
      if (contents.in_custody.size() != contents.updates.size()) ++torn;
    }
  });
  std::vector<std::thread> writers;
  for (int t = 0; t < kThreads; ++t)
    writers.emplace_back([&, t] {
      for (int i = 0; i < kChanges; ++i) {
        auto changed = (*journal)->change([&](Contents& contents) {
          if (contents != (*journal)->contents()) ++torn;
          contents.updates.push_back({.job = fmt::format("update-{}-{}", t, i)});
          contents.in_custody.push_back({"ipc://x", "HOST-0"});
        });
        if (!changed) ++failures;
      }
    });
  for (auto& writer : writers) writer.join();
  done = true;
  reader.join();
  CHECK(failures == 0);
  CHECK(torn == 0);
  CHECK((*journal)->contents().updates.size() == kThreads * kChanges);
  journal->reset();
  CHECK((*Journal::open(folder))->contents().updates.size() == kThreads * kChanges);
}

}  // namespace
}  // namespace ckptd::journal
