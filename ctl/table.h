// Aligned tables with a header line. Pure.
//
//   CHECKPOINT   STATE     SIZE
//   llama@3      resident  1.25 GiB
//
// Every column is as wide as its widest cell. When a width is given and the table does not fit it, flexible columns
// shrink, the widest first; what still does not fit is cut at the right. Without a width nothing is ever cut.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace ckptd::ctl {

struct Column {
  std::string title;
  bool flexible = false;  ///< may be shortened to fit a terminal
  bool right = false;     ///< numbers are read at their right end
};

struct Table {
  std::vector<Column> columns;
  std::vector<std::vector<std::string>> rows;  ///< cells missing at the end count as empty; empty cells show as "-"
};

/// One line for the header and one for each row, each ending in a line break and without trailing blanks.
std::string render(const Table& table, std::optional<std::size_t> width, bool utf8);

/// One value a line behind its aligned name; a value of several lines goes on below itself. Empty values are left out.
std::string render_fields(const std::vector<std::pair<std::string, std::string>>& fields);

}  // namespace ckptd::ctl
