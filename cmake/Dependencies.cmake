# Every external package, once, with the rooms that use it. The Debian packages behind them stand in
# scripts/debian-packages.txt, in the same order.
find_package(Threads REQUIRED)
find_package(PkgConfig REQUIRED)

find_package(spdlog REQUIRED)                                # everywhere: logging; brings fmt, our formatter
find_package(fmt REQUIRED)
find_package(Boost 1.81 REQUIRED CONFIG)                           # common/http, daemon/control: Asio and Beast, headers only
find_package(nlohmann_json 3.11 REQUIRED)                    # proto/control, proto/sglang, daemon/journal, ctl
find_package(CLI11 REQUIRED)                                 # daemon/config, ctl
find_package(tomlplusplus REQUIRED)                          # daemon/config
find_package(simdjson REQUIRED)                              # daemon/source: safetensors headers and indexes
pkg_check_modules(liburing REQUIRED IMPORTED_TARGET liburing)  # daemon/source: queued direct reads
pkg_check_modules(libzmq REQUIRED IMPORTED_TARGET libzmq)    # daemon/ranks, with cppzmq's header zmq.hpp
find_path(CPPZMQ_INCLUDE_DIR zmq.hpp REQUIRED)
pkg_check_modules(libxxhash REQUIRED IMPORTED_TARGET libxxhash)  # daemon/weights: digests
pkg_check_modules(libnuma REQUIRED IMPORTED_TARGET numa)     # daemon/store: where a segment lies
pkg_check_modules(libsystemd REQUIRED IMPORTED_TARGET libsystemd)  # daemon/systemd: sd_notify
pkg_check_modules(prometheus REQUIRED IMPORTED_TARGET prometheus-cpp-core)  # daemon/metrics: registry and text format
if(CKPTD_TESTS)
  find_package(Catch2 2.13 REQUIRED)                         # tests
  find_package(Python3 3.11 REQUIRED COMPONENTS Interpreter)   # tests: scripts of the includes rule, golden and e2e
endif()
