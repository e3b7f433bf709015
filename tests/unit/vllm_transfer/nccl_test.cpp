// A server that is given weights by NCCL, over the fake of tests/support/fake_nccl: workers are threads that speak what the
// fake speaks. It proves the order of calls and broadcasts, that each ends the other, and that nobody waits for ever; of
// NVIDIA's library it proves nothing.
#include <atomic>
#include <catch2/catch.hpp>
#include <condition_variable>
#include <cstring>
#include <future>
#include <mutex>
#include <nlohmann/json.hpp>
#include <thread>
#include <vector>

#include "daemon/device/host/host_device.h"
#include "daemon/ranks/vllm_nccl/session.h"
#include "daemon/ranks/vllm_nccl/transfer.h"
#include "tests/support/fake_nccl/device_streams.h"
#include "tests/support/fake_nccl/peer.h"
#include "tests/support/shuffling_device/seed.h"
#include "tests/support/shuffling_device/shuffling_device.h"

using namespace ckptd;
using namespace ckptd::ranks;
using namespace ckptd::tests;
using namespace std::chrono_literals;
using nlohmann::json;
using vllm::Reply;

namespace {

constexpr auto kSoon = 20s;  // nothing here takes as long; a test that hangs fails by it
constexpr const char *kInit = "/init_weight_transfer_engine", *kUpdate = "/update_weights";
constexpr const char *kStart = "/start_weight_update", *kFinish = "/finish_weight_update";

std::string unbase64(const std::string& text) {
  const std::string alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string bytes;
  unsigned bits = 0, have = 0;
  for (const char letter : text.substr(0, text.find('='))) {
    bits = bits << 6 | static_cast<unsigned>(alphabet.find(letter)), have += 6;
    if (have >= 8) bytes.push_back(static_cast<char>(bits >> (have -= 8) & 0xff));
  }
  return bytes;
}

Reply refusal(const std::string& words, unsigned status = 500) {
  return {status, json{{"error", {{"message", words}, {"code", status}}}}.dump(), {}};
}

/// A server whose workers are threads. What a call makes of them is what it answers.
class Server {
 public:
  explicit Server(int workers) : workers(workers), taken(static_cast<std::size_t>(workers)) {}

  /// Before the workers are told; an answer is the server's, and they are not.
  std::function<std::optional<Reply>(const std::string& target, int times)> on;
  /// Of one worker, in place of joining or taking the bytes; true: it has done all that it will do.
  std::function<bool(int worker, const std::string& target, int times)> misbehave;

  const int workers;
  std::vector<std::string> taken;  ///< all bytes, by worker
  std::vector<std::string> calls;
  std::vector<json> bodies;
  std::stop_source give_up;  ///< of workers that hang

  vllm::Send send() {
    return [this](std::string_view method, std::string_view path, std::string body, Deadline,
                  std::stop_token stop) -> Result<Reply> {
      const std::string target(path);
      if (method == "GET") return get(target);
      int times = 0;
      {
        std::lock_guard lock(mutex_);
        calls.push_back(target);
        bodies.push_back(json::parse(body));
        for (const auto& call : calls) times += call == target;
      }
      if (on)
        if (auto answer = on(target, times)) return *answer;
      if (target != kInit && target != kUpdate) return Reply{200, R"({"message":"done"})", {}};
      // The answer, or the end of whoever waits for it: the workers go on by themselves.
      auto done = std::make_shared<std::promise<Reply>>();
      auto answer = done->get_future();
      threads_.emplace_back([this, target, times, body, done] { done->set_value(work(target, times, json::parse(body))); });
      while (answer.wait_for(2ms) != std::future_status::ready)
        if (stop.stop_requested()) return fail(ErrorKind::cancelled, "the request was given up");
      return answer.get();
    };
  }

  std::vector<std::string> posts() {
    std::lock_guard lock(mutex_);
    return calls;
  }
  json body_of(const std::string& target, int which = 0) {
    std::lock_guard lock(mutex_);
    for (std::size_t i = 0; i < calls.size(); ++i)
      if (calls[i] == target && which-- == 0) return bodies[i];
    return {};
  }
  void leave(int worker) { peers_[static_cast<std::size_t>(worker)]->leave(); }
  ~Server() { give_up.request_stop(); }

