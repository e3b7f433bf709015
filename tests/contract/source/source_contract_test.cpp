#include "tests/contract/source_contract.h"

#include "tests/contract/source/backends.h"

namespace ckptd::tests {

TEMPLATE_TEST_CASE("safetensors: every layout", "", (SafetensorsBackend<OneFile, true>),
                   (SafetensorsBackend<DirectoryOfOne, true>), (SafetensorsBackend<PlainShards, true>),
                   (SafetensorsBackend<IndexedShards, true>),
                   (SafetensorsBackend<HubSnapshot, true>), (SafetensorsBackend<HubFile, true>),
                   (SafetensorsBackend<IndexedShards, false>), (SafetensorsBackend<IndexedShards, true, true>)) {
  SECTION("manifest") { manifest_contract<TestType>(); }
  SECTION("changes") { change_contract<TestType>(); }
  SECTION("stamps") { stamp_contract<TestType>(); }
}

// How bytes are read does not depend on the layout.
TEMPLATE_TEST_CASE("safetensors: direct, cached and in memory", "", (SafetensorsBackend<IndexedShards, true>),
                   (SafetensorsBackend<IndexedShards, false>), (SafetensorsBackend<IndexedShards, true, true>)) {
  SECTION("reads") { read_contract<TestType>(); }
  SECTION("reads of 8 threads") { concurrency_contract<TestType>(); }
  for (bool io_uring : {true, false}) {
    const source::ReaderOptions options{.io_uring = io_uring, .depth = 5};
    SECTION(io_uring ? "reads through io_uring" : "reads through pread") { reader_contract<TestType>(options); }
    SECTION(io_uring ? "truncation with io_uring" : "truncation with pread") { truncation_contract<TestType>(options); }
  }
}

}  // namespace ckptd::tests
