// What every source promises, stated once. A test program includes this and calls each function in a TEST_CASE of its
// own for each Backend (see tests/contract/source/backends.h).
//
// A Backend owns one checkpoint of at least two files' worth of tensors, one of them larger than a few blocks, with:
//   Result<std::unique_ptr<source::Source>> open();
//   const std::vector<TestTensor>& tensors();            what is in it, in any order
//   std::string content(const weights::File&);           the whole file, as the source must deliver it
//   void truncate(const weights::File&, std::uint64_t bytes);
//   void rewrite(const weights::File&);                  in place: same size, other bytes
//   void replace(const weights::File&);                  by another file of the same size and bytes, renamed over it
#pragma once

#include <algorithm>
#include <atomic>
#include <catch2/catch.hpp>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "daemon/source/reader.h"
#include "daemon/source/source.h"
#include "daemon/weights/layout.h"
#include "tests/support/checkpoint_files/safetensors.h"

namespace ckptd::tests {

constexpr std::uint64_t kBlock = weights::kBlockBytes;

template <class T>
T must(Result<T> result) {
  if (!result) FAIL(result.error().sentence);
  if constexpr (!std::is_void_v<T>) return std::move(*result);
}

/// Memory that starts on a block, with a guard behind it that no read may touch.
class ReadBuffer {
 public:
  explicit ReadBuffer(std::size_t bytes)
      : bytes_(bytes),
        memory_(static_cast<char*>(std::aligned_alloc(kBlock, (bytes / kBlock + 2) * kBlock)), &std::free) {
    std::memset(memory_.get(), kGuard, bytes_ + kGuardBytes);
  }
  std::span<std::byte> from(std::size_t offset, std::size_t bytes) const {
    return {reinterpret_cast<std::byte*>(memory_.get()) + offset, bytes};
  }
  std::string_view text(std::size_t offset, std::size_t bytes) const { return {memory_.get() + offset, bytes}; }
  bool guard_holds() const {
    return text(bytes_, kGuardBytes) == std::string(kGuardBytes, kGuard);
  }

 private:
  static constexpr char kGuard = 0x5a;
  static constexpr std::size_t kGuardBytes = 64;

