// open() as a whole: which checkpoints it takes, and whom it blames for the others.
#include "daemon/source/source.h"

#include <sys/resource.h>
#include <sys/stat.h>

#include <fstream>

#include "tests/support/checkpoint_files/folder.h"
#include "tests/support/checkpoint_files/layouts.h"
#include "tests/unit/source/expect.h"

namespace ckptd::source {
namespace {

namespace fs = std::filesystem;
using tests::Folder;
using tests::random_tensor;
using tests::Shards;
using tests::write_file;

const Shards kShards = {{random_tensor("b", "F32", {3}), random_tensor("a", "BF16", {2, 2})},
                        {random_tensor("d", "U8", {0, 4}), random_tensor("c", "I64", {})}};

const char* const kFirst = "model-00001-of-00002.safetensors";
const char* const kSecond = "model-00002-of-00002.safetensors";
const char* const kIndex = "model.safetensors.index.json";

Result<std::unique_ptr<Source>> open_at(const fs::path& path, const std::vector<fs::path>& roots = {}) {
  return open(path.native(), {.roots = roots});
}

std::vector<std::string> names_of(const Source& source) {
  std::vector<std::string> names;
  for (const auto& tensor : source.manifest().tensors)
    names.push_back(fmt::format("{} {}", tensor.extent.file, tensor.name));
  return names;
}

TEST_CASE("tensors stand in the order of file, offset and name") {
  Folder folder;
  tests::write_checkpoint(folder / "m", kShards, true);
  const auto source = must(open("file://" + (folder / "m").string(), {}));
  CHECK(names_of(*source) == std::vector<std::string>{"0 b", "0 a", "1 c", "1 d"});
  const auto& files = source->manifest().files;
  REQUIRE(files.size() == 2);
  CHECK(files[0].path == fs::canonical(folder / "m") / kFirst);
  CHECK(files[1].path == fs::canonical(folder / "m") / kSecond);
  for (const auto& file : files) {
    CHECK(file.bytes == fs::file_size(file.path));
    CHECK(file.data_begin % 8 == 0);
    CHECK_FALSE(file.stamp.empty());
  }
}

TEST_CASE("every spelling of a directory has the same stamp") {
  Folder folder;
  tests::write_checkpoint(folder / "m", kShards, true);
  fs::create_directory_symlink("m", folder / "latest");
  const auto stamp = weights::source_stamp_of(must(open_at(folder / "m"))->manifest());
  for (auto spelling : {"m/", "m//", "m/.", "./m", "m/../m", "latest"})
    CHECK(weights::source_stamp_of(must(open_at(folder / spelling))->manifest()) == stamp);
}

TEST_CASE("a shard without tensors is fine, a checkpoint without is not") {
  Folder folder;
  write_file(folder / "a.safetensors", tests::safetensors_file({}));
  check_error(open_at(folder.path()), ErrorKind::invalid_argument, {folder.path().string(), "no tensor"});
  check_error(open_at(folder / "a.safetensors"), ErrorKind::invalid_argument, {"a.safetensors", "no tensor"});
  write_file(folder / "b.safetensors", tests::safetensors_file({random_tensor("t", "U8", {5})}));
  const auto source = must(open_at(folder.path()));
  CHECK(names_of(*source) == std::vector<std::string>{"1 t"});
  CHECK(source->manifest().files[0].data_begin == source->manifest().files[0].bytes);
}

TEST_CASE("files that are too short for a header are named") {
  for (std::size_t bytes : {0, 1, 7, 8, 9}) {
    INFO(bytes);
    Folder folder;
    tests::write_checkpoint(folder.path(), kShards, false);
    write_file(folder / kSecond, std::string("\x10\0\0\0\0\0\0\0{", 9).substr(0, bytes));
    check_error(open_at(folder.path()), ErrorKind::corrupt, {kSecond});
  }
}

TEST_CASE("an error in a header names the file, the tensor and the byte") {
  Folder folder;
  tests::write_checkpoint(folder.path(), kShards, false);
  write_file(folder / kSecond,
             tests::file_with_header(R"({"t":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}})", "data"));
  check_error(open_at(folder.path()), ErrorKind::corrupt, {kSecond, "tensor t", "bytes 64 to 65"});
}

TEST_CASE("something else in place of a shard is named and not waited for") {
  for (bool with_index : {true, false}) {
    Folder folder;
    tests::write_checkpoint(folder.path(), kShards, with_index);
    fs::remove(folder / kSecond);
    SECTION("pipe") {
      REQUIRE(::mkfifo((folder / kSecond).c_str(), 0600) == 0);
      check_error(open_at(folder.path()), ErrorKind::invalid_argument, {kSecond, "pipe"});
    }
    SECTION("directory") {
      fs::create_directory(folder / kSecond);
      check_error(open_at(folder.path()), ErrorKind::invalid_argument, {kSecond, "directory"});
    }
    SECTION("device") {
      fs::create_symlink("/dev/zero", folder / kSecond);
      check_error(open_at(folder.path()), ErrorKind::invalid_argument, {kSecond, "device"});
    }
    SECTION("link to nothing") {
      fs::create_symlink("nothing", folder / kSecond);
      check_error(open_at(folder.path()), ErrorKind::not_found, {kSecond});
    }
  }
}

TEST_CASE("a pipe as the checkpoint itself") {
  Folder folder;
  REQUIRE(::mkfifo((folder / "model.safetensors").c_str(), 0600) == 0);
  check_error(open_at(folder / "model.safetensors"), ErrorKind::invalid_argument, {"model.safetensors", "pipe"});
}

TEST_CASE("a shard that is missing is named with the index that wants it") {
  Folder folder;
  tests::write_checkpoint(folder.path(), kShards, true);
  fs::remove(folder / kSecond);
  check_error(open_at(folder.path()), ErrorKind::not_found, {kSecond, kIndex});
}

TEST_CASE("an index that does not agree with its shards is named with the tensor") {
  Folder folder;
  tests::write_checkpoint(folder.path(), kShards, true);
  write_file(folder / kIndex, tests::index_text({{"a", kFirst}, {"b", kFirst}, {"c", kSecond}}));
  check_error(open_at(folder.path()), ErrorKind::corrupt, {kIndex, "tensor d", kSecond});
  write_file(folder / kIndex, tests::index_text({{"a", kFirst}, {"b", kSecond}, {"c", kSecond}, {"d", kSecond}}));
  check_error(open_at(folder.path()), ErrorKind::corrupt, {kIndex, "tensor b", kFirst, kSecond});
}

TEST_CASE("a tensor that two shards define is named with both") {
  for (bool with_index : {true, false}) {
    Folder folder;
    tests::write_checkpoint(folder.path(), kShards, with_index);
    write_file(folder / kSecond,
               tests::safetensors_file({random_tensor("c", "U8", {1}), random_tensor("a", "U8", {1}),
                                        random_tensor("d", "U8", {1})}));
    check_error(open_at(folder.path()), ErrorKind::corrupt, {"tensor a", kFirst, kSecond});
  }
}

TEST_CASE("a hub snapshot is read through its links, if its repository lies below a root") {
  Folder folder;
  const auto snapshot = tests::write_hub_cache(folder / "hub", "0123abc", tests::files_of(kShards, true));
  const auto repository = folder / "hub/models--org--name";
  for (const auto& roots : std::vector<std::vector<fs::path>>{{}, {folder.path()}, {folder / "hub"}, {repository}}) {
    const auto source = must(open_at(snapshot, roots));
    CHECK(names_of(*source) == std::vector<std::string>{"0 b", "0 a", "1 c", "1 d"});
    CHECK(fs::path(source->manifest().files[1].path).filename() == kSecond);
  }
  CHECK(open_at(snapshot / kFirst, {repository}));
  check_error(open_at(snapshot, {repository / "snapshots"}), ErrorKind::denied, {kIndex});
  check_error(open_at(snapshot / kFirst, {repository / "snapshots"}), ErrorKind::denied, {kFirst});
  check_error(open_at(snapshot, {folder / "elsewhere"}), ErrorKind::denied, {snapshot.string()});
  CHECK(open_at(snapshot, {repository / "snapshots", repository / "blobs"}));
}

TEST_CASE("a shard that leads out of the roots is denied, with and without an index") {
  for (bool with_index : {true, false}) {
    Folder folder;
    tests::write_checkpoint(folder / "in", kShards, with_index);
    fs::rename(folder / "in" / kSecond, folder / "out.safetensors");
    fs::create_symlink("../out.safetensors", folder / "in" / kSecond);
    CHECK(open_at(folder / "in"));
    check_error(open_at(folder / "in", {folder / "in"}), ErrorKind::denied, {kSecond});
  }
}

TEST_CASE("headers that would fill the memory are refused") {
  // One file with a header of 99 MB, by three names.
  Folder folder(tests::memory_directory());
  write_file(folder / "padded", tests::file_with_header("{" + std::string(99'000'000, ' ') + "}"));
  for (int i = 0; i < 3; ++i) fs::create_symlink("padded", folder / fmt::format("{}.safetensors", i));
  check_error(open_at(folder.path()), ErrorKind::unsupported, {"2.safetensors", "headers"});
}

TEST_CASE("when descriptors run out the sentence says so") {
  Folder folder;
  Shards shards;
  for (int i = 0; i < 100; ++i) shards.push_back({random_tensor(fmt::format("t{}", i), "U8", {1})});
  tests::write_checkpoint(folder.path(), shards, false);
  ::rlimit before{};
  REQUIRE(::getrlimit(RLIMIT_NOFILE, &before) == 0);
  ::rlimit few = before;
  few.rlim_cur = 64;
  REQUIRE(::setrlimit(RLIMIT_NOFILE, &few) == 0);
  const auto refused = open_at(folder.path());
  REQUIRE(::setrlimit(RLIMIT_NOFILE, &before) == 0);
  check_error(refused, ErrorKind::no_space, {"of-00100.safetensors", "LimitNOFILE"});
  CHECK(open_at(folder.path()));
}

TEST_CASE("a file that the manifest does not have is our own bug") {
  Folder folder;
  tests::write_checkpoint(folder.path(), kShards, true);
  std::byte memory[8];
  check_error(must(open_at(folder.path()))->read(2, 0, memory), ErrorKind::internal, {"file 2"});
}

}  // namespace
}  // namespace ckptd::source
