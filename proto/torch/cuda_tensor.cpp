#include "proto/torch/cuda_tensor.h"

namespace ckptd::proto::torch {

void write_rebuild_arguments(pickle::Writer& writer, const SharedBytes& tensor) {
  writer.mark();
  writer.global("torch", "Tensor");        // tensor_cls
  writer.unsigned_integer(tensor.bytes);   // size
  writer.tuple1();
  writer.integer(1);  // stride
  writer.tuple1();
  writer.unsigned_integer(tensor.offset);          // tensor_offset, in elements: bytes
  writer.global("torch.storage", "TypedStorage");  // storage_cls
  writer.global("torch", "uint8");                 // dtype
  writer.integer(0);                               // device index; the rank puts its own here
  writer.bytes(tensor.handle);                     // storage_handle
  writer.unsigned_integer(tensor.storage_bytes);   // storage_size_bytes
  writer.integer(0);                               // storage_offset_bytes
  writer.boolean(false);                           // requires_grad
  writer.bytes({reinterpret_cast<const std::uint8_t*>(tensor.counter_name.data()), tensor.counter_name.size()});
  writer.unsigned_integer(tensor.counter_index);
  writer.bytes({});       // event_handle
  writer.boolean(false);  // event_sync_required: we wait for the copies ourselves before each message
  writer.tuple_from_mark();
}

}  // namespace ckptd::proto::torch
