// Names that nobody can guess, from the kernel's generator.
#pragma once

#include <cstddef>
#include <string>

namespace ckptd {

/// `length` characters of [a-z0-9], 5.17 bits each.
std::string random_name(std::size_t length);

}  // namespace ckptd
