#include "proto/checkpoint_engine/error_reply.h"

#include <fmt/ranges.h>

#include <cstdint>
#include <optional>

#include "common/utf8.h"

namespace ckptd::proto::checkpoint_engine {
namespace {

/// What is worth keeping of a traceback stands at its end.
constexpr std::size_t kTracebackLimitBytes = 64 * 1024;
constexpr std::size_t kSummaryLimitBytes = 500;
/// Of a pickled exception: its class comes first, then what it was raised with.
constexpr std::size_t kPickleLimitBytes = 64 * 1024;
constexpr std::size_t kMostTexts = 32, kTextLimitBytes = 2'000;

constexpr char kProto = '\x80', kShortText = '\x8c', kText = 'X';

/// The last line that is not blank: Python puts the exception itself there.
std::string_view summary_of(std::string_view traceback) {
  auto end = traceback.find_last_not_of(" \t\r\n");
  if (end == std::string_view::npos) return "an empty traceback";
  traceback = traceback.substr(0, end + 1);
  auto line_break = traceback.find_last_of('\n');
  if (line_break != std::string_view::npos) traceback.remove_prefix(line_break + 1);
  return traceback;
}

/// The bytes behind an opcode and its length, if they are there.
std::optional<std::string_view> announced_by(std::string_view rest) {
  const std::size_t width = rest.front() == kShortText ? 1 : rest.front() == kText ? 4 : 0;
  if (width == 0 || rest.size() < 1 + width) return std::nullopt;
  std::size_t length = 0;
  for (std::size_t i = width; i > 0; --i) length = length << 8 | static_cast<std::uint8_t>(rest[i]);
  rest.remove_prefix(1 + width);
  if (length == 0 || length > rest.size()) return std::nullopt;
  return rest.substr(0, length);
}

ErrorReply read_pickled(std::string_view pickle) {
  constexpr std::string_view kUnread =
      "it answered with a pickled exception (as checkpoint-engine 0.2.1 does), which ckptd does not read; its traceback is "
      "in the engine's log";
  const auto texts = texts_in_pickle(pickle);
  if (texts.empty()) return {std::string(kUnread), fmt::format("a pickle of {} bytes", pickle.size())};
  // "builtins", "RuntimeError", "load_weights ...": the module is the least telling.
  const auto summary = fmt::format("{}", fmt::join(texts.begin() + (texts.size() > 1 ? 1 : 0), texts.end(), ": "));
  return {fmt::format("{} ({})", shown(summary, kSummaryLimitBytes), kUnread),
          fmt::format("texts in a pickle of {} bytes:\n{}", pickle.size(), fmt::join(texts, "\n"))};
}

}  // namespace

bool is_pickle(std::string_view reply) { return reply.starts_with(kProto); }

std::vector<std::string> texts_in_pickle(std::string_view pickle) {
  pickle = pickle.substr(0, kPickleLimitBytes);
  std::vector<std::string> texts;
  while (!pickle.empty() && texts.size() < kMostTexts) {
    const auto text = announced_by(pickle);
    if (!text || !is_utf8(*text)) {
      pickle.remove_prefix(1);
      continue;
    }
    texts.push_back(shown(*text, kTextLimitBytes));
    pickle.remove_prefix(static_cast<std::size_t>(text->data() - pickle.data()) + text->size());
  }
  return texts;
}

ErrorReply read_error_reply(std::string_view reply) {
  if (is_pickle(reply)) return read_pickled(reply);
  if (reply.size() > kTracebackLimitBytes) reply.remove_prefix(reply.size() - kTracebackLimitBytes);
  auto traceback = replace_invalid_utf8(reply);
  auto summary = shown(summary_of(traceback), kSummaryLimitBytes);
  return {std::move(summary), std::move(traceback)};
}

}  // namespace ckptd::proto::checkpoint_engine
