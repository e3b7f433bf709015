// The table in ckptctl(1) is that of the code: what an operator's script relies on cannot drift from what it gets.
#include <array>
#include <catch2/catch.hpp>
#include <set>
#include <sstream>

#include "common/files.h"
#include "ctl/command_line.h"
#include "proto/control/outcome.h"

namespace ckptd::ctl {
namespace {

namespace api = proto::control;

/// The rows of tbl(1) between .TS and .TE: EXIT|HTTP|KIND|MEANING.
std::set<std::string> rows_of_page(const std::string& page) {
  std::set<std::string> rows;
  std::istringstream lines(page);
  bool inside = false;
  for (std::string line; std::getline(lines, line);) {
    if (line == ".TS" || line == ".TE") inside = line == ".TS";
    bool is_row = std::count(line.begin(), line.end(), '|') == 3 && line.front() >= '0' && line.front() <= '9';
    if (inside && is_row) CHECK(rows.insert(line).second);
  }
  return rows;
}

TEST_CASE("the manual page prints the table of exit codes and statuses") {
  auto page = read_small_file(CKPTCTL_MANUAL);
  INFO((page ? "" : page.error().sentence));
  REQUIRE(page);
  std::set<std::string> rows{fmt::format("{}|||success", api::kExitSuccess),
                             fmt::format("{}|||the command line is wrong", api::kExitUsage),
                             fmt::format("{}|||interrupted; a job that was started goes on", api::kExitDetached)};
  for (const auto& outcome : api::outcomes())
    rows.insert(
        fmt::format("{}|{}|{}|{}", outcome.exit_code, outcome.http_status, name_of(outcome.kind), outcome.meaning));
  CHECK(rows_of_page(*page) == rows);
}

TEST_CASE("the manual pages, the configuration's and this program's help name every kind of engine") {
  for (const auto* file : {CKPTCTL_MANUAL, CKPTD_TOML_MANUAL, CKPTD_CONFIGURATION, CKPTD_OPENAPI}) {
    auto text = read_small_file(file);
    INFO(file);
    REQUIRE(text);
    for (const auto kind : api::kEngineKinds) {
      INFO(kind);
      CHECK(text->find(kind) != std::string::npos);
    }
  }
  const std::array<const char*, 4> words{"ckptctl", "engine", "add", "--help"};
  const auto help = parse_command_line(static_cast<int>(words.size()), words.data());
  REQUIRE(help);
  for (const auto kind : api::kEngineKinds) CHECK(help->text.find(kind) != std::string::npos);
}

TEST_CASE("every kind of error stands in the table, with an exit code of its own") {
  std::set<int> codes{api::kExitSuccess, api::kExitUsage, api::kExitDetached};
  std::set<std::string_view> kinds;
  for (const auto& outcome : api::outcomes()) {
    CHECK(codes.insert(outcome.exit_code).second);
    kinds.insert(name_of(outcome.kind));
  }
  for (int kind = 0; kind <= static_cast<int>(ErrorKind::internal); ++kind)
    CHECK(kinds.count(name_of(static_cast<ErrorKind>(kind))) == 1);
}

}  // namespace
}  // namespace ckptd::ctl
