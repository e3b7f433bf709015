// The two streams of the program and what they are connected to. Writes go straight to the descriptors: nothing is
// buffered, so nothing is lost when a signal ends us. Not safe from two threads.
#pragma once

#include <cstddef>
#include <optional>
#include <string_view>

namespace ckptd::ctl {

class Console {
 public:
  /// Looks at descriptors 1 and 2 and at TERM, LC_ALL, LC_CTYPE and LANG.
  Console();

  void out(std::string_view text) const;
  void err(std::string_view text) const;

  /// stderr is a terminal that can redraw a line.
  bool can_redraw() const { return can_redraw_; }
  bool utf8() const { return utf8_; }

  /// Columns of stdout when it is a terminal; nothing when it is piped, where no line may be cut.
  std::optional<std::size_t> out_width() const;
  /// Columns of stderr, asked anew each time because windows change.
  std::size_t err_width() const;

  /// Some of stdout could not be written (a full disk): the answer is not complete.
  bool out_failed() const { return out_failed_; }

 private:
  bool can_redraw_;
  bool utf8_;
  mutable bool out_failed_ = false;
};

/// Whether a locale of this name shows UTF-8: the first of the three that is set and not empty decides.
bool is_utf8_locale(const char* lc_all, const char* lc_ctype, const char* lang);

}  // namespace ckptd::ctl
