// The version of this build, from CMake's project().
#pragma once

namespace ckptd {

inline constexpr char kVersion[] = CKPTD_VERSION;

}  // namespace ckptd
