#include <algorithm>

#include "common/files.h"
#include "common/utf8.h"
#include "daemon/config/draft.h"
#include "daemon/config/keys.h"
#include "daemon/config/suggestion.h"
#include "daemon/config/toml_reader.h"

namespace ckptd::config {
namespace {

constexpr std::size_t kSentenceBytes = 2000;

/// Walks the document of one file; its errors name file, line, column and key.
class FileReader {
 public:
  explicit FileReader(Draft& draft) : draft_(draft) {}

  Result<> read(const Node& root) {
    for (const auto& node : root.children) {
      if (node.name == "preload")
        CKPTD_TRY(read_entries(node, preload_keys(), draft_.config.preloads, &Preload::checkpoint, "checkpoint"));
      else if (node.name == "engine")
        CKPTD_TRY(read_entries(node, engine_keys(), draft_.config.engines, &Engine::name, "name"));
      else if (is_section(node.name))
        CKPTD_TRY(read_section(node));
      else
        CKPTD_TRY(read_key(node, node.name));
    }
    return {};
  }

 private:
  std::string place(const Node& node) const { return fmt::format("{}:{}:{}", draft_.file, node.line, node.column); }

  template <class... Args>
  std::unexpected<Error> refuse(const Node& node, fmt::format_string<Args...> text, Args&&... args) const {
    return fail(ErrorKind::invalid_argument, "{}: {}", place(node), fmt::format(text, std::forward<Args>(args)...));
  }

  static bool is_section(std::string_view name) {
    const auto prefix = std::string(name) + ".";
    return std::ranges::any_of(config_keys(), [&](const auto& key) { return key.name.starts_with(prefix); });
  }

  std::unexpected<Error> unknown(const Node& node, const std::string& key) const {
    std::vector<std::string> known;
    for (const auto& one : config_keys()) {
      known.push_back(one.name);
      auto section = one.name.substr(0, one.name.find('.'));
      if (section != one.name && std::ranges::find(known, section) == known.end()) known.push_back(section);
    }
    known.insert(known.end(), {"preload", "engine"});
    return refuse(node, "there is no key '{}'; {}", shown(key), suggestion(key, known));
  }

  Result<> read_section(const Node& section) {
    if (section.kind != Node::Kind::table)
      return refuse(section, "'{}' is a table: write [{}] and its keys below", section.name, section.name);
    for (const auto& node : section.children) CKPTD_TRY(read_key(node, section.name + "." + node.name));
    return {};
  }

  Result<> read_key(const Node& node, const std::string& name) {
    auto key = std::ranges::find(config_keys(), name, &Key<Config>::name);
    if (key == config_keys().end()) return unknown(node, name);
    if (auto read = key->read(node, draft_.config); !read)
      return std::unexpected(read.error().within(fmt::format("{}: {}", place(node), name)));
    draft_.origins[name] = place(node);
    return {};
  }

  /// An array of tables, in which no two may have the same value of `identity`.
  template <class Entry>
  Result<> read_entries(const Node& list, const std::vector<Key<Entry>>& keys, std::vector<Entry>& entries,
                        std::string Entry::*identity, std::string_view identity_name) {
    if (list.kind != Node::Kind::array)
      return refuse(list, "'{}' is a list of tables: write [[{}]] with two brackets", list.name, list.name);
    for (const auto& node : list.children) {
      if (node.kind != Node::Kind::table)
        return refuse(node, "'{}' is a list of tables: write [[{}]] with two brackets", list.name, list.name);
      auto entry = CKPTD_TRY(read_entry(list.name, node, keys));
      if (std::ranges::find(entries, entry.*identity, identity) != entries.end())
        return refuse(node, "{}.{}: '{}' stands in two of the [[{}]]; each needs its own", list.name, identity_name,
                      entry.*identity, list.name);
      entries.push_back(std::move(entry));
    }
    return {};
  }

  template <class Entry>
  Result<Entry> read_entry(const std::string& section, const Node& table, const std::vector<Key<Entry>>& keys) {
    Entry entry;
    for (const auto& node : table.children) {
      auto key = std::ranges::find(keys, node.name, &Key<Entry>::name);
      if (key == keys.end()) {
        std::vector<std::string> known;
        for (const auto& one : keys) known.push_back(one.name);
        return refuse(node, "[[{}]] has no key '{}'; {}", section, shown(node.name), suggestion(node.name, known));
      }
      if (auto read = key->read(node, entry); !read)
        return std::unexpected(read.error().within(fmt::format("{}: {}.{}", place(node), section, node.name)));
    }
    for (const auto& key : keys)
      if (key.required && std::ranges::find(table.children, key.name, &Node::name) == table.children.end())
        return refuse(table, "this [[{}]] lacks {}: {}", section, key.name, key.meaning);
    return entry;
  }

  Draft& draft_;
};

}  // namespace

Result<> read_file(const std::string& file, Draft& draft) {
  auto text = read_small_file(file);
  if (!text) return std::unexpected(text.error().within("cannot read the configuration"));
  return read_text(*text, file, draft);
}

Result<> read_text(std::string_view text, const std::string& file, Draft& draft) {
  auto read = [&]() -> Result<> {
    auto root = CKPTD_TRY(read_toml(text, file));
    draft.file = file;
    return FileReader(draft).read(root);
  }();
  // Keys and values of the file are quoted all over; here none of them can break a line or drive a terminal.
  if (!read) read.error().sentence = shown(read.error().sentence, kSentenceBytes);
  return read;
}

}  // namespace ckptd::config
