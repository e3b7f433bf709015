# Every target of ours links ckptd_warnings; headers of external packages are system headers and stay silent.
add_library(ckptd_warnings INTERFACE)
target_compile_options(ckptd_warnings INTERFACE
  -Wall -Wextra -Wpedantic -Wnon-virtual-dtor -Wold-style-cast -Woverloaded-virtual
  -Wcast-align -Wunused -Wconversion -Wno-sign-conversion -Wextra-semi
  # -Wno-restrict: g++ 12 invents overlaps in std::string::assign (GCC bug 105651)
  $<$<CXX_COMPILER_ID:GNU>:-Wshadow=local -Wno-restrict>
  $<$<BOOL:${CKPTD_WERROR}>:-Werror>)
