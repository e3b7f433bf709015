#include "daemon/ranks/vllm_ipc/hold.h"

#include <fcntl.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>

using namespace ckptd;
using namespace ckptd::ranks;

namespace {

/// What torch does when memory that came with this receipt goes, or was mapped already.
void count_down(const std::filesystem::path& directory, const std::string& file, std::uint64_t index) {
  const auto path = directory / file.substr(1);
  const int fd = ::open(path.c_str(), O_RDWR);
  REQUIRE(fd >= 0);
  std::int64_t counter = 0;
  const auto offset = static_cast<off_t>(64 + 8 * index);
  REQUIRE(::pread(fd, &counter, sizeof counter, offset) == sizeof counter);
  --counter;
  REQUIRE(::pwrite(fd, &counter, sizeof counter, offset) == sizeof counter);
  ::close(fd);
}

}  // namespace

TEST_CASE("a worker has let go when every handle that it was told was counted down") {
  const auto directory = std::filesystem::temp_directory_path() / fmt::format("ckptd-holds-{}", ::getpid());
  std::filesystem::create_directories(directory);
  {
    Receipts receipts({.group = std::nullopt, .directory = directory});
    vllm_ipc::WorkerHold hold("v0", "GPU-1", {});
    std::vector<std::pair<std::string, std::uint64_t>> told;
    for (int i = 0; i < 3; ++i) {
      auto receipt = receipts.take();
      REQUIRE(receipt);
      told.emplace_back(receipt->file(), receipt->index());
      hold.told(*std::move(receipt));
    }
    CHECK_FALSE(hold.let_go());
    // One mapping from the first handle on: the later ones are counted down at once, the first at the end.
    count_down(directory, told[1].first, told[1].second);
    count_down(directory, told[2].first, told[2].second);
    CHECK_FALSE(hold.let_go());
    CHECK(hold.why().find("1 receipts are missing") != std::string::npos);
    count_down(directory, told[0].first, told[0].second);
    CHECK(hold.let_go());
    CHECK(hold.why() == "it is unmapped");
    CHECK(hold.holder().engine == "v0");
  }
  std::filesystem::remove_all(directory);
}

TEST_CASE("a receipt that was counted down twice proves nothing") {
  const auto directory = std::filesystem::temp_directory_path() / fmt::format("ckptd-holds-twice-{}", ::getpid());
  std::filesystem::create_directories(directory);
  {
    Receipts receipts({.group = std::nullopt, .directory = directory});
    auto receipt = receipts.take();
    REQUIRE(receipt);
    const auto file = receipt->file();
    const auto index = receipt->index();
    vllm_ipc::WorkerHold hold("v0", "GPU-1", {{.pid = ::getpid(), .uid = 0, .started = 0}});
    hold.told(*std::move(receipt));
    count_down(directory, file, index);
    count_down(directory, file, index);
    CHECK_FALSE(hold.let_go());
    CHECK(hold.why().find("more than once") != std::string::npos);
  }
  std::filesystem::remove_all(directory);
}

TEST_CASE("when the processes that may map it are gone, so are their mappings") {
  const auto directory = std::filesystem::temp_directory_path() / fmt::format("ckptd-holds-gone-{}", ::getpid());
  std::filesystem::create_directories(directory);
  {
    Receipts receipts({.group = std::nullopt, .directory = directory});
    auto receipt = receipts.take();
    REQUIRE(receipt);
    vllm_ipc::WorkerHold hold("v0", "GPU-1", {{.pid = 0x3ffffff, .uid = 0, .started = 1}});
    hold.told(*std::move(receipt));
    CHECK(hold.let_go());
  }
  std::filesystem::remove_all(directory);
}
