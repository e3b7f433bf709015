# cmake --install build/release [--prefix DIR], with DESTDIR honoured.
#
# Configuration is in /etc/ckptd whatever the prefix is (-DCMAKE_INSTALL_SYSCONFDIR= changes it): that is where the manual
# pages and operators look. The unit names the programs of the prefix that is installed to, so it is written then.
set(CMAKE_INSTALL_SYSCONFDIR /etc CACHE PATH "Where ckptd/ckptd.toml is installed")
include(GNUInstallDirs)
set(CMAKE_SKIP_INSTALL_ALL_DEPENDENCY ON)  # installs what was built; tests need not be

install(TARGETS ckptd RUNTIME DESTINATION ${CMAKE_INSTALL_SBINDIR})
install(TARGETS ckptctl RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(FILES docs/man/ckptctl.1 DESTINATION ${CMAKE_INSTALL_MANDIR}/man1)
install(FILES docs/man/ckptd.toml.5 DESTINATION ${CMAKE_INSTALL_MANDIR}/man5)
install(FILES docs/man/ckptd.8 DESTINATION ${CMAKE_INSTALL_MANDIR}/man8)

install(FILES README.md proto/control/openapi.yaml DESTINATION ${CMAKE_INSTALL_DOCDIR})
install(DIRECTORY docs/ DESTINATION ${CMAKE_INSTALL_DOCDIR} FILES_MATCHING PATTERN "*.md" PATTERN man EXCLUDE)
if(EXISTS ${PROJECT_SOURCE_DIR}/LICENSE)
  install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})
endif()

# Where GPUs are meant to be there, auto would take host memory on the day on which the driver is late.
set(auto [[
# [device]
# kind = "auto"        # host: memory that stands in for GPUs; cuda; auto: cuda where there is one
# host_devices = 1]])
set(cuda [[
[device]
kind = "cuda"          # host: memory that stands in for GPUs; cuda: a start without a GPU fails; auto: cuda or else host
# host_devices = 1

# [cuda]
# library = ""         # empty: libcuda.so.1, wherever the dynamic linker finds it
# devices = []         # UUIDs as `nvidia-smi -L` shows them; empty: all]])
set(CKPTD_EXAMPLE_DEVICE ${auto})
if(CKPTD_CUDA)
  set(CKPTD_EXAMPLE_DEVICE ${cuda})
endif()
configure_file(${PROJECT_SOURCE_DIR}/packaging/ckptd.toml.in ${PROJECT_BINARY_DIR}/packaging/ckptd.toml @ONLY)

# A configuration that is there stays: it is the operator's.
install(CODE "
  set(file \"\$ENV{DESTDIR}${CMAKE_INSTALL_FULL_SYSCONFDIR}/ckptd/ckptd.toml\")
  if(EXISTS \"\${file}\")
    message(STATUS \"Kept: \${file}\")
  else()
    file(INSTALL \"${PROJECT_BINARY_DIR}/packaging/ckptd.toml\"
         DESTINATION \"${CMAKE_INSTALL_FULL_SYSCONFDIR}/ckptd\")
  endif()")

# systemd looks below /usr, /usr/local and /etc; for another prefix the operator links what is here.
install(CODE "
  set(SBINDIR \"\${CMAKE_INSTALL_PREFIX}/${CMAKE_INSTALL_SBINDIR}\")
  set(BINDIR \"\${CMAKE_INSTALL_PREFIX}/${CMAKE_INSTALL_BINDIR}\")
  set(SYSCONFDIR \"${CMAKE_INSTALL_FULL_SYSCONFDIR}\")
  configure_file(\"${PROJECT_SOURCE_DIR}/systemd/ckptd.service.in\" \"${PROJECT_BINARY_DIR}/systemd/ckptd.service\" @ONLY)
  file(INSTALL \"${PROJECT_BINARY_DIR}/systemd/ckptd.service\" DESTINATION \"\${CMAKE_INSTALL_PREFIX}/lib/systemd/system\")")
install(FILES systemd/ckptd.sysusers.conf DESTINATION lib/sysusers.d RENAME ckptd.conf)
install(FILES systemd/ckptd.tmpfiles.conf DESTINATION lib/tmpfiles.d RENAME ckptd.conf)

# Shell completion, written by ckptctl itself from its table of commands.
set(completion ${PROJECT_BINARY_DIR}/completion)
set(scripts)
foreach(shell bash zsh fish)
  set(script ${completion}/ckptctl.${shell})
  add_custom_command(OUTPUT ${script} COMMAND sh -c "$<TARGET_FILE:ckptctl> completion ${shell} >${script}"
                     DEPENDS ckptctl VERBATIM)
  list(APPEND scripts ${script})
endforeach()
file(MAKE_DIRECTORY ${completion})
add_custom_target(completion ALL DEPENDS ${scripts})
foreach(program ckptctl ckptd)
  set(from ${completion})
  if(program STREQUAL ckptd)
    set(from ${PROJECT_SOURCE_DIR}/packaging/completion)
  endif()
  install(FILES ${from}/${program}.bash DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions RENAME ${program})
  install(FILES ${from}/${program}.zsh DESTINATION ${CMAKE_INSTALL_DATADIR}/zsh/site-functions RENAME _${program})
  install(FILES ${from}/${program}.fish DESTINATION ${CMAKE_INSTALL_DATADIR}/fish/vendor_completions.d)
endforeach()
