#include "ctl/source_uri.h"

#include <filesystem>
#include <system_error>

#include "common/http_client.h"

namespace ckptd::ctl {
namespace {

std::filesystem::path without_detours(const std::filesystem::path& path) {
  std::filesystem::path tidy = "/";
  for (const auto& part : path.relative_path()) {
    std::error_code ignored;
    if (part.empty() || part == ".") continue;
    if (part != ".." || tidy.filename() == ".." || std::filesystem::is_symlink(tidy, ignored))
      tidy /= part;
    else
      tidy = tidy.parent_path();
  }
  return tidy;
}

}  // namespace

Result<std::string> source_uri(std::string_view directory) {
  if (directory.empty()) return fail(ErrorKind::invalid_argument, "the directory of the checkpoint is an empty string");
  if (directory.find("://") != std::string_view::npos) return std::string(directory);
  std::error_code error;
  auto path = std::filesystem::absolute(directory, error);
  if (error) return std::unexpected(system_error(error.value(), "find out the current directory"));
  std::string uri = "file://";
  for (const auto& part : without_detours(path).relative_path()) uri += "/" + http::percent_encode(part.string());
  return uri == "file://" ? "file:///" : uri;
}

}  // namespace ckptd::ctl
