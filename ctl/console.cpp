#include "ctl/console.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstdlib>
#include <string>

namespace ckptd::ctl {
namespace {

constexpr std::size_t kUsualWidth = 80;

bool write_all(int fd, std::string_view text) {
  while (!text.empty()) {
    auto written = ::write(fd, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return false;
    text.remove_prefix(static_cast<std::size_t>(written));
  }
  return true;
}

std::size_t width_of_terminal(int fd) {
  winsize size{};
  if (::ioctl(fd, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return kUsualWidth;
  return size.ws_col;
}

bool terminal_redraws() {
  const char* term = std::getenv("TERM");
  return ::isatty(STDERR_FILENO) && term && *term && std::string_view(term) != "dumb";
}

}  // namespace

Console::Console()
    : can_redraw_(terminal_redraws()),
      utf8_(is_utf8_locale(std::getenv("LC_ALL"), std::getenv("LC_CTYPE"), std::getenv("LANG"))) {}

void Console::out(std::string_view text) const {
  if (!write_all(STDOUT_FILENO, text)) out_failed_ = true;
}

void Console::err(std::string_view text) const {
  write_all(STDERR_FILENO, text);
}

std::optional<std::size_t> Console::out_width() const {
  if (!::isatty(STDOUT_FILENO)) return std::nullopt;
  return width_of_terminal(STDOUT_FILENO);
}

std::size_t Console::err_width() const {
  return width_of_terminal(STDERR_FILENO);
}

bool is_utf8_locale(const char* lc_all, const char* lc_ctype, const char* lang) {
  for (const char* value : {lc_all, lc_ctype, lang}) {
    if (!value || !*value) continue;
    std::string name(value);
    std::ranges::transform(name, name.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    return name.find("utf-8") != std::string::npos || name.find("utf8") != std::string::npos;
  }
  return false;
}

}  // namespace ckptd::ctl
