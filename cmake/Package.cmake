# cpack -G DEB: scripts/package builds what goes in and calls it.
set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME ckptd)
set(CPACK_PACKAGE_VERSION ${PROJECT_VERSION})
set(CPACK_PACKAGE_CONTACT "ckptd <root@localhost>" CACHE STRING "Maintainer of packages built here: NAME <ADDRESS>")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "checkpoint-engine daemon for LLM inference")
set(CPACK_PACKAGE_DESCRIPTION "ckptd reads versions of model checkpoints into pinned host memory and
pushes them into the ranks of running inference engines, which change
their weights without a restart. ckptctl tells it what to do.")
set(CPACK_STRIP_FILES ON)
set(CPACK_SET_DESTDIR ON)  # some files are in /etc
set(CPACK_INSTALL_PREFIX /usr)
set(CPACK_INSTALL_DEFAULT_DIRECTORY_PERMISSIONS
    OWNER_READ OWNER_WRITE OWNER_EXECUTE GROUP_READ GROUP_EXECUTE WORLD_READ WORLD_EXECUTE)
set(CPACK_PRE_BUILD_SCRIPTS ${PROJECT_SOURCE_DIR}/packaging/debian/staged.cmake)

set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION admin)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
# Users, directories and start are systemd's; adding the rest to Depends is dpkg-shlibdeps'.
set(CPACK_DEBIAN_PACKAGE_DEPENDS "systemd (>= 247), init-system-helpers (>= 1.54)")
set(CPACK_DEBIAN_PACKAGE_SUGGESTS "nvidia-persistenced, bash-completion")
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION ON)
set(scripts ${PROJECT_SOURCE_DIR}/packaging/debian)
set(CPACK_DEBIAN_PACKAGE_CONTROL_EXTRA ${scripts}/postinst ${scripts}/prerm ${scripts}/postrm ${scripts}/conffiles)

include(CPack)
