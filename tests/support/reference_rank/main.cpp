// A process that plays one inference rank: JSON objects, one a line, in on stdin and out on stdout, until stdin closes.
// tests/support/torch_rank.py understands the same commands and runs the real Python worker.
#include <poll.h>
#include <unistd.h>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <string_view>

#include "tests/support/reference_rank/compare.h"
#include "tests/support/reference_rank/rank.h"

namespace {

namespace rr = ckptd::reference_rank;
using nlohmann::json;

bool stdin_is_closed() {
  pollfd item{STDIN_FILENO, POLLIN, 0};
  return ::poll(&item, 1, 0) > 0 && (item.revents & POLLIN) == 0 && (item.revents & (POLLHUP | POLLERR)) != 0;
}

class Program {
 public:
  explicit Program(const rr::Options& options) : has_draft_(options.sessions > 1), rank_(options) {}

  json answer(const json& request) {
    auto command = request.at("cmd").get<std::string>();
    if (command == "update") return update(request.at("endpoint"));
    if (command == "compare") return compare(request.at("checkpoint").get<std::string>());
    if (command == "state")
      return {{"tensors", rank_.model().size()},
              {"updates", rank_.updates()},
              {"buckets", rank_.buckets()},
              {"sessions", rank_.sessions()}};
    if (command == "fault") return set_fault(request);
    if (command == "forget") return forget();
    if (command == "checksums") return checksums();
    if (command == "values") return values(request.at("name").get<std::string>(), request.at("count").get<std::size_t>());
    return {{"ok", false}, {"error", "unknown command " + command}};
  }

 private:
  json update(const std::string& endpoint) {
    const bool swallows = fault_.kind == "swallow_post_hook";
    auto outcome = rank_.update(endpoint, std::exchange(fault_, {}));
    if (outcome.ok) unprocessed_ = swallows;
    if (outcome.ok) return {{"ok", true}};
    return {{"ok", false}, {"error", outcome.error}};
  }

  json compare(const std::string& checkpoint) {
    auto comparison = rr::compare(rank_.model(), checkpoint);
    if (comparison.difference.empty() && has_draft_) {
      comparison = rr::compare(rank_.draft(), checkpoint);
      if (!comparison.difference.empty()) comparison.difference = "the draft model: " + comparison.difference;
    }
    if (!comparison.difference.empty()) return {{"equal", false}, {"difference", comparison.difference}};
    return {{"equal", true}, {"tensors", comparison.tensors}, {"bytes", comparison.bytes}};
  }

  json forget() {
    rank_.forget();
    return {{"ok", true}};
  }

  /// FNV-1a of each tensor's bytes. Weights that were not processed after loading are other weights, whatever was loaded.
  json checksums() {
    json sums = json::object();
    for (const auto& [name, tensor] : rank_.model()) {
      std::uint64_t sum = unprocessed_ ? 0x9e3779b97f4a7c15 : 0xcbf29ce484222325;
      for (const auto byte : tensor.bytes) sum = (sum ^ std::to_integer<std::uint64_t>(byte)) * 0x100000001b3;
      char text[17];
      std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(sum));
      sums[name] = text;
    }
    return {{"checksums", std::move(sums)}};
  }

  /// The first values of a one-dimensional tensor of floats, as torch's tolist() has them; null for any other.
  json values(const std::string& name, std::size_t count) {
    const auto at = rank_.model().find(name);
    if (at == rank_.model().end() || at->second.shape.size() != 1) return {{"values", nullptr}};
    const auto& tensor = at->second;
    const bool wide = tensor.dtype == "float32";
    if (!wide && tensor.dtype != "bfloat16") return {{"values", nullptr}};
    json values = json::array();
    const std::size_t width = wide ? 4 : 2;
    for (std::size_t i = 0; i < count && (i + 1) * width <= tensor.bytes.size(); ++i) {
      std::uint32_t bits = 0;  // of a bfloat16 the upper half of a float32
      std::memcpy(reinterpret_cast<std::byte*>(&bits) + (4 - width), tensor.bytes.data() + i * width, width);
      values.push_back(std::bit_cast<float>(bits));
    }
    return {{"values", std::move(values)}};
  }

  json set_fault(const json& request) {
    rr::Fault fault{request.at("kind"), request.value("bucket", 0u), request.value("seconds", 0.0),
                    request.value("session", 0u), request.value("gate", std::string())};
    if (!rr::Fault::is_known(fault.kind)) return {{"ok", false}, {"error", "unknown fault " + fault.kind}};
    fault_ = fault;
    return {{"ok", true}};
  }

  const bool has_draft_;
  rr::Rank rank_;
  rr::Fault fault_;
  bool unprocessed_ = false;  ///< the last post hook failed and nobody was told, as in SGLang
};

rr::Dialect dialect_named(std::string_view letter) {
  constexpr std::string_view kLetters = "ABCD";
  const auto at = letter.size() == 1 ? kLetters.find(letter) : kLetters.npos;
  if (at == kLetters.npos) throw std::invalid_argument("a dialect is A, B, C or D");
  return static_cast<rr::Dialect>(at);
}

rr::Options parse_options(int argc, char** argv) {
  rr::Options options;
  options.given_up = stdin_is_closed;
  for (int i = 1; i < argc; ++i) {
    std::string_view argument = argv[i];
    if (argument == "--acknowledge-only")
      options.acknowledge_only = true;
    else if (argument == "--pretend-cuda")
      options.pretend_cuda = true;
    else if (argument == "--device" && i + 1 < argc)
      options.device = argv[++i];
    else if (argument == "--dialect" && i + 1 < argc)
      options.dialect = dialect_named(argv[++i]);
    else if (argument == "--sessions" && i + 1 < argc)
      options.sessions = static_cast<std::uint32_t>(std::stoul(argv[++i]));
    else
      throw std::invalid_argument(
          "usage: reference_rank [--device HOST-0] [--dialect D] [--sessions 1] [--acknowledge-only] [--pretend-cuda]");
  }
  return options;
}

}  // namespace

int main(int argc, char** argv) try {
  Program program(parse_options(argc, argv));
  for (std::string line; std::getline(std::cin, line);) {
    json answer;
    try {
      answer = program.answer(json::parse(line));
    } catch (const std::exception& error) {
      answer = {{"ok", false}, {"error", error.what()}};
    }
    std::cout << answer.dump(-1, ' ', false, json::error_handler_t::replace) << std::endl;
  }
  return EXIT_SUCCESS;
} catch (const std::exception& error) {
  std::cerr << error.what() << '\n';
  return EXIT_FAILURE;
}
