#include "tests/support/reference_rank/rank.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <fstream>
#include <optional>
#include <thread>
#include <zmq.hpp>

#include "tests/support/reference_rank/cuda_memory.h"
#include "tests/support/reference_rank/pickle_reader.h"
#include "tests/support/reference_rank/python_error.h"
#include "tests/support/reference_rank/torch_counter.h"

namespace ckptd::reference_rank {
namespace {

using Kind = Value::Kind;
using namespace std::chrono_literals;

/// Thrown when the owner gave up on the update; no Python worker has this.
struct GivenUp {};

constexpr auto kPatience = 20ms;

/// torch.from_file(path, shared=True, size): a shared mapping, opened for writing as torch does.
class MappedFile {
 public:
  MappedFile() = default;
  MappedFile(const std::string& path, std::int64_t bytes) {
    int fd = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
    if (fd < 0)
      throw PythonError("RuntimeError", fmt::format("unable to open file <{}>: {}", path, std::strerror(errno)));
    struct stat info{};
    bool fits = ::fstat(fd, &info) == 0 && bytes > 0 && info.st_size >= bytes;
    if (fits) address_ = ::mmap(nullptr, static_cast<std::size_t>(bytes), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    ::close(fd);
    if (!fits || address_ == MAP_FAILED)
      throw PythonError("RuntimeError", fmt::format("unable to map {} bytes of file <{}>", bytes, path));
    bytes_ = static_cast<std::size_t>(bytes);
  }
  MappedFile(MappedFile&& other) noexcept { *this = std::move(other); }
  MappedFile& operator=(MappedFile&& other) noexcept {
    std::swap(address_, other.address_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~MappedFile() {
    if (bytes_ > 0) ::munmap(address_, bytes_);
  }

  std::span<const std::byte> content() const { return {static_cast<const std::byte*>(address_), bytes_}; }

 private:
  void* address_ = nullptr;
  std::size_t bytes_ = 0;
};

/// A name that torch lacks is an AttributeError while the message is read, outside of what answers with a traceback.
void check_globals(const Value& value) {
  static constexpr std::string_view kTorch = "torch ";
  static constexpr std::array kKnown{
      "torch from_file",   "torch Tensor",          "torch.storage TypedStorage",
      "functools partial", "builtins RuntimeError", "torch.multiprocessing.reductions rebuild_cuda_tensor"};
  if (value.is(Kind::global) && std::ranges::find(kKnown, value.text) == kKnown.end() &&
      !(value.text.starts_with(kTorch) && torch_type_named(std::string_view(value.text).substr(kTorch.size()))))
    throw PythonError("AttributeError", "module has no attribute: " + value.text);
  for (const auto& item : value.items) check_globals(item);
}

/// functools.partial(torch.from_file, dtype=torch.uint8) as its own reduction: called with the function alone, then
/// given (function, arguments, keywords, __dict__).
bool is_from_file_as_bytes(const Value& value) {
  if (!value.is(Kind::call) || value.items.size() != 3 || !value.items[0].is_global("functools partial")) return false;
  const auto& arguments = value.items[1].items;
  const auto& state = value.items[2];
  if (arguments.size() != 1 || !arguments[0].is_global("torch from_file")) return false;
  return state.is(Kind::tuple) && state.items.size() == 4 && state.items[0].is_global("torch from_file") &&
         state.items[1].is(Kind::tuple) && state.items[1].items.empty() && state.items[2].is(Kind::dict) &&
         state.items[2].items.size() == 2 && state.items[2].at("dtype").is_global("torch uint8") &&
         state.items[3].is(Kind::none);
}

bool is_exception(const Value& value) {
  return value.is(Kind::call) && value.items.size() == 2 && value.items[0].is_global("builtins RuntimeError");
}

/// pickle.dumps(RuntimeError(text)) in protocol 4, as pyzmq's send_pyobj has it.
std::string pickled_runtime_error(std::string text) {
  using namespace std::string_literals;
  text.resize(std::min<std::size_t>(text.size(), 255));
  const auto body = "\x8c\x08" "builtins\x94\x8c\x0c" "RuntimeError\x94\x93\x94\x8c"s + static_cast<char>(text.size()) +
                    text + "\x94\x85\x94R\x94."s;
  return "\x80\x04\x95"s + static_cast<char>(body.size() & 0xff) + static_cast<char>(body.size() >> 8) +
         std::string(6, '\0') + body;
}

[[noreturn]] void raise_exception(const Value& value) {
  const auto& arguments = value.items[1].items;
  throw PythonError("RuntimeError", arguments.empty() ? "" : arguments[0].text);
}

}  // namespace

/// The sender's memory, as a file or as CUDA's.
class Rank::Buffer {
 public:
  explicit Buffer(bool pretend_cuda) : pretend_cuda_(pretend_cuda) {}
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { close(); }

  void open(const Value& handle, const std::string& device) {
    if (!handle.is(Kind::tuple)) throw PythonError("AssertionError", "");
    if (handle.items.size() != 2) throw PythonError("ValueError", "not two values to unpack");
    const auto& arguments = handle.items[1];
    if (!arguments.is(Kind::tuple)) throw PythonError("TypeError", "arguments must be a tuple");
    if (handle.items[0].is_global("torch.multiprocessing.reductions rebuild_cuda_tensor"))
      return open_cuda(arguments.items, device);
    if (!is_from_file_as_bytes(handle.items[0])) throw PythonError("TypeError", "a callable that is not known");
    open_file(arguments.items);
  }

  /// Unmaps, and then says so.
  void close() {
    file_ = MappedFile();
    cuda_.reset();
    if (counter_file_.empty()) return;
    for (int i = 0; i < counts; ++i) count_down(counter_file_, counter_);
    counter_file_.clear();
  }

  /// As torch does for memory that it has mapped because of an earlier offer: that one's counter is the mapping's.
  void count_at_once() {
    count_down(counter_file_, counter_);
    counts = 0;
  }

  /// What is in it now.
  std::span<const std::byte> content() {
    if (!pretended_.empty()) return pretended_;
    return cuda_ ? cuda_->content() : file_.content();
  }

  int counts = 1;  ///< how often close() counts down

 private:
  void open_file(const std::vector<Value>& arguments) {
    if (arguments.size() != 3 || !arguments[0].is(Kind::text) || !arguments[1].is(Kind::boolean) ||
        arguments[1].integer != 1 || !arguments[2].is(Kind::integer))
      throw PythonError("TypeError", "from_file(): argument types");
    file_ = MappedFile(arguments[0].text, arguments[2].integer);
  }

  /// The fifteen arguments, in the order of torch; a flat tensor of bytes that is the whole storage.
  void open_cuda(const std::vector<Value>& a, const std::string& device) {
    const auto is_integer = [&](std::size_t i, std::int64_t value) { return a[i].is(Kind::integer) && a[i].integer == value; };
    const auto is_one = [&](std::size_t i) {
      return a[i].is(Kind::tuple) && a[i].items.size() == 1 && a[i].items[0].is(Kind::integer);
    };
    const auto is_false = [&](std::size_t i) { return a[i].is(Kind::boolean) && a[i].integer == 0; };
    if (a.size() != 15) throw PythonError("TypeError", "rebuild_cuda_tensor() takes 15 arguments");
    if (!a[0].is_global("torch Tensor") || !is_one(1) || !is_one(2) || a[2].items[0].integer != 1 || !is_integer(3, 0) ||
        !a[4].is_global("torch.storage TypedStorage") || !a[5].is_global("torch uint8") || !a[6].is(Kind::integer) ||
        !a[7].is(Kind::bytes) || !is_integer(8, a[1].items[0].integer) || !is_integer(9, 0) || !is_false(10) ||
        !a[11].is(Kind::bytes) || !a[12].is(Kind::integer) || !a[13].is(Kind::bytes) || !is_false(14))
      throw PythonError("TypeError", "rebuild_cuda_tensor(): argument types");
    if (pretend_cuda_)
      pretended_.resize(static_cast<std::size_t>(a[8].integer));
    else
      cuda_.emplace(device, a[7].text, static_cast<std::size_t>(a[8].integer));
    counter_file_ = a[11].text;
    counter_ = a[12].integer;
  }

  const bool pretend_cuda_;
  MappedFile file_;
  std::optional<CudaMemory> cuda_;
  std::vector<std::byte> pretended_;
  std::string counter_file_;  ///< empty: nothing to count
  std::int64_t counter_ = 0;
};

bool Fault::is_known(const std::string& kind) {
  static constexpr std::array kKinds{"none",           "fail_load",    "stall",         "die",  "fail_open",
                                     "fail_post_hook", "connect_late", "connect_twice", "slow", "slow_post_hook",
                                     "keep_memory",    "unmap_late",   "count_twice",
                                     "cached_memory",  "leave_early",   "close_late",
                                     "return_late",    "overlap_sessions", "swallow_post_hook",
                                     "slow_to_return"};
  return std::ranges::find(kKinds, kind) != kKinds.end();
}

class Rank::Conversation {
 public:
  Conversation(Rank& rank, const Fault& fault, Model& model)
      : rank_(rank),
        fault_(fault),
        model_(model),
        socket_(context_, zmq::socket_type::rep),
        second_socket_(context_, zmq::socket_type::rep) {
    socket_.set(zmq::sockopt::rcvtimeo, static_cast<int>(kPatience.count()));
    second_socket_.set(zmq::sockopt::linger, 0);
  }

  void connect(const std::string& endpoint) try {
    if (fault_.kind == "connect_late" || fault_.kind == "return_late") sleep();
    socket_.connect(endpoint);
    if (fault_.kind == "connect_twice") second_socket_.connect(endpoint);
  } catch (const GivenUp&) {
    socket_.set(zmq::sockopt::linger, 0);
    throw;
  }

  void hold() try {
    if (dialect() != Dialect::a) open_first();
    while (!finished_) take_step();
    if (fault_.kind == "close_late") sleep();
    if (dialect() == Dialect::d && fault_.kind != "unmap_late") return;
    // The others unmap when they have closed their socket, and not before.
    socket_.close();
    if (fault_.kind == "unmap_late") sleep();
    unmap();
  } catch (const GivenUp&) {
    socket_.set(zmq::sockopt::linger, 0);
    throw;
  }

 private:
  Dialect dialect() const { return rank_.options_.dialect; }

  void open(const Value& handle) {
    if (fault_.kind == "fail_open") throw PythonError("RuntimeError", "the fault fail_open was asked for");
    buffer_->open(handle, rank_.options_.device);
    if (fault_.kind == "cached_memory") buffer_->count_at_once();
    send("");
  }

  void open_first() {
    try {
      open(receive());
    } catch (const PythonError& error) {
      answer(error);
      receive_bytes();  // an acknowledgement of the traceback, of any content
      throw;
    }
  }

  void take_step() {
    auto payload = receive();
    if (released_) {
      if (!payload.is(Kind::none)) throw PythonError("AssertionError", "Should not receive any payload after released");
      return finish();
    }
    if (payload.is(Kind::none)) return dialect() == Dialect::d ? release() : finish();
    if (dialect() == Dialect::a && payload.is(Kind::tuple)) return open(payload);
    if (payload.is(Kind::list)) return load_and_answer(payload);
    if (dialect() == Dialect::a) throw PythonError("AssertionError", "");
    if (is_exception(payload)) raise_exception(payload);
    throw PythonError("TypeError", "Unexpected payload type");
  }

  void finish() {
    if (fault_.kind == "fail_post_hook") throw PythonError("RuntimeError", "the fault fail_post_hook was asked for");
    if (fault_.kind == "slow_post_hook" || fault_.kind == "slow_to_return") sleep();
    send("");
    finished_ = true;
  }

  void release() {
    if (fault_.kind != "unmap_late") unmap();
    released_ = true;
    send("");
    if (fault_.kind == "leave_early") throw PythonError("KeyboardInterrupt", "");
  }

  /// keep_memory is a model with a parameter that is a view of the buffer; unmap_late is a worker that unmaps a while after
  /// it has sent its last word.
  void unmap() {
    if (!buffer_) return;
    if (fault_.kind == "count_twice") buffer_->counts = 2;
    if (fault_.kind == "keep_memory") rank_.kept_.push_back(std::move(buffer_));
    if (buffer_) buffer_->close();
  }

  /// As the dialect tells of an error; the first one tells nothing.
  void answer(const PythonError& error) {
    if (dialect() == Dialect::a) throw error;
    send(dialect() == Dialect::b ? pickled_runtime_error(error.what()) : error.traceback());
  }

  /// An error is answered and not raised: all ranks are to leave by the sender's exception.
  void load_and_answer(const Value& list) try {
    ++rank_.buckets_;
    load(list);
    send("");
  } catch (const PythonError& error) {
    answer(error);
  }

  void load(const Value& list) {
    bool faulty = list_number_++ == fault_.bucket;
    if (faulty && fault_.kind == "die") ::raise(SIGKILL);
    if (faulty && fault_.kind == "fail_load") throw PythonError("RuntimeError", "the fault fail_load was asked for");
    const auto content = buffer_->content();
    for (const auto& item : list.items) load_tensor(item, content);
    if ((faulty && fault_.kind == "stall") || fault_.kind == "slow") sleep();
  }

  void load_tensor(const Value& item, std::span<const std::byte> content) {
    const auto& dtype = item.at("dtype");
    if (!dtype.is(Kind::global)) throw PythonError("AttributeError", "no itemsize");
    auto type = torch_type_named(std::string_view(dtype.text).substr(dtype.text.find(' ') + 1));
    if (!type) throw PythonError("AttributeError", "no itemsize");
    std::vector<std::int64_t> shape;
    for (const auto& extent : item.at("shape").items) shape.push_back(extent.integer);
    auto bytes = view_of(content, *type, shape, item.at("offset").integer);
    if (rank_.options_.acknowledge_only) return;
    model_[item.at("name").text] = {std::string(type->torch_name), shape, {bytes.begin(), bytes.end()}};
  }

  Value receive() {
    auto value = read_pickle(receive_bytes());
    check_globals(value);
    return value;
  }

  std::string receive_bytes() {
    zmq::message_t message;
    while (!socket_.recv(message)) leave_if_given_up();
    return message.to_string();
  }

  void send(const std::string& reply) { socket_.send(zmq::buffer(reply), zmq::send_flags::none); }

  void sleep() {
    if (!fault_.gate.empty()) std::ofstream{fault_.gate + "." + rank_.options_.device};
    auto until = std::chrono::steady_clock::now() + std::chrono::duration<double>(fault_.seconds);
    while (std::chrono::steady_clock::now() < until && !gate_is_open() && !rank_.options_.goes_on()) {
      leave_if_given_up();
      std::this_thread::sleep_for(kPatience);
    }
  }

  bool gate_is_open() const { return !fault_.gate.empty() && ::access(fault_.gate.c_str(), F_OK) == 0; }

  void leave_if_given_up() const {
    if (rank_.options_.given_up()) throw GivenUp();
  }

  Rank& rank_;
  const Fault fault_;
  Model& model_;
  zmq::context_t context_;  // terminated last, which waits until the socket's last reply has been delivered
  zmq::socket_t socket_, second_socket_;
  std::unique_ptr<Buffer> buffer_ = std::make_unique<Buffer>(rank_.options_.pretend_cuda);
  std::uint32_t list_number_ = 0;
  bool released_ = false, finished_ = false;
};

Rank::Rank(Options options) : options_(std::move(options)) {}
Rank::~Rank() = default;

void Rank::forget() {
  model_.clear();
  draft_.clear();
  kept_.clear();
}

/// slow_to_return is a rank that takes its time in the post hook of the session, and as long again until it is back.
Fault Rank::fault_in(std::uint32_t session, const Fault& fault) {
  if (session == fault.session) return fault;
  if (fault.kind == "slow_to_return" && session == fault.session + 1)
    return {.kind = "return_late", .bucket = 0, .seconds = fault.seconds, .session = session};
  return {};
}

Outcome Rank::update(const std::string& endpoint, const Fault& fault) try {
  std::unique_ptr<Conversation> before;
  for (std::uint32_t session = 0; session < options_.sessions; ++session) {
    auto now = std::make_unique<Conversation>(*this, fault_in(session, fault), session == 0 ? model_ : draft_);
    now->connect(endpoint);
    if (fault.kind == "overlap_sessions") std::this_thread::sleep_for(100ms);
    before.reset();
    now->hold();
    ++sessions_;
    if (fault.kind == "overlap_sessions") before = std::move(now);
  }
  ++updates_;
  return {true, {}};
} catch (const PythonError& error) {
  return {false, error.traceback()};
} catch (const GivenUp&) {
  return {false, "the update was given up from outside"};
} catch (const std::exception& error) {
  return {false, PythonError("zmq.error.ZMQError", error.what()).traceback()};
}

}  // namespace ckptd::reference_rank
