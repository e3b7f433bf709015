#include "tests/support/reference_rank/pickle_reader.h"

#include <optional>
#include <utility>

#include "tests/support/reference_rank/python_error.h"

namespace ckptd::reference_rank {
namespace {

using Kind = Value::Kind;

[[noreturn]] void broken(const std::string& message) { throw PythonError("_pickle.UnpicklingError", message); }

class Reader {
 public:
  explicit Reader(std::string_view rest) : rest_(rest) {}

  Value read() {
    if (byte() != 0x80 || byte() > 4) broken("no protocol that is known");
    while (!finished_) step(byte());
    if (!rest_.empty()) broken("bytes after STOP");
    if (stack_.size() != 1 || !marks_.empty()) broken("STOP with an unfinished value");
    return std::move(stack_.back());
  }

 private:
  unsigned char byte() { return static_cast<unsigned char>(take(1)[0]); }

  std::string_view take(std::size_t count) {
    if (count > rest_.size()) broken("pickle data was truncated");
    auto taken = rest_.substr(0, count);
    rest_.remove_prefix(count);
    return taken;
  }

  std::string line() {
    auto end = rest_.find('\n');
    if (end == std::string_view::npos) broken("pickle data was truncated");
    std::string text(take(end));
    take(1);
    return text;
  }

  std::uint64_t little_endian(std::size_t bytes) {
    std::uint64_t value = 0;
    auto taken = take(bytes);
    for (std::size_t i = 0; i < bytes; ++i) value |= std::uint64_t{static_cast<unsigned char>(taken[i])} << (8 * i);
    return value;
  }

  std::int64_t two_complement(std::size_t bytes) {
    if (bytes == 0) return 0;
    std::size_t kept = bytes > 8 ? 8 : bytes;
    auto value = little_endian(kept);
    bool negative = kept < 8 && ((value >> (8 * kept - 1)) & 1) != 0;
    for (std::size_t i = kept; i < bytes; ++i)
      if (byte() != 0) throw PythonError("OverflowError", "Python int too large to convert to C long");
    if (bytes > 8 && static_cast<std::int64_t>(value) < 0)
      throw PythonError("OverflowError", "Python int too large to convert to C long");
    if (negative) value |= ~std::uint64_t{0} << (8 * kept);
    return static_cast<std::int64_t>(value);
  }

  void push(Kind kind, std::int64_t integer = 0, std::string text = {}, std::vector<Value> items = {}) {
    stack_.push_back({kind, integer, std::move(text), std::move(items)});
  }

  Value pop() {
    if (stack_.size() <= (marks_.empty() ? 0 : marks_.back())) broken("unexpected MARK found");
    auto value = std::move(stack_.back());
    stack_.pop_back();
    return value;
  }

  Value& top() {
    if (stack_.empty()) broken("stack underflow");
    return stack_.back();
  }

  std::vector<Value> pop_to_mark() {
    if (marks_.empty()) broken("could not find MARK");
    auto begin = stack_.begin() + static_cast<std::ptrdiff_t>(marks_.back());
    std::vector<Value> items(std::make_move_iterator(begin), std::make_move_iterator(stack_.end()));
    stack_.erase(begin, stack_.end());
    marks_.pop_back();
    return items;
  }

  void tuple_of(std::size_t count) {
    std::vector<Value> items(count);
    while (count > 0) items[--count] = pop();
    push(Kind::tuple, 0, {}, std::move(items));
  }

  void add_to_container(Kind kind) {
    auto items = pop_to_mark();
    if (!top().is(kind) || (kind == Kind::dict && items.size() % 2 != 0)) broken("items for something else");
    for (auto& item : items) top().items.push_back(std::move(item));
  }

  void reduce() {
    auto arguments = pop();
    auto callable = pop();
    if (!arguments.is(Kind::tuple)) broken("argument list must be a tuple");
    std::vector<Value> items;
    items.push_back(std::move(callable));
    items.push_back(std::move(arguments));
    push(Kind::call, 0, {}, std::move(items));
  }

  void build() {
    auto state = pop();
    if (!top().is(Kind::call)) broken("state for something that was not called");
    top().items.push_back(std::move(state));
  }

  void step(unsigned char opcode) {
    switch (opcode) {
      case '.': finished_ = true; return;
      case '(': marks_.push_back(stack_.size()); return;
      case 'N': return push(Kind::none);
      case 0x88: return push(Kind::boolean, 1);
      case 0x89: return push(Kind::boolean, 0);
      case 'K': return push(Kind::integer, byte());
      case 'M': return push(Kind::integer, static_cast<std::int64_t>(little_endian(2)));
      case 'J': return push(Kind::integer, static_cast<std::int32_t>(little_endian(4)));
      case 0x8a: return push(Kind::integer, two_complement(byte()));
      case 'X': return push(Kind::text, 0, std::string(take(little_endian(4))));
      case 'C': return push(Kind::bytes, 0, std::string(take(byte())));
      case 'B': return push(Kind::bytes, 0, std::string(take(little_endian(4))));
      case 'c': return global();
      case 't': return push(Kind::tuple, 0, {}, pop_to_mark());
      case 0x85: return tuple_of(1);
      case 0x86: return tuple_of(2);
      case 0x87: return tuple_of(3);
      case ']': return push(Kind::list);
      case 'e': return add_to_container(Kind::list);
      case '}': return push(Kind::dict);
      case 'u': return add_to_container(Kind::dict);
      case 'R': return reduce();
      case 'b': return build();
      default: broken("invalid load key " + std::to_string(opcode));
    }
  }

  void global() {
    auto module = line();
    auto name = line();
    push(Kind::global, 0, module + " " + name);
  }

  std::string_view rest_;
  std::vector<Value> stack_;
  std::vector<std::size_t> marks_;
  bool finished_ = false;
};

}  // namespace

const Value& Value::at(std::string_view key) const {
  for (std::size_t i = 0; i + 1 < items.size(); i += 2)
    if (items[i].is(Kind::text) && items[i].text == key) return items[i + 1];
  throw PythonError("KeyError", "'" + std::string(key) + "'");
}

Value read_pickle(std::string_view pickle) { return Reader(pickle).read(); }

}  // namespace ckptd::reference_rank
