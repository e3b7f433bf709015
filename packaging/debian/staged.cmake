# Runs over the staged files before they become a package: what Debian wants of them beyond `cmake --install`.
execute_process(COMMAND date -R OUTPUT_VARIABLE date OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
foreach(root IN LISTS CPACK_TEMPORARY_DIRECTORY)
  file(GLOB pages ${root}/usr/share/man/man*/*.[1-9])
  foreach(page IN LISTS pages)
    execute_process(COMMAND gzip -9nf ${page} COMMAND_ERROR_IS_FATAL ANY)
  endforeach()
  file(RENAME ${root}/usr/share/zsh/site-functions ${root}/usr/share/zsh/vendor-completions)  # where Debian's zsh looks
  set(changelog ${root}/usr/share/doc/ckptd/changelog)
  file(WRITE ${changelog} "ckptd (${CPACK_PACKAGE_VERSION}) unstable; urgency=medium

  * Packed from source; its history is in git.

 -- ${CPACK_PACKAGE_CONTACT}  ${date}
")
  execute_process(COMMAND gzip -9nf ${changelog} COMMAND_ERROR_IS_FATAL ANY)
  set(file ${root}/etc/needrestart/conf.d/ckptd.conf)
  configure_file(${CMAKE_CURRENT_LIST_DIR}/../needrestart.conf ${file} COPYONLY)
endforeach()
