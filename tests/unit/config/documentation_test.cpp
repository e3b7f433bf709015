#include <sstream>

#include "parse.h"

namespace ckptd::config {
namespace {

std::string row_of(const KeyDoc& key) {
  auto code = [](const std::string& text) { return text.empty() ? "" : "`" + text + "`"; };
  const auto shown = key.default_text == "required" ? key.default_text : code(key.default_text);
  return "| " + code(key.key) + " | " + code(key.flag) + " | " + shown + " | " + key.change + " | " + key.meaning +
         " |";
}

TEST_CASE("docs/configuration.md has one row for each key, and no other") {
  std::vector<std::string> wanted, found;
  for (const auto& key : known_keys()) wanted.push_back(row_of(key));
  std::ifstream file(CKPTD_DOCS "/configuration.md");
  REQUIRE(file);
  for (std::string line; std::getline(file, line);)
    if (line.starts_with("| `")) found.push_back(line);
  std::string table;
  for (const auto& row : wanted) table += row + "\n";
  INFO("the table should be:\n" << table);
  CHECK(found == wanted);
}

TEST_CASE("the example of docs/configuration.md is valid") {
  std::ifstream file(CKPTD_DOCS "/configuration.md");
  std::stringstream text;
  text << file.rdbuf();
  const auto begin = text.str().find("```toml\n") + 8;
  REQUIRE(begin > 8);
  ConfigFile example(text.str().substr(begin, text.str().find("```", begin) - begin));
  auto line = example.parse();
  INFO((line ? "" : line.error().sentence));
  CHECK(line);
}

TEST_CASE("every key says what it means, once") {
  std::vector<std::string> seen;
  for (const auto& key : known_keys()) {
    INFO(key.key);
    CHECK_FALSE(key.meaning.empty());
    CHECK(key.meaning.find('|') == std::string::npos);
    CHECK_FALSE(key.default_text.empty());
    CHECK(std::find(seen.begin(), seen.end(), key.key) == seen.end());
    seen.push_back(key.key);
  }
}

}  // namespace
}  // namespace ckptd::config
