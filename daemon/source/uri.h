// What a client may name: from a URI to a path, and from a resolved path to yes or no.
#pragma once

#include <filesystem>
#include <string_view>
#include <vector>

#include "common/result.h"

namespace ckptd::source {

/// file:///absolute/path with percent-encoding, or an absolute path taken as it is. Pure. invalid_argument, or
/// unsupported for another scheme.
Result<std::filesystem::path> parse_uri(std::string_view uri);

/// The directories below which everything that is read must lie. A link is judged by where it leads, so that the links
/// of a hub snapshot work when the repository's folder, with its blobs/, is below a root.
class Roots {
 public:
  Roots() = default;  ///< everything is allowed
  /// Resolves each root now; one that does not exist allows nothing.
  explicit Roots(const std::vector<std::filesystem::path>& roots);

  bool limited() const { return limited_; }

  /// denied unless the path, which must be resolved, is a root or below one. The message shows `named`, which is what
  /// the client or the checkpoint called it.
  Result<> admit(const std::filesystem::path& resolved, const std::filesystem::path& named) const;

 private:
  bool limited_ = false;
  std::vector<std::filesystem::path> roots_;
};

}  // namespace ckptd::source
