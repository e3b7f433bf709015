#include "daemon/source/checkpoint_files.h"

#include <fstream>

#include "tests/support/checkpoint_files/folder.h"
#include "tests/support/checkpoint_files/layouts.h"
#include "tests/unit/source/expect.h"

namespace ckptd::source {
namespace {

namespace fs = std::filesystem;
using tests::Folder;
using tests::write_file;
using Names = std::vector<std::string>;

CheckpointFiles found(const fs::path& path) { return must(find_checkpoint_files(path, Roots())); }

std::string index_for(const Names& shards) {
  std::vector<std::pair<std::string, std::string>> weight_map;
  for (const auto& shard : shards) weight_map.emplace_back("tensor of " + shard, shard);
  return tests::index_text(weight_map);
}

TEST_CASE("one file is a checkpoint, whatever its name and its neighbours") {
  Folder folder;
  write_file(folder / "weights.bin", "x");
  write_file(folder / "model.safetensors", "x");
  const auto files = found(folder / "weights.bin");
  CHECK(files.names == Names{"weights.bin"});
  CHECK(files.directory == fs::canonical(folder.path()));
  CHECK_FALSE(files.index);
}

TEST_CASE("without an index every safetensors file of the directory belongs to it, in the order of names") {
  Folder folder;
  for (auto name : {"b.safetensors", "a.safetensors", "B.safetensors", "10.safetensors", "9.safetensors",
                    ".hidden.safetensors", "model.bin", "x.safetensors.lock", "safetensors", "README.md"})
    write_file(folder / name, "x");
  write_file(folder / "sub/c.safetensors", "x");
  write_file(folder / ".model.safetensors.index.json", "x");
  CHECK(found(folder.path()).names ==
        Names{"10.safetensors", "9.safetensors", "B.safetensors", "a.safetensors", "b.safetensors"});
}

TEST_CASE("an index decides which files belong to it") {
  Folder folder;
  for (auto name : {"consolidated.safetensors", "model-1.safetensors", "model-2.safetensors"})
    write_file(folder / name, "x");
  SECTION("with the usual name") {
    write_file(folder / "model.safetensors.index.json", index_for({"model-2.safetensors", "model-1.safetensors"}));
    const auto files = found(folder.path());
    CHECK(files.names == Names{"model-1.safetensors", "model-2.safetensors"});
    CHECK(files.index_name == "model.safetensors.index.json");
  }
  SECTION("with any name, if it is the only one") {
    write_file(folder / "adapter.safetensors.index.json", index_for({"model-2.safetensors"}));
    CHECK(found(folder.path()).names == Names{"model-2.safetensors"});
  }
  SECTION("the usual one wins") {
    write_file(folder / "model.safetensors.index.json", index_for({"model-1.safetensors"}));
    write_file(folder / "a.safetensors.index.json", index_for({"model-2.safetensors"}));
    CHECK(found(folder.path()).names == Names{"model-1.safetensors"});
  }
  SECTION("two unusual ones are a riddle") {
    write_file(folder / "a.safetensors.index.json", index_for({"model-1.safetensors"}));
    write_file(folder / "b.safetensors.index.json", index_for({"model-2.safetensors"}));
    check_error(find_checkpoint_files(folder.path(), Roots()), ErrorKind::invalid_argument,
                {"a.safetensors.index.json", "b.safetensors.index.json"});
  }
  SECTION("a broken one is not skipped") {
    write_file(folder / "model.safetensors.index.json", "{");
    check_error(find_checkpoint_files(folder.path(), Roots()), ErrorKind::corrupt, {"model.safetensors.index.json"});
  }
  SECTION("an empty one is not skipped") {
    write_file(folder / "model.safetensors.index.json", "");
    check_error(find_checkpoint_files(folder.path(), Roots()), ErrorKind::corrupt, {"model.safetensors.index.json"});
  }
  SECTION("one that is a directory is not skipped") {
    fs::create_directory(folder / "model.safetensors.index.json");
    check_error(find_checkpoint_files(folder.path(), Roots()), ErrorKind::invalid_argument,
                {"model.safetensors.index.json", "directory"});
  }
  SECTION("one that leads nowhere is not skipped") {
    fs::create_symlink("nowhere", folder / "model.safetensors.index.json");
    check_error(find_checkpoint_files(folder.path(), Roots()), ErrorKind::not_found, {"model.safetensors.index.json"});
  }
  SECTION("a huge one is not read") {
    write_file(folder / "model.safetensors.index.json", "{");
    fs::resize_file(folder / "model.safetensors.index.json", kIndexLimitBytes + 1);
    check_error(find_checkpoint_files(folder.path(), Roots()), ErrorKind::corrupt,
                {"model.safetensors.index.json", "100000001"});
  }
}

TEST_CASE("what is no checkpoint is named") {
  Folder folder;
  check_error(find_checkpoint_files(folder.path(), Roots()), ErrorKind::invalid_argument, {folder.path().string()});
  check_error(find_checkpoint_files(folder / "gone", Roots()), ErrorKind::not_found, {"gone"});
  check_error(find_checkpoint_files(folder / "gone/further", Roots()), ErrorKind::not_found, {"gone/further"});
  write_file(folder / "file", "x");
  check_error(find_checkpoint_files(folder / "file/model.safetensors", Roots()), ErrorKind::not_found, {"file"});
  check_error(find_checkpoint_files(folder / "file/", Roots()), ErrorKind::not_found, {"file"});
  fs::create_symlink("loop", folder / "loop");
  check_error(find_checkpoint_files(folder / "loop", Roots()), ErrorKind::io, {"loop"});
  write_file(folder / "odd/\xff.safetensors", "x");
  check_error(find_checkpoint_files(folder / "odd", Roots()), ErrorKind::invalid_argument,
              {"\\xff.safetensors", "UTF-8"});
}

TEST_CASE("too many files are refused before one is opened") {
  Folder folder(tests::memory_directory());
  for (std::size_t i = 0; i <= kFilesLimit; ++i) std::ofstream(folder / fmt::format("{}.safetensors", i));
  check_error(find_checkpoint_files(folder.path(), Roots()), ErrorKind::unsupported, {folder.path().string(), "4096"});
  Names shards;
  for (std::size_t i = 0; i <= kFilesLimit; ++i) shards.push_back(fmt::format("{}.safetensors", i));
  Folder indexed;
  write_file(indexed / "model.safetensors.index.json", index_for(shards));
  check_error(find_checkpoint_files(indexed.path(), Roots()), ErrorKind::unsupported,
              {indexed.path().string(), "4096"});
}

TEST_CASE("outside the roots nothing is told, not even whether it exists") {
  Folder folder;
  write_file(folder / "in/model.safetensors", "x");
  write_file(folder / "out/model.safetensors", "x");
  fs::create_directory_symlink(folder / "out", folder / "in/link");
  const Roots roots({folder / "in"});
  CHECK(find_checkpoint_files(folder / "in", roots));
  CHECK(find_checkpoint_files(folder / "out/../in/model.safetensors", roots));
  check_error(find_checkpoint_files(folder / "in/gone", roots), ErrorKind::not_found, {"in/gone"});
  for (auto path : {"out", "out/model.safetensors", "out/gone", "in/../out", "in/link", "in/link/model.safetensors",
                    "in/link/../gone"}) {
    INFO(path);
    check_error(find_checkpoint_files(folder / path, roots), ErrorKind::denied, {path});
  }
}

TEST_CASE("an index that leads out of the roots is not read") {
  Folder folder;
  write_file(folder / "out/index.json", index_for({"secret-name.safetensors"}));
  fs::create_directories(folder / "in");
  fs::create_symlink("../out/index.json", folder / "in/model.safetensors.index.json");
  auto refused = find_checkpoint_files(folder / "in", Roots({folder / "in"}));
  check_error(refused, ErrorKind::denied, {"model.safetensors.index.json"});
  CHECK(refused.error().sentence.find("secret") == std::string::npos);
}

}  // namespace
}  // namespace ckptd::source