  std::size_t bytes_;
  std::unique_ptr<char, decltype(&std::free)> memory_;
};

/// One read, compared with what the file has there. Answers what is wrong, or nothing.
inline std::string wrong_read(const source::Source& source, std::uint32_t file, const std::string& content,
                              std::uint64_t offset, std::size_t bytes, std::size_t misplaced) {
  const auto where =
      fmt::format("file {}: {} bytes from {} to an address of {} mod 4096", file, bytes, offset, misplaced);
  const ReadBuffer buffer(misplaced + bytes);
  const auto got = source.read(file, offset, buffer.from(misplaced, bytes));
  if (!got) return where + ": " + got.error().sentence;
  const auto expected = offset < content.size() ? std::string_view(content).substr(offset, bytes) : std::string_view();
  if (*got != expected.size()) return fmt::format("{}: {} bytes came, expected {}", where, *got, expected.size());
  if (buffer.text(misplaced, expected.size()) != expected) return where + ": other bytes";
  if (!buffer.guard_holds()) return where + ": bytes behind the memory were written";
  return "";
}

template <class Backend>
void manifest_contract() {
  Backend backend;
  const auto source = must(backend.open());
  const auto& manifest = source->manifest();
  std::map<std::string, TestTensor> expected;
  for (const auto& tensor : backend.tensors()) expected[tensor.name] = tensor;
  REQUIRE(manifest.tensors.size() == expected.size());
  CHECK(std::ranges::is_sorted(manifest.tensors, {}, [](const weights::Tensor& tensor) {
    return std::tuple(tensor.extent.file, tensor.extent.offset, tensor.name);
  }));
  for (const auto& tensor : manifest.tensors) {
    INFO(tensor.name);
    REQUIRE(expected.contains(tensor.name));
    const auto& wanted = expected[tensor.name];
    CHECK(weights::safetensors_name(tensor.dtype) == wanted.dtype);
    CHECK(tensor.shape == wanted.shape);
    REQUIRE(tensor.extent.bytes == wanted.bytes.size());
    REQUIRE(tensor.extent.file < manifest.files.size());
    CHECK(tensor.extent.offset >= manifest.files[tensor.extent.file].data_begin);
    CHECK(tensor.extent.offset + tensor.extent.bytes <= manifest.files[tensor.extent.file].bytes);
    CHECK(wrong_read(*source, tensor.extent.file, backend.content(manifest.files[tensor.extent.file]),
                     tensor.extent.offset, tensor.extent.bytes, 0) == "");
    const ReadBuffer buffer(tensor.extent.bytes);
    must(source->read(tensor.extent.file, tensor.extent.offset, buffer.from(0, tensor.extent.bytes)));
    CHECK((buffer.text(0, tensor.extent.bytes) == wanted.bytes));
  }
  for (const auto& file : manifest.files) {
    CHECK(file.bytes == backend.content(file).size());
    CHECK(file.data_begin <= file.bytes);
    CHECK_FALSE(file.stamp.empty());
  }
  CHECK(source->check_unchanged());
}

template <class Backend>
void read_contract() {
  Backend backend;
  const auto source = must(backend.open());
  const auto& files = source->manifest().files;
  for (std::uint32_t file = 0; file < files.size(); ++file) {
    const auto content = backend.content(files[file]);
    const std::uint64_t end = content.size(), last_block = end / kBlock * kBlock;
    for (std::uint64_t offset : {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{512}, kBlock - 1, kBlock, kBlock + 1,
                                 last_block, end - 1, end, end + 1, last_block + kBlock, ~std::uint64_t{0} / 2})
      for (std::uint64_t bytes : {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{511}, kBlock, 3 * kBlock,
                                  3 * kBlock + 1, end, end + 5 * kBlock})
        for (std::size_t misplaced : {std::size_t{0}, std::size_t{1}, std::size_t{512}})
          CHECK(wrong_read(*source, file, content, offset, bytes, misplaced) == "");
  }
  CHECK(source->check_unchanged());
}

template <class Backend>
void concurrency_contract() {
  Backend backend;
  const auto source = must(backend.open());
  std::vector<std::string> contents;
  for (const auto& file : source->manifest().files) contents.push_back(backend.content(file));
  std::atomic<int> failed = 0;
  std::vector<std::string> wrong(8);
  std::vector<std::thread> threads;
  for (std::size_t number = 0; number < wrong.size(); ++number)
    threads.emplace_back([&, number] {
      std::mt19937_64 random(number);
      for (int i = 0; i < 200 && failed == 0; ++i) {
        const auto file = static_cast<std::uint32_t>(random() % contents.size());
        auto offset = random() % contents[file].size();
        auto bytes = static_cast<std::size_t>(random() % (contents[file].size() + kBlock));
        if (i % 2 == 0) offset = offset / kBlock * kBlock, bytes = (bytes / kBlock + 1) * kBlock;
        wrong[number] = wrong_read(*source, file, contents[file], offset, bytes, i % 4 == 3 ? 1 : 0);
        if (!wrong[number].empty()) ++failed;
        if (i % 50 == 0 && !source->check_unchanged()) ++failed;
      }
    });
  for (auto& thread : threads) thread.join();
  for (const auto& each : wrong) CHECK(each == "");
  CHECK(failed == 0);
}

/// Every read that is given to a reader ends once, in any order, as source.read() would answer it.
template <class Backend>
void reader_contract(const source::ReaderOptions& options) {
  Backend backend;
  const auto source = must(backend.open());
  const auto reader = source->make_reader(options);
  const auto& files = source->manifest().files;
  REQUIRE(reader->depth() >= 1);
  CHECK_FALSE(reader->backend().empty());
  std::vector<std::string> contents;
  for (const auto& file : files) contents.push_back(backend.content(file));
  struct Asked {
    std::uint32_t file;
    std::uint64_t offset;
    std::size_t bytes, misplaced;
    ReadBuffer buffer;
  };
  std::mt19937_64 random(1);
  std::vector<source::Done> done;
  reader->wait(Deadline::in(std::chrono::hours(1)), done);  // nothing is under way: at once
  REQUIRE(done.empty());
  for (int round = 0; round < 60; ++round) {
    std::map<std::uint64_t, Asked> asked;
    for (std::uint64_t tag = 1; tag <= reader->depth(); ++tag) {
      const auto file = static_cast<std::uint32_t>(random() % files.size());
      auto offset = random() % (contents[file].size() + 2 * kBlock);
      auto bytes = static_cast<std::size_t>(random() % (contents[file].size() + kBlock));
      const bool aligned = random() % 4 != 0;
      if (aligned) offset = offset / kBlock * kBlock, bytes = (bytes / kBlock + 1) * kBlock;
      const std::size_t misplaced = aligned ? 0 : random() % 3;
      const auto& at = asked.emplace(tag, Asked{file, offset, bytes, misplaced, ReadBuffer(misplaced + bytes)}).first->second;
      reader->submit({.file = file, .offset = offset, .into = at.buffer.from(misplaced, bytes), .tag = tag});
    }
    done.clear();
    for (int waits = 0; done.size() < asked.size() && waits < 1000; ++waits)
      reader->wait(Deadline::in(std::chrono::milliseconds(50)), done);
    REQUIRE(done.size() == asked.size());
    for (const auto& each : done) {
      const auto found = asked.find(each.tag);
      REQUIRE(found != asked.end());
      const auto& [file, offset, bytes, misplaced, buffer] = found->second;
      INFO("file " << file << ": " << bytes << " bytes from " << offset << ", " << misplaced << " behind a block");
      if (!each.bytes) FAIL(each.bytes.error().sentence);
      const auto expected = offset < contents[file].size() ? contents[file].substr(offset, bytes) : "";
      CHECK(*each.bytes == expected.size());
      CHECK((buffer.text(misplaced, expected.size()) == expected));
      CHECK(buffer.guard_holds());
      asked.erase(found);
    }
  }
  // What is under way when a reader ends is over when it has ended.
  const ReadBuffer buffer(contents[0].size());
  {
    const auto cut_off = source->make_reader(options);
    cut_off->submit({.file = 0, .offset = 0, .into = buffer.from(0, contents[0].size()), .tag = 0});
  }
  const std::string scribble(contents[0].size(), 0x11);
  std::memcpy(buffer.from(0, scribble.size()).data(), scribble.data(), scribble.size());
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
  CHECK((buffer.text(0, scribble.size()) == scribble));
}

/// After `change` of each of the files in turn, check_unchanged() names that file. Reading may fail or not, and never
/// does worse.
template <class Backend, class Change>
void change_is_detected(Change change) {
  const auto count = [] {
    Backend backend;
    return must(backend.open())->manifest().files.size();
  }();
  for (std::uint32_t number = 0; number < count; ++number) {
    Backend backend;
    const auto source = must(backend.open());
    const auto file = source->manifest().files[number];
    REQUIRE(source->check_unchanged());
    change(backend, file);
    const ReadBuffer buffer(file.bytes);
    (void)source->read(number, 0, buffer.from(0, file.bytes));
    const auto checked = source->check_unchanged();
    REQUIRE_FALSE(checked);
    CHECK(checked.error().kind == ErrorKind::corrupt);
    CHECK_THAT(checked.error().sentence, Catch::Contains(file.path));
    CHECK(buffer.guard_holds());
  }
}

template <class Backend>
void change_contract() {
  auto truncate_to = [](auto new_end) {
    return [new_end](Backend& backend, const weights::File& file) { backend.truncate(file, new_end(file.bytes)); };
  };
  change_is_detected<Backend>(truncate_to([](std::uint64_t bytes) { return bytes - 1; }));
  change_is_detected<Backend>(truncate_to([](std::uint64_t) { return 0; }));
  change_is_detected<Backend>(truncate_to([](std::uint64_t bytes) { return bytes + 1; }));
  change_is_detected<Backend>([](Backend& backend, const weights::File& file) { backend.rewrite(file); });
  change_is_detected<Backend>([](Backend& backend, const weights::File& file) { backend.replace(file); });
}

/// One read through a new reader.
inline Result<std::uint64_t> read_through(const source::Source& source, const source::ReaderOptions& options,
                                          std::uint64_t offset, std::span<std::byte> into) {
  const auto reader = source.make_reader(options);
  reader->submit({.file = 0, .offset = offset, .into = into, .tag = 0});
  std::vector<source::Done> done;
  for (int waits = 0; done.empty() && waits < 1000; ++waits)
    reader->wait(Deadline::in(std::chrono::milliseconds(50)), done);
  if (done.size() != 1) return fail(ErrorKind::internal, "{} reads ended instead of one", done.size());
  return std::move(done[0].bytes);
}

/// A read behind the new end is corrupt and names file and byte; one before it still has the old bytes.
template <class Backend>
void truncation_contract(const source::ReaderOptions& options) {
  for (std::size_t misplaced : {std::size_t{0}, std::size_t{1}}) {
    Backend backend;
    const auto source = must(backend.open());
    const auto file = source->manifest().files[0];
    const auto before = backend.content(file);
    REQUIRE(file.bytes > 3 * kBlock);
    backend.truncate(file, kBlock + 100);
    const ReadBuffer buffer(misplaced + file.bytes);
    CHECK(must(source->read(0, 0, buffer.from(misplaced, kBlock))) == kBlock);
    CHECK(must(read_through(*source, options, 0, buffer.from(misplaced, kBlock))) == kBlock);
    CHECK((buffer.text(misplaced, kBlock) == before.substr(0, kBlock)));
    for (std::uint64_t offset : {std::uint64_t{0}, kBlock, 2 * kBlock}) {
      for (bool through_reader : {false, true}) {
        const auto into = buffer.from(misplaced, 2 * kBlock);
        const auto got = through_reader ? read_through(*source, options, offset, into) : source->read(0, offset, into);
        REQUIRE_FALSE(got);
        CHECK(got.error().kind == ErrorKind::corrupt);
        CHECK_THAT(got.error().sentence, Catch::Contains(file.path));
        CHECK_THAT(got.error().sentence, Catch::Contains(fmt::format("byte {}", std::max(offset, kBlock + 100))));
      }
    }
  }
}

/// Two openings of the same bytes have the same stamp; after a change of the bytes they do not.
template <class Backend>
void stamp_contract() {
  Backend backend;
  const auto stamp = [&] { return weights::source_stamp_of(must(backend.open())->manifest()); };
  const auto first = stamp();
  CHECK(stamp() == first);
  backend.replace(must(backend.open())->manifest().files[0]);
  CHECK(stamp() != first);
}

}  // namespace ckptd::tests
