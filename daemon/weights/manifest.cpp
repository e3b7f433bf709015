#include "daemon/weights/manifest.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <numeric>

namespace ckptd::weights {
namespace {

std::vector<std::size_t> order_of_names(const Manifest& manifest) {
  std::vector<std::size_t> order(manifest.tensors.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::ranges::sort(order, {}, [&](std::size_t i) -> const std::string& { return manifest.tensors[i].name; });
  return order;
}

/// Lengths stand before the texts, so that no two lists have the same description.
void describe(std::string& text, const Tensor& tensor) {
  fmt::format_to(std::back_inserter(text), "{}:{} {} {}\n", tensor.name.size(), tensor.name,
                 safetensors_name(tensor.dtype), fmt::join(tensor.shape, ","));
}

Digest digest_of_text(const std::string& text) { return digest_of(std::as_bytes(std::span(text))); }

}  // namespace

std::uint64_t Manifest::tensor_bytes() const {
  std::uint64_t sum = 0;
  for (const auto& tensor : tensors) sum += tensor.extent.bytes;
  return sum;
}

std::uint64_t Manifest::largest_tensor_bytes() const {
  std::uint64_t largest = 0;
  for (const auto& tensor : tensors) largest = std::max(largest, tensor.extent.bytes);
  return largest;
}

Digest schema_of(const Manifest& manifest) {
  std::string text = "ckptd schema 1\n";
  for (auto i : order_of_names(manifest)) describe(text, manifest.tensors[i]);
  return digest_of_text(text);
}

Digest identity_of(const Manifest& manifest, std::span<const Digest> tensor_digests) {
  std::string text = "ckptd identity 1\n";
  for (auto i : order_of_names(manifest)) {
    describe(text, manifest.tensors[i]);
    text += tensor_digests[i].hex();
    text += '\n';
  }
  return digest_of_text(text);
}

Digest source_stamp_of(const Manifest& manifest) {
  std::string text = "ckptd source 1\n";
  for (const auto& file : manifest.files)
    fmt::format_to(std::back_inserter(text), "{}:{} {}\n", file.path.size(), file.path, file.stamp);
  return digest_of_text(text);
}

std::string show_type(const Tensor& tensor) {
  return fmt::format("{} [{}]", safetensors_name(tensor.dtype), fmt::join(tensor.shape, ","));
}

std::vector<std::string> schema_differences(const Manifest& here, const Manifest& there, std::size_t limit) {
  std::vector<std::string> sentences;
  auto mine = order_of_names(here), theirs = order_of_names(there);
  auto a = mine.begin(), b = theirs.begin();
  while (sentences.size() < limit && (a != mine.end() || b != theirs.end())) {
    const Tensor* left = a == mine.end() ? nullptr : &here.tensors[*a];
    const Tensor* right = b == theirs.end() ? nullptr : &there.tensors[*b];
    if (left && (!right || left->name < right->name)) {
      sentences.push_back(fmt::format("{}: {} here, missing there", left->name, show_type(*left)));
      ++a;
    } else if (right && (!left || right->name < left->name)) {
      sentences.push_back(fmt::format("{}: missing here, {} there", right->name, show_type(*right)));
      ++b;
    } else {
      if (left->dtype != right->dtype || left->shape != right->shape)
        sentences.push_back(fmt::format("{}: {} here, {} there", left->name, show_type(*left), show_type(*right)));
      ++a, ++b;
    }
  }
  return sentences;
}

}  // namespace ckptd::weights
