add_library(ckptd_sanitizers INTERFACE)
if(CKPTD_SANITIZE)
  target_compile_options(ckptd_sanitizers INTERFACE
    -fsanitize=${CKPTD_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  target_link_options(ckptd_sanitizers INTERFACE -fsanitize=${CKPTD_SANITIZE})
endif()
