#include "ctl/table.h"

#include <algorithm>
#include <numeric>

#include "ctl/text.h"

namespace ckptd::ctl {
namespace {

constexpr std::size_t kGap = 2;
constexpr std::size_t kNarrowest = 8;  // of a column that shrinks

std::string cell(const std::vector<std::string>& row, std::size_t column) {
  auto text = column < row.size() ? printable(row[column]) : std::string();
  return text.empty() ? "-" : text;
}

std::vector<std::size_t> natural_widths(const Table& table) {
  std::vector<std::size_t> widths;
  for (std::size_t i = 0; i < table.columns.size(); ++i) {
    auto width = display_width(table.columns[i].title);
    for (const auto& row : table.rows) width = std::max(width, display_width(cell(row, i)));
    widths.push_back(width);
  }
  return widths;
}

std::size_t total_width(const std::vector<std::size_t>& widths) {
  return std::accumulate(widths.begin(), widths.end(), std::size_t{0}) + kGap * (widths.size() - 1);
}

/// Takes columns from the widest flexible one until the table fits or none can give any more.
void shrink(std::vector<std::size_t>& widths, const Table& table, std::size_t limit) {
  while (total_width(widths) > limit) {
    std::size_t* widest = nullptr;
    for (std::size_t i = 0; i < widths.size(); ++i) {
      auto least = std::max(kNarrowest, display_width(table.columns[i].title));
      if (table.columns[i].flexible && widths[i] > least && (!widest || widths[i] > *widest)) widest = &widths[i];
    }
    if (!widest) return;
    --*widest;
  }
}

std::string render_line(const std::vector<std::string>& cells, const Table& table,
                        const std::vector<std::size_t>& widths, std::optional<std::size_t> limit, bool utf8) {
  std::string line;
  for (std::size_t i = 0; i < cells.size(); ++i) {
    auto text = shorten(cells[i], widths[i], utf8);
    std::string padding(widths[i] - display_width(text), ' ');
    if (i > 0) line.append(kGap, ' ');
    line += table.columns[i].right ? padding + text : text + padding;
  }
  line.erase(line.find_last_not_of(' ') + 1);
  return (limit ? shorten(line, *limit, utf8) : line) + "\n";
}

}  // namespace

std::string render(const Table& table, std::optional<std::size_t> width, bool utf8) {
  if (table.columns.empty()) return {};
  auto widths = natural_widths(table);
  if (width) shrink(widths, table, *width);

  std::vector<std::string> titles;
  for (const auto& column : table.columns) titles.push_back(column.title);
  auto out = render_line(titles, table, widths, width, utf8);
  for (const auto& row : table.rows) {
    std::vector<std::string> cells;
    for (std::size_t i = 0; i < table.columns.size(); ++i) cells.push_back(cell(row, i));
    out += render_line(cells, table, widths, width, utf8);
  }
  return out;
}

std::string render_fields(const std::vector<std::pair<std::string, std::string>>& fields) {
  std::size_t widest = 0;
  for (const auto& [name, value] : fields)
    if (!value.empty()) widest = std::max(widest, display_width(name));
  std::string out;
  for (const auto& [name, value] : fields) {
    auto lines = indent(printable(value, false), std::string(widest + kGap, ' '));
    if (!lines.empty()) out += lines.replace(0, display_width(name), name);
  }
  return out;
}

}  // namespace ckptd::ctl
