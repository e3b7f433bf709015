// What a version consists of, as plain values: tensors, the files that hold them, and the hashes over them.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "daemon/weights/digest.h"
#include "daemon/weights/dtype.h"

namespace ckptd::weights {

/// A range of bytes of one of a version's files.
struct Extent {
  std::uint32_t file = 0;  ///< index into Manifest::files
  std::uint64_t offset = 0;
  std::uint64_t bytes = 0;
};

struct Tensor {
  std::string name;
  Dtype dtype = Dtype::u8;
  std::vector<std::uint64_t> shape;  ///< empty for a scalar; a zero anywhere means no bytes
  Extent extent;                     ///< extent.bytes == product(shape) * bits_of(dtype) / 8
};

struct File {
  std::string path;              ///< as the source names it; for messages and for reading again
  std::uint64_t bytes = 0;       ///< the whole file
  std::uint64_t data_begin = 0;  ///< first byte that belongs to a tensor; what is before it is header
  std::string stamp;             ///< opaque; differs when the file was changed or replaced (size, times, inode)
};

/// Tensors stand in the order of (file, offset, name): the order in which their bytes lie.
struct Manifest {
  std::vector<File> files;
  std::vector<Tensor> tensors;

  std::uint64_t tensor_bytes() const;          ///< the sum over all tensors
  std::uint64_t largest_tensor_bytes() const;  ///< 0 without tensors
};

/// Hash over names, dtypes and shapes in the order of names: what an engine must agree with.
Digest schema_of(const Manifest& manifest);

/// Hash over scheme number, names, dtypes, shapes and digests (one for each tensor, in the manifest's order), in the
/// order of names: where the bytes lay and how they were sharded does not matter.
Digest identity_of(const Manifest& manifest, std::span<const Digest> tensor_digests);

/// Hash over the files' paths and stamps: the cheap answer to "are these still the files that were loaded?".
Digest source_stamp_of(const Manifest& manifest);

/// Names, dtypes and shapes that differ, at most `limit` sentences such as "lm_head.weight: BF16 [2,3] here, F32 [2,3]
/// there"; empty if none.
std::vector<std::string> schema_differences(const Manifest& here, const Manifest& there, std::size_t limit = 5);

/// "BF16 [4096,1024]", "F32 []".
std::string show_type(const Tensor& tensor);

}  // namespace ckptd::weights