 private:
  Result<Reply> get(const std::string& target) const {
    if (target.starts_with("/get_world_size")) return Reply{200, json{{"world_size", workers}}.dump(), {}};
    if (target == kStart) return Reply{405, "", {}};
    return Reply{404, R"({"detail":"Not Found"})", {}};
  }

  Reply work(const std::string& target, int times, const json& body) {
    if (target == kInit) {
      peers_.clear();
      const auto& info = body["init_info"];
      for (int worker = 0; worker < workers; ++worker)
        peers_.push_back(std::make_unique<tests::Peer>(unbase64(info["nccl_unique_id_b64"]),
                                                worker + info["rank_offset"].get<int>(), info["world_size"].get<int>()));
    }
    std::atomic<bool> well = true;
    std::vector<std::jthread> each;
    for (int worker = 0; worker < workers; ++worker)
      each.emplace_back([&, worker] {
        if (misbehave && misbehave(worker, target, times)) return;
        auto& peer = *peers_[static_cast<std::size_t>(worker)];
        if (target == kInit) {
          if (!peer.join() || peer.sum(0) != 0.0F) well = false;
          return;
        }
        auto bytes = peer.take(bytes_of(body["update_info"]));
        if (!bytes) well = false;
        if (bytes) taken[static_cast<std::size_t>(worker)] += *bytes;
      });
    each.clear();
    return well ? Reply{200, R"({"message":"done"})", {}} : refusal("NCCL error: remote process exited");
  }

  static std::size_t bytes_of(const json& info) {
    std::size_t bytes = 0;
    for (std::size_t i = 0; i < info["names"].size(); ++i) {
      std::size_t size = info["dtype_names"][i] == "float32" ? 4 : 2;
      for (const auto& extent : info["shapes"][i]) size *= extent.get<std::size_t>();
      bytes += size;
    }
    return bytes;
  }

  std::mutex mutex_;
  std::vector<std::unique_ptr<tests::Peer>> peers_;
  std::vector<std::jthread> threads_;
};

void hang(const Server& server) {
  std::mutex mutex;
  std::unique_lock lock(mutex);
  std::condition_variable_any sleep;
  sleep.wait_for(lock, server.give_up.get_token(), kSoon, [] { return false; });
}

/// The daemon's side: a device that is not a host device to NCCL, and little patience.
struct House {
  explicit House(collective::nccl::Patience patience = {.start = 10s, .drain = 5s, .stuck = 5s})
      : shuffler(seed_of_run()), device(shuffler.wrap(device::host::make_host_device(0))) {
    fake_nccl_begin(&device_streams(), seed_of_run());
    fake_nccl_set_network(1);
    links = std::make_shared<vllm_nccl::Links>([] { return collective::nccl::Library::open(CKPTD_FAKE_NCCL); },
                                               device_natives(standing), patience);
    auto memory = device->allocate(kArena);
    REQUIRE(memory);
    arena = *std::move(memory);
    auto* at = reinterpret_cast<char*>(arena->range().address);
    for (std::size_t i = 0; i < kArena; ++i) at[i] = static_cast<char>(i * 7 + i / 256);
  }
  ~House() {
    links->drop_idle();
    links.reset();
    CHECK(std::string(fake_nccl_last_complaint()) == "");
    CHECK(fake_nccl_communicators() == 0);
    CHECK(standing.given_up == 0);
  }
  std::string bytes(std::size_t offset, std::size_t count) const {
    return {reinterpret_cast<const char*>(arena->range().address) + offset, count};
  }

