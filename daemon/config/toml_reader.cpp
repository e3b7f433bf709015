#include "daemon/config/toml_reader.h"

#include <toml++/toml.h>

#include <algorithm>
#include <exception>
#include <tuple>

namespace ckptd::config {
namespace {

void convert(const toml::node& from, Node& to);

void place(Node& node, const toml::source_position& position) {
  if (!position) return;  // a table that only its members mention has none of its own
  node.line = position.line;
  node.column = position.column;
}

void convert_array(const toml::array& from, Node& to) {
  to.kind = Node::Kind::array;
  to.what = "a list";
  for (const auto& element : from) {
    auto& child = to.children.emplace_back();
    place(child, element.source().begin);
    convert(element, child);
  }
}

void convert_table(const toml::table& from, Node& to) {
  to.kind = Node::Kind::table;
  to.what = "a table";
  for (const auto& [key, value] : from) {
    auto& child = to.children.emplace_back();
    child.name = key.str();
    place(child, key.source().begin);
    convert(value, child);
  }
  // The library sorts by name; the first mistake that we tell should be the first one of the file.
  std::ranges::stable_sort(to.children, {}, [](const Node& node) { return std::tuple(node.line, node.column); });
}

void convert(const toml::node& from, Node& to) {
  if (auto table = from.as_table()) return convert_table(*table, to);
  if (auto array = from.as_array()) return convert_array(*array, to);
  if (auto text = from.as_string()) {
    to.kind = Node::Kind::string;
    to.what = "text";
    to.text = text->get();
  } else if (auto number = from.as_integer()) {
    to.kind = Node::Kind::integer;
    to.what = "a number";
    to.number = number->get();
  } else if (auto truth = from.as_boolean()) {
    to.kind = Node::Kind::boolean;
    to.what = "true or false";
    to.truth = truth->get();
  } else {
    to.what = from.is_floating_point() ? "a number with a fraction" : "a date or a time";
  }
}

// The library bounds how deep brackets nest, but a dotted key makes a table for each of its parts, and tables are
// converted and destroyed by recursion.
constexpr std::size_t kDotsOfLine = 32;

/// The dots of one line that are not in quotes.
std::size_t dots_of(std::string_view line) {
  std::size_t dots = 0;
  for (std::size_t at = 0; at < line.size(); ++at) {
    if (line[at] == '#') break;
    if (line[at] == '.') ++dots;
    if (line[at] == '"' || line[at] == '\'')
      if (auto end = line.find(line[at], at + 1); end != line.npos) at = end;
  }
  return dots;
}

Result<> check_depth(std::string_view text, const std::string& file) {
  for (std::size_t number = 1; !text.empty(); ++number) {
    const auto end = std::min(text.find('\n'), text.size());
    if (dots_of(text.substr(0, end)) > kDotsOfLine)
      return fail(ErrorKind::invalid_argument, "{}:{}:1: there are more than {} dots outside of quotes", file, number,
                  kDotsOfLine);
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return {};
}

}  // namespace

Result<Node> read_toml(std::string_view text, const std::string& file) {
  CKPTD_TRY(check_depth(text, file));
  try {
    Node root;
    convert(toml::parse(text, file), root);
    return root;
  } catch (const toml::parse_error& error) {
    const auto& at = error.source().begin;
    return fail(ErrorKind::invalid_argument, "{}:{}:{}: this is not TOML: {}", file, at.line, at.column,
                error.description());
  } catch (const std::exception& error) {
    return fail(ErrorKind::invalid_argument, "{}: this is not TOML: {}", file, error.what());
  }
}

}  // namespace ckptd::config
