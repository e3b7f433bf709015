#include "daemon/systemd/status_line.h"

#include <catch2/catch.hpp>

namespace ckptd::systemd {
namespace {

proto::control::Status ready_status() {
  proto::control::Status status;
  status.ready = true;
  return status;
}

TEST_CASE("the status line says what is served") {
  auto status = ready_status();
  CHECK(status_line(status) == "serving 0 versions to 0 engines");
  status.versions_resident = 1;
  status.engines.resize(2);
  CHECK(status_line(status) == "serving 1 version to 2 engines");
  status.running_jobs = {"load-1", "update-2"};
  CHECK(status_line(status) == "serving 1 version to 2 engines; running load-1, update-2");
}

TEST_CASE("the status line counts the preloads that are there and names the others") {
  proto::control::Status status;
  status.preloads = 3;
  status.not_ready = {"preload a@1 is loading", "preload b@1 failed: no such directory"};
  CHECK(status_line(status) ==
        "loading: 1 of 3 preloads resident; preload a@1 is loading; preload b@1 failed: no such directory");
}

TEST_CASE("the status line tells what an operator should look at") {
  auto status = ready_status();
  status.engines.resize(2);
  status.engines[0].poisoned = "the update broke off";
  status.in_custody = {"HOST-0"};
  status.last_reload = {.failed = "/etc/ckptd.toml:3:1: no"};
  CHECK(status_line(status) ==
        "serving 0 versions to 2 engines; 1 engine POISONED; 1 failed session in custody; "
        "last reload REFUSED: /etc/ckptd.toml:3:1: no");
  status.last_reload->failed.clear();
  CHECK(status_line(status).find("reload") == std::string::npos);
}

TEST_CASE("the status line is one line of bounded length, whatever is quoted in it") {
  auto status = ready_status();
  status.last_reload = {.failed = "a\nREADY=1\n" + std::string(1000, 'x')};
  auto line = status_line(status);
  CHECK(line.find('\n') == std::string::npos);
  CHECK(line.size() <= 400);
  for (std::size_t pad = 0; pad < 3; ++pad) {  // never half a character
    std::string text(pad, 'x');
    while (text.size() < 1000) text += "\xe2\x82\xac";
    status.last_reload->failed = text;
    line = status_line(status);
    const auto cut = line.substr(0, line.size() - 3);
    CHECK(line.ends_with("..."));
    CHECK((cut.ends_with("\xac") || cut.ends_with("x") || cut.ends_with(" ")));
  }
}

}  // namespace
}  // namespace ckptd::systemd