  static constexpr std::size_t kArena = 4096;
  Standing standing;
  Shuffler shuffler;
  std::unique_ptr<device::Device> device;
  std::unique_ptr<device::Allocation> arena;
  std::shared_ptr<vllm_nccl::Links> links;
};

/// An update whose lane is this thread.
class Update {
 public:
  Update(House& house, Server& server, vllm_nccl::Options options = {.engine = "v0", .weight_version = "7", .server = kServer})
      : transfer_(vllm_nccl::make_transfer(std::move(options), server.send(), house.links)) {
    auto opened = transfer_->open("v0", "HOST-0");
    REQUIRE(opened);
    session = *std::move(opened);
    transfer_->lend(*house.device, house.arena->range());
    run_ = std::async(std::launch::async, [this] { return transfer_->run(kSoon, stop_.get_token()); });
  }
  ~Update() {
    session.reset();
    if (run_.valid()) run_.wait();
  }

  void step(Result<> sent) {
    REQUIRE(sent);
    auto woken = session->wait({}, Deadline::in(kSoon));
    if (!woken) FAIL(woken.error().sentence);
    CHECK(*woken == Session::Woken::acknowledged);
  }
  Result<> send(std::uint32_t number, std::uint64_t slot) {
    static const std::vector<std::uint64_t> shape{40}, scalar;
    const std::vector<TensorView> tensors{{"a", weights::Dtype::bf16, shape, slot},
                                          {"b", weights::Dtype::f32, scalar, slot + 80}};
    return session->reload(tensors, number);
  }
  void offer() { step(session->offer(device::HostExport{"/f", House::kArena})); }
  void reload(std::uint32_t number, std::uint64_t slot) { step(send(number, slot)); }
  void all() {
    offer();
    reload(0, 0);
    reload(1, 256);
    step(session->release());
    step(session->finish());
    auto said = answer();
    if (!said) FAIL(said.error().sentence);
  }
  Error failed() {
    auto woken = session->wait({}, Deadline::in(kSoon));
    REQUIRE_FALSE(woken);
    return woken.error();
  }
  Result<std::string> answer() {
    REQUIRE(run_.wait_for(kSoon) == std::future_status::ready);
    return run_.get();
  }
  void stop() { stop_.request_stop(); }

  static constexpr ProcessId kServer{4711, 42};
  std::unique_ptr<Session> session;

