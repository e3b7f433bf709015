#include "common/result.h"

#include <array>
#include <cerrno>
#include <system_error>

namespace ckptd {
namespace {

struct KindName {
  ErrorKind kind;
  std::string_view name;
};

constexpr std::array kNames{
    KindName{ErrorKind::invalid_argument, "invalid_argument"}, KindName{ErrorKind::not_found, "not_found"},
    KindName{ErrorKind::conflict, "conflict"},                 KindName{ErrorKind::busy, "busy"},
    KindName{ErrorKind::no_space, "no_space"},                 KindName{ErrorKind::denied, "denied"},
    KindName{ErrorKind::unsupported, "unsupported"},           KindName{ErrorKind::corrupt, "corrupt"},
    KindName{ErrorKind::timed_out, "timed_out"},               KindName{ErrorKind::cancelled, "cancelled"},
    KindName{ErrorKind::partial, "partial"},                   KindName{ErrorKind::unavailable, "unavailable"},           KindName{ErrorKind::peer_failed, "peer_failed"},
    KindName{ErrorKind::io, "io"},                             KindName{ErrorKind::internal, "internal"},
};

ErrorKind kind_of(int error_number) {
  switch (error_number) {
    case ENOENT:
    case ENOTDIR: return ErrorKind::not_found;
    case EACCES:
    case EPERM: return ErrorKind::denied;
    case ENOSPC:
    case ENOMEM:
    case EDQUOT: return ErrorKind::no_space;
    default: return ErrorKind::io;
  }
}

}  // namespace

Error Error::within(std::string_view where) const& {
  Error copy = *this;
  copy.sentence = fmt::format("{}: {}", where, sentence);
  return copy;
}

Error Error::with_fact(std::string name, std::string value) && {
  facts.emplace_back(std::move(name), std::move(value));
  return std::move(*this);
}

Error Error::with_vendor(std::string text) && {
  vendor = std::move(text);
  return std::move(*this);
}

Error system_error(int error_number, std::string_view what) {
  return Error{kind_of(error_number), fmt::format("{}: {}", what, std::system_category().message(error_number))};
}

std::string_view name_of(ErrorKind kind) {
  for (const auto& entry : kNames)
    if (entry.kind == kind) return entry.name;
  return "internal";
}

ErrorKind error_kind_named(std::string_view name) {
  for (const auto& entry : kNames)
    if (entry.name == name) return entry.kind;
  return ErrorKind::internal;
}

}  // namespace ckptd
