// proto/control/openapi.yaml and the table of routes say the same, read line by line: paths stand at two blanks, their
// methods at four, parameters and statuses below.
#include <catch2/catch.hpp>
#include <fstream>
#include <map>
#include <set>
#include <string>

#include "daemon/control/routes.h"
#include "proto/control/outcome.h"

using namespace ckptd;

namespace {

struct Documented {
  std::set<std::string> query, statuses;
};

std::map<std::string, Documented> documented_routes() {
  std::map<std::string, Documented> routes;
  std::ifstream file(OPENAPI);
  std::string line, path;
  Documented* route = nullptr;
  bool in_paths = false;
  for (int number = 1; std::getline(file, line); ++number) {
    if (!line.empty() && line[0] != ' ' && line[0] != '#') in_paths = line == "paths:";
    if (!in_paths) continue;
    auto indent = line.find_first_not_of(' ');
    auto text = indent == line.npos ? std::string() : line.substr(indent);
    if (indent == 2 && text.starts_with("/")) {
      path = text.substr(0, text.find(':'));
      route = nullptr;
    } else if (indent == 4 && text.ends_with(":") && text != "parameters:") {
      auto method = text.substr(0, text.size() - 1);
      for (auto& c : method) c = static_cast<char>(std::toupper(c));
      route = &routes[method + " " + path];
    } else if (route != nullptr && text.starts_with("- {name: ") && text.find("in: query") != text.npos) {
      route->query.insert(text.substr(9, text.find(',') - 9));
    } else if (route != nullptr && indent == 8 && text.starts_with('"')) {
      route->statuses.insert(text.substr(1, 3));
    }
  }
  return routes;
}

}  // namespace

TEST_CASE("openapi.yaml describes the routes that there are, with their parameters") {
  auto documented = documented_routes();
  std::set<std::string> described, served;
  for (const auto& [name, route] : documented) described.insert(name);
  for (const auto& route : control::routes()) {
    auto name = fmt::format("{} {}", route.method, route.pattern);
    CHECK(served.insert(name).second);
    INFO(name);
    CHECK(documented[name].query == std::set<std::string>(route.query.begin(), route.query.end()));
    CHECK((documented[name].statuses.contains("200") || documented[name].statuses.contains("202")));
  }
  CHECK(described == served);
}

TEST_CASE("openapi.yaml lists every kind of error and every status") {
  std::ifstream file(OPENAPI);
  std::string text((std::istreambuf_iterator<char>(file)), {});
  for (const auto& outcome : proto::control::outcomes()) {
    INFO(name_of(outcome.kind));
    CHECK(text.find(std::string(name_of(outcome.kind))) != text.npos);
    CHECK(text.find(std::to_string(outcome.http_status)) != text.npos);
  }
}
