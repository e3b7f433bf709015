#include <catch2/catch.hpp>
#include <fstream>

#include "tests/contract/session/harness.h"
#include "tests/contract/session/process.h"

namespace ckptd::test {
namespace {

using namespace std::chrono_literals;

Error restarted() { return {ErrorKind::unavailable, "ckptd was started again"}; }

}  // namespace

TEST_CASE("after a kill of the daemon its successor sets the rank free, whatever it waited for") {
  // The memory is a plain file here: that of a dead daemon's memfd lives on in the rank's mapping in the same way.
  auto steps = GENERATE(as<std::string>{}, "0", "1", "2", "2+", "3", "4+");
  CAPTURE(steps);
  TemporaryDirectory directory;
  auto holder = std::make_unique<Process>(
      std::vector<std::string>{CKPTD_SESSION_HOLDER, (directory.path() / "r").string(), steps});
  auto endpoint = holder->receive().at("endpoint").get<std::string>();
  reference_rank::Fault fault;
  if (steps == "2+") fault = {.kind = "stall", .bucket = 0, .seconds = kUntilTold};
  if (steps == "4+") fault = {.kind = "slow_post_hook", .bucket = 0, .seconds = kUntilTold};
  RankThread rank(endpoint, fault);
  REQUIRE(holder->receive() == nlohmann::json{{"reached", true}});
  holder->kill();
  CHECK_FALSE(rank.outcome(0s));  // nobody answers it now

  auto endpoints = make_backend(directory.path() / "r");
  endpoints->adopt({{endpoint, "sglang-0", "HOST-0"}}, restarted());
  CHECK(endpoints->in_custody().size() == 1);
  rank.go_on();
  auto outcome = rank.outcome();
  REQUIRE(outcome);
  CHECK(outcome->ok == (steps == "4+"));  // the reply to the dead daemon is delivered to us, and the rank is done
  if (steps == "2" || steps == "2+") CHECK(outcome->error.find("ckptd was started again") != std::string::npos);
  CHECK(endpoints->drain(Deadline::in(kPatience)).empty());
  CHECK(std::filesystem::is_empty(directory.path() / "r"));
}

TEST_CASE("a rank that comes to an adopted endpoint only later gets the exception") {
  TemporaryDirectory directory;
  auto endpoints = make_backend(directory.path() / "r");
  auto endpoint = "ipc://" + (directory.path() / "r" / "abcdefghi0").string();
  endpoints->adopt({{endpoint, "sglang-0", "HOST-0"}}, restarted());
  RankThread rank(endpoint, {.kind = "connect_late", .bucket = 0, .seconds = 0.2});
  REQUIRE(rank.outcome());
  CHECK_FALSE(rank.outcome()->ok);
  CHECK(endpoints->drain(Deadline::in(kPatience)).empty());
}

TEST_CASE("only endpoints of our own directory are adopted") {
  TemporaryDirectory directory;
  auto endpoints = make_backend(directory.path() / "r");
  auto inside = (directory.path() / "r").string();
  auto precious = directory.path() / "preciousss";
  std::ofstream(precious) << "keep";
  endpoints->adopt({{"ipc://" + precious.string(), "e", "d"},
                    {"ipc://" + inside + "/../preciousss", "e", "d"},
                    {"ipc://" + inside + "/short", "e", "d"},
                    {"ipc://" + inside + "/", "e", "d"},
                    {"tcp://127.0.0.1:5555", "e", "d"},
                    {"ipc://@abcdefghij", "e", "d"},
                    {"", "e", "d"}},
                   restarted());
  CHECK(endpoints->in_custody().empty());
  CHECK(std::filesystem::exists(precious));
  CHECK(std::filesystem::is_empty(inside));
}

TEST_CASE("adopting removes dead sockets and spares the living, and does not adopt twice") {
  TemporaryDirectory directory;
  auto inside = directory.path() / "r";
  auto holder = std::make_unique<Process>(std::vector<std::string>{CKPTD_SESSION_HOLDER, inside.string(), "0"});
  auto dead = holder->receive().at("endpoint").get<std::string>();
  holder->kill();
  auto endpoints = make_backend(inside);
  auto session = *endpoints->open("sglang-0", "HOST-0");
  std::ofstream(inside / "note") << "not a socket";
  REQUIRE(std::filesystem::exists(dead.substr(6)));
  endpoints->adopt({{session->endpoint(), "sglang-0", "HOST-0"}}, restarted());
  CHECK(endpoints->in_custody().empty());  // ours lives
  CHECK_FALSE(std::filesystem::exists(dead.substr(6)));
  CHECK(std::filesystem::exists(session->endpoint().substr(6)));
  CHECK(std::filesystem::exists(inside / "note"));
  Memory memory;
  RankThread rank(session->endpoint());
  REQUIRE(walk(*session, memory, Reached::finished));
}

}  // namespace ckptd::test
