#include "proto/checkpoint_engine/messages.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "common/utf8.h"
#include "proto/pickle/writer.h"
#include "proto/torch/cuda_tensor.h"

namespace ckptd::proto::checkpoint_engine {
namespace {

using pickle::Writer;

/// A rank prints the sentence into its log and its HTTP answer: nobody reads more than this.
constexpr std::size_t kSentenceLimitBytes = 64 * 1024;

/// functools.partial(torch.from_file, dtype=torch.uint8), in the form in which CPython's own partial pickles itself:
/// the callable alone is called, then __setstate__((function, arguments, keywords, __dict__)) completes it.
void write_from_file_as_bytes(Writer& writer) {
  writer.global("functools", "partial");
  writer.global("torch", "from_file");
  writer.tuple1();
  writer.reduce();
  writer.mark();
  writer.global("torch", "from_file");
  writer.mark();
  writer.tuple_from_mark();
  writer.empty_dict();
  writer.mark();
  writer.text("dtype");
  writer.global("torch", "uint8");
  writer.set_items();
  writer.none();
  writer.tuple_from_mark();
  writer.build();
}

/// What stands between what differs from tensor to tensor. A message has thousands of tensors and few dtypes.
class TensorWriter {
 public:
  explicit TensorWriter(Writer& writer) : writer_(writer) {
    Writer parts;
    parts.empty_dict();
    parts.mark();
    parts.text("name");
    before_name_ = parts.take_part();
    parts.tuple_from_mark();
    parts.text("offset");
    before_offset_ = parts.take_part();
  }

  void write(const TensorMetadata& tensor) {
    writer_.part(before_name_);
    writer_.text(tensor.name);
    writer_.part(before_shape(tensor.torch_dtype));
    for (auto extent : tensor.shape) writer_.unsigned_integer(extent);
    writer_.part(before_offset_);
    writer_.unsigned_integer(tensor.offset);
    writer_.set_items();
  }

 private:
  const std::string& before_shape(std::string_view torch_dtype) {
    const auto known = std::ranges::find(before_shape_, torch_dtype, &std::pair<std::string_view, std::string>::first);
    if (known != before_shape_.end()) return known->second;
    Writer parts;
    parts.text("dtype");
    parts.global("torch", torch_dtype);
    parts.text("shape");
    parts.mark();
    return before_shape_.emplace_back(torch_dtype, parts.take_part()).second;
  }

  Writer& writer_;
  std::string before_name_, before_offset_;
  std::vector<std::pair<std::string_view, std::string>> before_shape_;  ///< by dtype
};

}  // namespace

std::string offer_file(std::string_view path, std::uint64_t bytes) {
  Writer writer;
  write_from_file_as_bytes(writer);
  writer.text(path);
  writer.boolean(true);  // shared: the rank sees what is written after it has mapped the file
  writer.unsigned_integer(bytes);
  writer.tuple3();
  writer.tuple2();
  return writer.take();
}

std::string offer_cuda(std::span<const std::uint8_t, 64> handle, std::uint64_t bytes, std::string_view counter_name,
                       std::uint64_t counter_index) {
  Writer writer;
  writer.global("torch.multiprocessing.reductions", "rebuild_cuda_tensor");
  torch::write_rebuild_arguments(writer, {.handle = handle,
                                          .storage_bytes = bytes,
                                          .offset = 0,
                                          .bytes = bytes,
                                          .counter_name = counter_name,
                                          .counter_index = counter_index});
  writer.tuple2();
  return writer.take();
}

std::string reload(std::span<const TensorMetadata> tensors) {
  constexpr std::size_t kBytesBesideTheName = 96;
  Writer writer;
  std::size_t expected_bytes = 8;
  for (const auto& tensor : tensors) expected_bytes += tensor.name.size() + kBytesBesideTheName;
  writer.reserve(expected_bytes);
  writer.empty_list();
  writer.mark();
  TensorWriter tensor_writer(writer);
  for (const auto& tensor : tensors) tensor_writer.write(tensor);
  writer.appends();
  return writer.take();
}

std::string none() {
  Writer writer;
  writer.none();
  return writer.take();
}

std::string exception(std::string_view sentence) {
  Writer writer;
  writer.global("builtins", "RuntimeError");
  writer.text(replace_invalid_utf8(sentence.substr(0, kSentenceLimitBytes)));
  writer.tuple1();
  writer.reduce();
  return writer.take();
}

}  // namespace ckptd::proto::checkpoint_engine
