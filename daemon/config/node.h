// A value as somebody wrote it, in a file or in a flag, and where: what is left of TOML outside toml_reader.cpp.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace ckptd::config {

struct Node {
  enum class Kind { boolean, integer, string, array, table, other };

  std::string name;            ///< the key that it stands under; empty in an array and for a flag
  std::size_t line = 0, column = 0;
  Kind kind = Kind::other;
  std::string_view what;       ///< "a float": the kind, for people
  bool from_flag = false;      ///< then it is a string, whatever is wanted

  bool truth = false;
  std::int64_t number = 0;
  std::string text;
  std::vector<Node> children;  ///< of arrays and tables, in the order of the file
};

}  // namespace ckptd::config
