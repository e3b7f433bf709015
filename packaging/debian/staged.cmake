# Runs over the staged files before they become a package: what Debian wants of them beyond `cmake --install`.
foreach(root IN LISTS CPACK_TEMPORARY_DIRECTORY)
  file(GLOB pages ${root}/usr/share/man/man*/*.[1-9])
  foreach(page IN LISTS pages)
    execute_process(COMMAND gzip -9nf ${page} COMMAND_ERROR_IS_FATAL ANY)
  endforeach()
  file(RENAME ${root}/usr/share/zsh/site-functions ${root}/usr/share/zsh/vendor-completions)  # where Debian's zsh looks
  set(file ${root}/etc/needrestart/conf.d/ckptd.conf)
  configure_file(${CMAKE_CURRENT_LIST_DIR}/../needrestart.conf ${file} COPYONLY)
endforeach()
