#include "proto/checkpoint_engine/messages.h"

#include "common/utf8.h"
#include "proto/pickle/writer.h"

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

void write_tensor(Writer& writer, const TensorMetadata& tensor) {
  writer.empty_dict();
  writer.mark();
  writer.text("name");
  writer.text(tensor.name);
  writer.text("dtype");
  writer.global("torch", tensor.torch_dtype);
  writer.text("shape");
  writer.mark();
  for (auto extent : tensor.shape) writer.unsigned_integer(extent);
  writer.tuple_from_mark();
  writer.text("offset");
  writer.unsigned_integer(tensor.offset);
  writer.set_items();
}

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
  writer.mark();
  writer.global("torch", "Tensor");  // tensor_cls
  writer.unsigned_integer(bytes);    // size
  writer.tuple1();
  writer.integer(1);  // stride
  writer.tuple1();
  writer.integer(0);                               // tensor_offset
  writer.global("torch.storage", "TypedStorage");  // storage_cls
  writer.global("torch", "uint8");                 // dtype
  writer.integer(0);                               // device index; the rank puts its own here
  writer.bytes(handle);                            // storage_handle
  writer.unsigned_integer(bytes);                  // storage_size_bytes
  writer.integer(0);                               // storage_offset_bytes
  writer.boolean(false);                           // requires_grad
  writer.bytes({reinterpret_cast<const std::uint8_t*>(counter_name.data()), counter_name.size()});
  writer.unsigned_integer(counter_index);
  writer.bytes({});       // event_handle
  writer.boolean(false);  // event_sync_required: we wait for the copies ourselves before each list
  writer.tuple_from_mark();
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
  for (const auto& tensor : tensors) write_tensor(writer, tensor);
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
