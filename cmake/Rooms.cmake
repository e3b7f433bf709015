# ckptd_room(NAME SOURCES ... [LEANS_ON room...] [PACKAGES target...])
#
# One static library for each room. LEANS_ON is the "may lean on" column of docs/ARCHITECTURE.md: link lists are what
# the linker sees, tests/unit/includes compares the same column with the real #includes.
function(ckptd_room name)
  cmake_parse_arguments(ROOM "" "" "SOURCES;LEANS_ON;PACKAGES" ${ARGN})
  add_library(ckptd_${name} STATIC ${ROOM_SOURCES})
  target_include_directories(ckptd_${name} PUBLIC ${PROJECT_SOURCE_DIR})
  target_compile_definitions(ckptd_${name} PUBLIC CKPTD_VERSION="${PROJECT_VERSION}")
  target_link_libraries(ckptd_${name} PUBLIC ckptd_sanitizers fmt::fmt Threads::Threads PRIVATE ckptd_warnings)
  foreach(room IN LISTS ROOM_LEANS_ON)
    target_link_libraries(ckptd_${name} PUBLIC ckptd_${room})
  endforeach()
  target_link_libraries(ckptd_${name} PUBLIC ${ROOM_PACKAGES})
endfunction()

# ckptd_test(NAME SOURCES ... LEANS_ON room... [LABELS label...] [PACKAGES target...] [SUPPORT target...])
#
# One Catch2 program for each room under test, one CTest entry for the program. CTest labels: unit, contract, golden.
function(ckptd_test name)
  cmake_parse_arguments(TEST "" "" "SOURCES;LEANS_ON;LABELS;PACKAGES;SUPPORT" ${ARGN})
  add_executable(${name} ${TEST_SOURCES})
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests)
  target_link_libraries(${name} PRIVATE ckptd_warnings ckptd_test_main ${TEST_SUPPORT} ${TEST_PACKAGES})
  foreach(room IN LISTS TEST_LEANS_ON)
    target_link_libraries(${name} PRIVATE ckptd_${room})
  endforeach()
  add_test(NAME ${name} COMMAND ${name})
  set_tests_properties(${name} PROPERTIES LABELS "${TEST_LABELS}" TIMEOUT 300)
endfunction()