 private:
  std::unique_ptr<Transfer> transfer_;
  std::stop_source stop_;
  std::future<Result<std::string>> run_;
};

bool says(const Error& error, const std::string& part) {
  INFO(error.sentence);
  return error.sentence.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("every worker takes every byte, and one call is one broadcast") {
  House house;
  Server server(3);
  Update update(house, server);
  update.all();
  CHECK(server.posts() == std::vector<std::string>{kInit, kStart, kUpdate, kUpdate, kFinish});
  for (const auto& taken : server.taken) CHECK(taken == house.bytes(0, 84) + house.bytes(256, 84));
  const auto init = server.body_of(kInit)["init_info"];
  CHECK(init["world_size"] == 4);
  CHECK(init["rank_offset"] == 1);
  CHECK(init["packed"] == true);
  CHECK_FALSE(init.contains("master_address"));
  const auto info = server.body_of(kUpdate, 1)["update_info"];
  CHECK(info == json{{"names", {"a", "b"}}, {"dtype_names", {"bfloat16", "float32"}}, {"shapes", {{40}, {1}}}});
  CHECK(server.body_of(kFinish) == json{{"weight_version", "7"}});
  CHECK_FALSE(update.session->hold());
}

TEST_CASE("the workers of a server join once, as long as it is the same process") {
  House house;
  Server server(2);
  for (int i = 0; i < 2; ++i) Update(house, server).all();
  CHECK(fake_nccl_calls("ncclCommInitRankConfig") == 1);
  SECTION("one that was started anew is joined anew") {
    Update(house, server, {.engine = "v0", .server = ProcessId{4711, 43}}).all();
    CHECK(fake_nccl_calls("ncclCommInitRankConfig") == 2);
  }
  SECTION("so is one that cannot be seen, each time") {
    for (int i = 0; i < 2; ++i) Update(house, server, {.engine = "v0", .server = {}}).all();
    CHECK(fake_nccl_calls("ncclCommInitRankConfig") == 3);
  }
  SECTION("what waits for its next update is given back when it is asked for") {
    CHECK(house.links->drop_idle() == 1);
    CHECK(house.links->drop_idle() == 0);
    CHECK(fake_nccl_communicators() == 0);
    Update(house, server).all();
    CHECK(fake_nccl_calls("ncclCommInitRankConfig") == 2);
  }
  SECTION("one whose worker has gone meanwhile is noticed before the model is touched") {
    fake_nccl_break(0, 6);
    Update(house, server).all();
    CHECK(fake_nccl_calls("ncclCommInitRankConfig") == 2);
  }
}

TEST_CASE("a second device is refused with what to do") {
  House house;
  Server server(1);
  auto transfer = vllm_nccl::make_transfer({.engine = "v0"}, server.send(), house.links);
  auto first = transfer->open("v0", "HOST-0");
  REQUIRE(first);
  auto second = transfer->open("v0", "HOST-1");
  REQUIRE_FALSE(second);
  CHECK(second.error().kind == ErrorKind::invalid_argument);
  CHECK(says(second.error(), "the one device of this node that sends"));
}

TEST_CASE("a vLLM that knows no unique id is told apart before its model is touched") {
  House house;
  Server server(2);
  server.on = [](const std::string& target, int) -> std::optional<Reply> {
    if (target != kInit) return {};
    return refusal("NCCLWeightTransferInitInfo.__init__() got an unexpected keyword argument 'nccl_unique_id_b64'");
  };
  Update update(house, server);
  REQUIRE(update.session->offer(device::HostExport{"/f", House::kArena}));
  update.failed();
  const auto answer = update.answer();
  REQUIRE_FALSE(answer);
  CHECK(answer.error().kind == ErrorKind::unsupported);
  CHECK(says(answer.error(), "vllm-project/vllm#53784"));
  CHECK(server.posts() == std::vector<std::string>{kInit});
}

TEST_CASE("a worker that does not join ends the update before the model is touched") {
  House house({.start = 300ms, .drain = 5s, .stuck = 5s});
  Server server(2);
  server.misbehave = [&](int worker, const std::string& target, int times) {
    if (worker != 1 || target != kInit || times != 1) return false;
    hang(server);
    return true;
  };
  Update update(house, server);
  REQUIRE(update.session->offer(device::HostExport{"/f", House::kArena}));
  const auto error = update.failed();
  CHECK(error.kind == ErrorKind::timed_out);
  CHECK(says(error, "of 2 workers not all have joined NCCL with HOST-0"));
  const auto answer = update.answer();
  REQUIRE_FALSE(answer);
  CHECK(says(answer.error(), "timeouts.nccl_start"));
  CHECK(says(answer.error(), "restart it"));
  CHECK(server.posts() == std::vector<std::string>{kInit});
  CHECK_FALSE(update.session->touched());
}

TEST_CASE("a server that says no while we broadcast ends the broadcast, and its words are the error") {
  House house;
  Server server(2);
  server.on = [](const std::string& target, int times) -> std::optional<Reply> {
    if (target != kUpdate || times != 2) return {};
    return refusal("There is no module or parameter named 'b'");
  };
  Update update(house, server);
  update.offer();
  update.reload(0, 0);
  REQUIRE(update.send(1, 256));
  update.failed();
  const auto answer = update.answer();
  REQUIRE_FALSE(answer);
  CHECK(answer.error().kind == ErrorKind::peer_failed);
  CHECK(answer.error().vendor == "There is no module or parameter named 'b'");
  CHECK(says(answer.error(), "was closed, so that it lives on"));
  CHECK(server.posts() == std::vector<std::string>{kInit, kStart, kUpdate, kUpdate, kFinish});
  CHECK(fake_nccl_communicators() == 0);
  SECTION("and the next update begins anew") {
    server.on = {};
    Update(house, server).all();
    CHECK(fake_nccl_calls("ncclCommInitRankConfig") == 2);
  }
}

TEST_CASE("a server that says yes to what nobody took is not believed") {
  House house;
  Server server(2);
  server.on = [](const std::string& target, int times) -> std::optional<Reply> {
    if (target == kUpdate && times == 1) return Reply{200, R"({"message":"Weights updated"})", {}};
    return {};
  };
  Update update(house, server, {.engine = "v0", .server = Update::kServer, .grace = 100ms});
  update.offer();
  REQUIRE(update.send(0, 0));
  update.failed();
  const auto answer = update.answer();
  REQUIRE_FALSE(answer);
  CHECK(says(answer.error(), "the server answered success to POST /update_weights, and not all of its 2 workers"));
}

TEST_CASE("a worker that dies in a broadcast is heard of, and nobody here waits for it") {
  House house;
  Server server(2);
  server.misbehave = [&](int worker, const std::string& target, int) {
    if (target != kUpdate || worker == 0) return false;  // which waits in NCCL
    server.leave(worker);
    return true;
  };
  Update update(house, server);
  update.offer();
  REQUIRE(update.send(0, 0));
  update.failed();
  const auto answer = update.answer();
  REQUIRE_FALSE(answer);
  CHECK(answer.error().kind == ErrorKind::peer_failed);
  CHECK(says(answer.error(), "remote process exited"));
  CHECK_FALSE(update.session->hold());  // NCCL has let go of the arena
}

TEST_CASE("a worker that takes no part is waited for until the bucket's deadline, and is what the sentence names") {
  House house;
  Server server(2);
  server.misbehave = [&](int worker, const std::string& target, int) {
    if (target != kUpdate || worker != 1) return false;
    hang(server);
    return true;
  };
  Update update(house, server, {.engine = "v0", .server = Update::kServer, .grace = 100ms, .words = 100ms});
  update.offer();
  REQUIRE(update.send(0, 0));
  const auto under_way = [&] { return server.posts().back() == kUpdate && fake_nccl_calls("ncclBroadcast") > 0; };
  for (const auto deadline = Deadline::in(kSoon); !under_way() && !deadline.passed();) std::this_thread::sleep_for(1ms);
  auto woken = update.session->wait({}, Deadline::in(200ms));
  REQUIRE_FALSE(woken);
  CHECK(woken.error().kind == ErrorKind::timed_out);
  CHECK(says(woken.error(), "POST /update_weights (not all of its 2 workers take part in the broadcast of 84 B from HOST-0)"));
  CHECK(update.session->hold());
  update.session->fail(woken.error());
  const auto answer = update.answer();
  REQUIRE_FALSE(answer);
  CHECK(says(answer.error(), "restart it"));
  CHECK(server.posts().back() == kUpdate);  // nothing more is sent to a server in the middle of a call
  CHECK_FALSE(update.session->hold());
}

TEST_CASE("an update that is given up lets the bucket under way come to its end") {
  House house;
  Server server(2);
  std::atomic<bool> in_it = false;
  server.misbehave = [&](int worker, const std::string& target, int) {
    if (target != kUpdate || worker != 1) return false;
    in_it = true;
    std::this_thread::sleep_for(200ms);
    return false;
  };
  Update update(house, server);
  update.offer();
  REQUIRE(update.send(0, 0));
  while (!in_it) std::this_thread::sleep_for(1ms);
  update.stop();
  update.step({});  // the bucket has come
  const auto answer = update.answer();
  REQUIRE_FALSE(answer);
  CHECK(answer.error().kind == ErrorKind::cancelled);
  CHECK(says(answer.error(), "was closed, so that it lives on"));
  CHECK_FALSE(says(answer.error(), "restart it"));
  for (const auto& taken : server.taken) CHECK(taken == house.bytes(0, 84));
  CHECK(server.posts() == std::vector<std::string>{kInit, kStart, kUpdate, kFinish});
}

TEST_CASE("what NCCL calls a time-out of its own is an error at once, and no wait that goes on") {
  const auto* function = GENERATE("ncclCommInitRankConfig", "ncclAllReduce", "ncclBroadcast");
  CAPTURE(function);
  const bool later = GENERATE(false, true);
  CAPTURE(later);
  constexpr int kNcclTimeout = 8;
  House house({.start = kSoon, .drain = 5s, .stuck = 5s});
  Server server(2);
  Update update(house, server);
  if (later)
    fake_nccl_fail_later(function, 1, kNcclTimeout);
  else
    fake_nccl_fail(function, 1, kNcclTimeout);
  const auto start = Clock::now();
  REQUIRE(update.session->offer(device::HostExport{"/f", House::kArena}));
  auto woken = update.session->wait({}, Deadline::in(kSoon));
  if (woken) {
    REQUIRE(update.send(0, 0));
    woken = update.session->wait({}, Deadline::in(kSoon / 2));
  }
  REQUIRE_FALSE(woken);
  CHECK(Clock::now() - start < kSoon / 2);
  update.session->fail(woken.error());
  const auto answer = update.answer();
  REQUIRE_FALSE(answer);
  CHECK(says(answer.error(), "(8)"));
}

TEST_CASE("an arena is held from when its bucket is under way, also before NCCL has it") {
  House house;
  auto meeting = std::make_shared<vllm::Meeting>("v0");
  const auto member = *meeting->join("HOST-0");
  auto link = house.links->make(*house.device, 1);
  REQUIRE(link);
  auto sending = std::make_shared<vllm_nccl::Sending>();
  sending->by(*link);
  vllm_nccl::NcclSession session(meeting, member, "HOST-0", sending);
  REQUIRE(session.offer(device::HostExport{"/f", House::kArena}));
  meeting->acknowledge();
  REQUIRE(session.wait({}, Deadline::in(kSoon)));
  const std::vector<std::uint64_t> shape{4};
  const std::vector<TensorView> tensors{{"a", weights::Dtype::bf16, shape, 0}};
  REQUIRE(session.reload(tensors, 0));
  REQUIRE(meeting->gather(Deadline::in(kSoon), {}));
  CHECK_FALSE(session.hold());
  REQUIRE(meeting->hand_out());
  session.fail({ErrorKind::timed_out, "the bucket's deadline"});
  const auto hold = session.hold();
  REQUIRE(hold);
  CHECK_FALSE(hold->let_go());
  CHECK_FALSE(hold->why().empty());
  meeting->end({ErrorKind::cancelled, "the engine ended this update"});
  CHECK(hold->let_go());
  CHECK_FALSE(session.hold());
}

TEST_CASE("what NCCL does not return from is given up, and holds the arena") {
  // Not House's end, which wants everything to have ended; and kept, since its thread is.
  static auto& left_behind = *new std::vector<House*>;
  auto* house = left_behind.emplace_back(new House({.start = 10s, .drain = 100ms, .stuck = 100ms}));
  Server server(1);
  {
    Update update(*house, server, {.engine = "v0", .server = Update::kServer, .grace = 50ms, .words = 50ms});
    update.offer();
    fake_nccl_hang("ncclBroadcast", 1, 1);
    REQUIRE(update.send(0, 0));
    auto woken = update.session->wait({}, Deadline::in(100ms));
    REQUIRE_FALSE(woken);
    update.session->fail(woken.error());
    REQUIRE_FALSE(update.answer());
  }
  fake_nccl_release();
  server.give_up.request_stop();
}

TEST_CASE("the end of the daemon does not wait for links that NCCL holds, one after the other") {
  // Not House's end, see above: nor does what the last test left behind matter here, which fake NCCL complains of.
  static auto& left_behind = *new std::vector<House*>;
  auto* house = left_behind.emplace_back(new House({.start = 10s, .drain = 100ms, .stuck = kSoon / 2}));
  Server server(1);
  {
    Update update(*house, server, {.engine = "v0", .server = Update::kServer, .grace = 50ms, .words = 50ms});
    update.offer();
    fake_nccl_hang("ncclBroadcast", 1, 1);
    REQUIRE(update.send(0, 0));
    REQUIRE_FALSE(update.session->wait({}, Deadline::in(100ms)));
    const auto start = Clock::now();
    house->links->close(Deadline::in(300ms));
    update.session->fail({ErrorKind::unavailable, "ckptd is ending"});
    REQUIRE_FALSE(update.answer());
    CHECK(Clock::now() - start < kSoon / 4);
  }
  fake_nccl_release();
  server.give_up.request_stop();
}
