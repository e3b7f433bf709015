#include "daemon/config/config.h"
#include "daemon/config/keys.h"

namespace ckptd::config {
namespace {

template <class Entry>
void show_entries(std::string& text, std::string_view section, const std::vector<Entry>& entries,
                  const std::vector<Key<Entry>>& keys) {
  for (const auto& entry : entries) {
    text += fmt::format("\n[[{}]]\n", section);
    for (const auto& key : keys) text += fmt::format("{} = {}\n", key.name, key.show(entry));
  }
}

template <class Target>
void document(std::vector<KeyDoc>& docs, const std::string& prefix, const std::vector<Key<Target>>& keys) {
  for (const auto& key : keys)
    docs.push_back({prefix + key.name, key.flag, key.default_text(),
                    key.change == Change::reload ? "reload" : "restart", key.meaning});
}

}  // namespace

std::string show(const Config& config) {
  std::string text, section;
  for (const auto& key : config_keys()) {
    const auto dot = key.name.find('.');
    const auto of = dot == std::string::npos ? std::string() : key.name.substr(0, dot);
    if (of != section) text += fmt::format("\n[{}]\n", of);
    section = of;
    text += fmt::format("{} = {}\n", key.name.substr(dot + 1), key.show(config));
  }
  show_entries(text, "preload", config.preloads, preload_keys());
  show_entries(text, "engine", config.engines, engine_keys());
  return text;
}

std::vector<KeyDoc> known_keys() {
  std::vector<KeyDoc> docs;
  document(docs, "", config_keys());
  document(docs, "preload.", preload_keys());
  document(docs, "engine.", engine_keys());
  return docs;
}

}  // namespace ckptd::config
