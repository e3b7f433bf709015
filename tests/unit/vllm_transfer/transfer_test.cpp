#include "daemon/ranks/vllm_ipc/transfer.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <catch2/catch.hpp>
#include <condition_variable>
#include <filesystem>
#include <future>
#include <mutex>
#include <nlohmann/json.hpp>
#include <thread>


#include "common/waker.h"

using namespace ckptd;
using namespace ckptd::ranks;
using nlohmann::json;
using namespace std::chrono_literals;

namespace {

const std::string kStart = "/start_weight_update";
constexpr auto kSoon = 10s;  // nothing here takes as long; a test that hangs fails by it

/// A server as far as its answers go. Each request is kept; `on` decides what one is answered.
class Server {
 public:
  using Answers = std::function<std::optional<vllm_ipc::Reply>(const std::string& target, int times)>;

  explicit Server(Answers on = {}) : on_(std::move(on)) {}

  vllm_ipc::Send send() {
    return [this](std::string_view method, std::string_view path, std::string body, Deadline,
                  std::stop_token stop) -> Result<vllm_ipc::Reply> {
      const std::string target(path);
      int times = 0;
      {
        std::lock_guard lock(mutex_);
        calls_.push_back({fmt::format("{} {}", method, target), std::move(body)});
        for (const auto& call : calls_) times += call.first == calls_.back().first;
      }
      if (hangs_ == target) {
        std::mutex mutex;
        std::unique_lock lock(mutex);
        std::condition_variable_any sleep;
        sleep.wait_for(lock, stop, kSoon, [] { return false; });
        return fail(ErrorKind::cancelled, "the request was given up");
      }
      if (on_ && (method == "POST" || target != kStart))
        if (auto answer = on_(target, times)) return *answer;
      if (method == "GET" && target == kStart && has_start_) return vllm_ipc::Reply{405, "", {}};
      if (method == "GET") return vllm_ipc::Reply{404, R"({"detail":"Not Found"})", {}};
      return vllm_ipc::Reply{200, R"({"message":"done"})", {}};
    };
  }
  void has_two_phases() { has_start_ = false; }
  void hang_in(std::string target) { hangs_ = std::move(target); }

  std::vector<std::string> posts() {
    std::lock_guard lock(mutex_);
    std::vector<std::string> targets;
    for (const auto& [call, body] : calls_)
      if (call.starts_with("POST ")) targets.push_back(call.substr(5));
    return targets;
  }
  std::string body_of(const std::string& target, int which = 0) {
    std::lock_guard lock(mutex_);
    for (const auto& call : calls_)
      if (call.first == "POST " + target && which-- == 0) return call.second;
    return {};
  }

 private:
  Answers on_;
  std::string hangs_;
  bool has_start_ = true;
  std::mutex mutex_;
  std::vector<std::pair<std::string, std::string>> calls_;
};

/// An update of `devices` devices whose lanes are this thread.
class Update {
 public:
  Update(Server& server, std::size_t devices, vllm_ipc::Options options = {.engine = "v0", .weight_version = "7"})
      : transfer_(vllm_ipc::make_transfer(std::move(options), server.send(), nullptr)) {
    for (std::size_t i = 0; i < devices; ++i) {
      auto session = transfer_->open("v0", fmt::format("HOST-{}", i));
      REQUIRE(session);
      sessions.push_back(*std::move(session));
    }
    run_ = std::async(std::launch::async, [this] { return transfer_->run(kSoon, stop_.get_token()); });
  }
  ~Update() { sessions.clear(); }

  void offer() {
    for (auto& session : sessions) REQUIRE(session->offer(device::HostExport{"/proc/1/fd/2", 4096}));
  }
  void reload(std::uint32_t number, std::uint64_t slot = 0) {
    static const std::vector<std::uint64_t> shape{4}, scalar;
    const std::vector<TensorView> tensors{{"a", weights::Dtype::bf16, shape, slot},
                                          {"b", weights::Dtype::f32, scalar, slot + 8}};
    for (auto& session : sessions) REQUIRE(session->reload(tensors, number));
  }
  void release() {
    for (auto& session : sessions) REQUIRE(session->release());
  }
  void finish() {
    for (auto& session : sessions) REQUIRE(session->finish());
  }
  void acknowledged() {
    for (auto& session : sessions) {
      auto woken = session->wait({}, Deadline::in(kSoon));
      if (!woken) FAIL(woken.error().sentence);
      CHECK(*woken == Session::Woken::acknowledged);
    }
  }
  Error failed() {
    std::optional<Error> first;
    for (auto& session : sessions) {
      auto woken = session->wait({}, Deadline::in(kSoon));
      REQUIRE_FALSE(woken);
      if (!first) first = woken.error();
    }
    return *first;
  }
  Result<std::string> answer() {
    REQUIRE(run_.wait_for(kSoon) == std::future_status::ready);
    return run_.get();
  }

  std::vector<std::unique_ptr<Session>> sessions;

 private:
  std::unique_ptr<Transfer> transfer_;
  std::stop_source stop_;
  std::future<Result<std::string>> run_;
};

vllm_ipc::Reply refusal(const std::string& words, unsigned status = 500) {
  return {status, json{{"error", {{"message", words}, {"code", status}}}}.dump(), {}};
}

}  // namespace

TEST_CASE("one call serves all devices, in the order of the protocol") {
  Server server;
  Update update(server, 2);
  update.offer();
  update.acknowledged();
  update.reload(0);
  update.acknowledged();
  update.reload(1, 256);
  update.acknowledged();
  update.release();
  update.acknowledged();
  update.finish();
  update.acknowledged();
  auto answer = update.answer();
  REQUIRE(answer);
  CHECK(*answer == "2 workers' weight update finished after 2 calls");
  CHECK(server.posts() == std::vector<std::string>{"/init_weight_transfer_engine", "/start_weight_update",
                                                   "/update_weights", "/update_weights", "/finish_weight_update"});
  CHECK(json::parse(server.body_of("/finish_weight_update")) == json{{"weight_version", "7"}});
  const auto info = json::parse(server.body_of("/update_weights", 1))["update_info"];
  CHECK(info["names"] == json{"a", "b"});
  CHECK(info["dtype_names"] == json{"bfloat16", "float32"});
  CHECK(info["shapes"] == json::array({{4}, {1}}));
  CHECK(info["tensor_sizes"] == json{8, 4});
  CHECK_FALSE(info.contains("packed"));
}

TEST_CASE("nobody is called before every device is there, and who is late is named") {
  Server server;
  Update update(server, 3);
  REQUIRE(update.sessions[0]->offer(device::HostExport{"/f", 4096}));
  REQUIRE(update.sessions[2]->offer(device::HostExport{"/f", 4096}));
  auto woken = update.sessions[0]->wait({}, Deadline::in(30ms));
  REQUIRE_FALSE(woken);
  CHECK(woken.error().kind == ErrorKind::timed_out);
  CHECK(woken.error().sentence.find("engine v0, device HOST-0, step offer") != std::string::npos);
  CHECK(woken.error().sentence.find("waited for device HOST-1 (not begun)") != std::string::npos);
  CHECK(woken.error().sentence.find("HOST-2") == std::string::npos);
  CHECK(server.posts().empty());
}

TEST_CASE("a call that is not answered is named, given up, and nothing more is asked of the server") {
  Server server;
  server.hang_in("/update_weights");
  Update update(server, 2);
  update.offer();
  update.acknowledged();
  update.reload(0);
  for (const auto deadline = Deadline::in(kSoon); server.posts().back() != "/update_weights" && !deadline.passed();)
    std::this_thread::sleep_for(1ms);
  auto woken = update.sessions[1]->wait({}, Deadline::in(50ms));
  REQUIRE_FALSE(woken);
  CHECK(woken.error().kind == ErrorKind::timed_out);
  CHECK(woken.error().sentence.find("the engine has not answered POST /update_weights") != std::string::npos);
  CHECK(update.sessions[1]->touched());
  update.sessions[1]->fail(woken.error());
  auto answer = update.answer();
  REQUIRE_FALSE(answer);
  CHECK(answer.error().sentence.find("stays open") != std::string::npos);
  CHECK(server.posts().back() == "/update_weights");
}

TEST_CASE("a waker wakes a session that has no news") {
  Server server;
  Update update(server, 2);
  REQUIRE(update.sessions[0]->offer(device::HostExport{"/f", 4096}));
  auto waker = Waker::create();
  REQUIRE(waker);
  waker->wake();
  const std::array wakers{waker->fd()};
  auto woken = update.sessions[0]->wait(wakers, Deadline::in(kSoon));
  REQUIRE(woken);
  CHECK(*woken == Session::Woken::by_waker);
}

TEST_CASE("how weights are said to be packed is what the server understands") {
  const std::string kUnknown = "Invalid init_info for IPCWeightTransferEngine: got an unexpected keyword argument 'packed'";
  struct Case {
    std::string config;
    bool init_knows, each_update_says;
  };
  const auto [config, init_knows, each_update_says] =
      GENERATE_COPY(Case{R"({"backend":"ipc"})", true, false}, Case{R"({"backend":"ipc"})", false, true},
                    Case{R"({"backend":"ipc","packed":true})", false, false});
  Server server([&](const std::string& target, int times) -> std::optional<vllm_ipc::Reply> {
    if (target.starts_with("/server_info"))
      return vllm_ipc::Reply{200, R"({"vllm_config":{"weight_transfer_config":)" + config + "}}", {}};
    if (target == "/init_weight_transfer_engine" && times == 1 && !init_knows) return refusal(kUnknown);
    return std::nullopt;
  });
  Update update(server, 1);
  update.offer();
  update.acknowledged();
  update.reload(0);
  update.acknowledged();
  CHECK(json::parse(server.body_of("/update_weights"))["update_info"].contains("packed") == each_update_says);
  if (!init_knows) CHECK(json::parse(server.body_of("/init_weight_transfer_engine", 1)) == json{{"init_info", json::object()}});
}

TEST_CASE("what a server cannot do is said before its model is touched") {
  struct Case {
    std::string target, answer, sentence;
    unsigned status;
  };
  const auto wrong = GENERATE(
      Case{"/get_world_size", R"({"world_size":4})", "it has 4 workers, and this update has memory on 1 devices", 200},
      Case{"/server_info?config_format=json", R"({"vllm_config":{"weight_transfer_config":{"backend":"nccl"}}})",
           "for weight transfer by nccl", 200},
      Case{"/server_info?config_format=json", R"({"vllm_config":{"weight_transfer_config":null}})",
           "started without weight transfer", 200},
      Case{"/server_info?config_format=json",
           R"({"vllm_config":{"weight_transfer_config":{"backend":"ipc"}},"vllm_env":{"VLLM_ALLOW_INSECURE_SERIALIZATION":false}})",
           "start vLLM with VLLM_ALLOW_INSECURE_SERIALIZATION=1", 200},
      Case{"/init_weight_transfer_engine", R"({"detail":"Not Found"})", "VLLM_SERVER_DEV_MODE=1", 404},
      Case{"/init_weight_transfer_engine", R"({"error":"Weight transfer not configured."})", "--weight-transfer-config",
           500});
  Server server([&](const std::string& target, int) -> std::optional<vllm_ipc::Reply> {
    if (target == wrong.target) return vllm_ipc::Reply{wrong.status, wrong.answer, {}};
    return std::nullopt;
  });
  Update update(server, 1);
  update.offer();
  const auto error = update.failed();
  CHECK(error.kind == ErrorKind::cancelled);  // which points to the engine's answer
  CHECK_FALSE(update.sessions[0]->touched());
  auto answer = update.answer();
  REQUIRE_FALSE(answer);
  CHECK(answer.error().sentence.find(wrong.sentence) != std::string::npos);
  for (const auto& target : server.posts()) CHECK(target == "/init_weight_transfer_engine");
}

TEST_CASE("a server of the two-phase form is told apart by its missing start, and not touched") {
  Server server;
  server.has_two_phases();
  Update update(server, 1);
  update.offer();
  update.failed();
  auto answer = update.answer();
  REQUIRE_FALSE(answer);
  CHECK(answer.error().kind == ErrorKind::unsupported);
  CHECK(answer.error().sentence.find("older than 0.22") != std::string::npos);
  CHECK(server.posts().empty());
}

TEST_CASE("an update that somebody left open is finished before ours begins, without a label") {
  Server server([](const std::string& target, int times) -> std::optional<vllm_ipc::Reply> {
    if (target == "/start_weight_update" && times == 1)
      return refusal("start_weight_update called while a weight update is already active. Call finish_weight_update first.");
    return std::nullopt;
  });
  Update update(server, 1);
  update.offer();
  update.acknowledged();
  update.reload(0);
  update.acknowledged();
  CHECK(server.posts() == std::vector<std::string>{"/init_weight_transfer_engine", "/start_weight_update",
                                                   "/finish_weight_update", "/start_weight_update", "/update_weights"});
  CHECK(json::parse(server.body_of("/finish_weight_update")) == json::object());
}

TEST_CASE("a worker's error ends the update, and the server is left able to live") {
  const bool ends_its_session = GENERATE(true, false);
  Server server([&](const std::string& target, int times) -> std::optional<vllm_ipc::Reply> {
    if (target == "/update_weights" && times == 2) return refusal("There is no module or parameter named 'b'");
    if (target == "/finish_weight_update" && times == 1 && ends_its_session)
      return refusal("finish_weight_update called without a matching start_weight_update.");
    return std::nullopt;
  });
  Update update(server, 2);
  update.offer();
  update.acknowledged();
  update.reload(0);
  update.acknowledged();
  update.reload(1, 256);
  CHECK(update.failed().kind == ErrorKind::cancelled);
  auto answer = update.answer();
  REQUIRE_FALSE(answer);
  CHECK(answer.error().kind == ErrorKind::peer_failed);
  CHECK(answer.error().vendor == "There is no module or parameter named 'b'");
  CHECK(answer.error().sentence.find("engine v0: the server failed at POST /update_weights (500)") != std::string::npos);
  CHECK(answer.error().sentence.find("was closed, so that it lives on") != std::string::npos);
  auto expected = std::vector<std::string>{"/init_weight_transfer_engine", "/start_weight_update", "/update_weights",
                                           "/update_weights", "/finish_weight_update"};
  if (ends_its_session) expected.insert(expected.end(), {"/start_weight_update", "/finish_weight_update"});
  CHECK(server.posts() == expected);
  CHECK(json::parse(server.body_of("/finish_weight_update")) == json::object());
}

TEST_CASE("a lane that fails between two calls closes the server's update") {
  Server server;
  Update update(server, 2);
  update.offer();
  update.acknowledged();
  update.reload(0);
  update.acknowledged();
  update.sessions[0]->fail(Error{ErrorKind::io, "the copy failed"});
  auto woken = update.sessions[1]->wait({}, Deadline::in(kSoon));
  REQUIRE_FALSE(woken);
  CHECK(woken.error().sentence.find("the copy failed") != std::string::npos);
  REQUIRE_FALSE(update.answer());
  CHECK(server.posts().back() == "/finish_weight_update");
}

TEST_CASE("a session that is given up before anything was sent ends the others and asks the server nothing") {
  Server server;
  Update update(server, 2);
  update.sessions[0]->discard();
  CHECK_FALSE(update.sessions[1]->offer(device::HostExport{"/f", 1}));
  REQUIRE_FALSE(update.answer());
  CHECK(server.posts().empty());
}

TEST_CASE("pickled handles that the server refuses hold no memory") {
  const auto directory = std::filesystem::temp_directory_path() / fmt::format("ckptd-transfer-{}", ::getpid());
  std::filesystem::create_directories(directory);
  const bool refuses_pickles = GENERATE(true, false);
  {
    auto receipts = std::make_shared<Receipts>(Receipts::Options{.group = std::nullopt, .directory = directory});
    Server server([&](const std::string& target, int) -> std::optional<vllm_ipc::Reply> {
      if (target == "/update_weights")
        return refusal(refuses_pickles ? "Refusing to deserialize without VLLM_ALLOW_INSECURE_SERIALIZATION=1" : "boom");
      return std::nullopt;
    });
    auto transfer = vllm_ipc::make_transfer({.engine = "v0"}, server.send(), receipts);
    auto session = transfer->open("v0", "GPU-1f2e3d4c-0000-1111-2222-333344445555");
    REQUIRE(session);
    auto run = std::async(std::launch::async, [&] { return transfer->run(kSoon, {}); });
    REQUIRE((*session)->offer(device::CudaExport{.handle = {}, .bytes = 4096}));
    REQUIRE((*session)->wait({}, Deadline::in(kSoon)));
    CHECK_FALSE((*session)->hold());
    const std::vector<std::uint64_t> shape{4};
    const std::vector<TensorView> tensors{{"a", weights::Dtype::bf16, shape, 0}};
    REQUIRE((*session)->reload(tensors, 0));
    REQUIRE_FALSE((*session)->wait({}, Deadline::in(kSoon)));
    CHECK(((*session)->hold() == nullptr) == refuses_pickles);
    const auto answer = run.get();
    REQUIRE_FALSE(answer);
    CHECK((answer.error().kind == ErrorKind::unsupported) == refuses_pickles);
  }
  std::filesystem::remove_all(directory);
}

TEST_CASE("a draft model that comes with the checkpoint is given everything once more") {
  Server server([](const std::string& target, int) -> std::optional<vllm_ipc::Reply> {
    if (!target.starts_with("/server_info")) return std::nullopt;
    return vllm_ipc::Reply{
        200, R"({"vllm_config":{"weight_transfer_config":{"backend":"ipc"},"speculative_config":{"method":"deepseek_mtp"}}})",
        {}};
  });
  Update update(server, 2);
  for (int round = 0; round < 2; ++round) {
    update.offer();
    update.acknowledged();
    update.reload(0);
    update.acknowledged();
    update.release();
    update.acknowledged();
    update.finish();
    update.acknowledged();
    if (round == 1) break;
    for (auto& session : update.sessions) {
      auto woken = session->wait_again({}, Deadline::in(kSoon));
      REQUIRE(woken);
      CHECK(*woken == Session::Woken::acknowledged);
    }
  }
  REQUIRE(update.answer());
  CHECK(server.posts() == std::vector<std::string>{"/init_weight_transfer_engine", "/start_weight_update",
                                                   "/update_weights", "/finish_weight_update",
                                                   "/start_draft_weight_update", "/update_weights",
                                                   "/finish_weight_update"});
  CHECK(json::parse(server.body_of("/finish_weight_update", 0)) == json::object());
  CHECK(json::parse(server.body_of("/finish_weight_update", 1)) == json{{"weight_version", "7"}});
}

namespace {

/// An update of GPUs, as its lanes see it: what the server is told names a receipt in a directory of the test.
class GpuUpdate {
 public:
  GpuUpdate(Server& server, std::size_t devices) {
    std::filesystem::create_directories(directory_);
    transfer_ = vllm_ipc::make_transfer(
        {.engine = "v0"}, server.send(),
        std::make_shared<Receipts>(Receipts::Options{.group = std::nullopt, .directory = directory_}));
    for (std::size_t i = 0; i < devices; ++i) {
      auto session = transfer_->open("v0", fmt::format("GPU-1f2e3d4c-0000-1111-2222-33334444555{}", i));
      REQUIRE(session);
      sessions.push_back(*std::move(session));
    }
    run_ = std::async(std::launch::async, [this] { return transfer_->run(kSoon, {}); });
    for (auto& session : sessions) REQUIRE(session->offer(device::CudaExport{.handle = {}, .bytes = 4096}));
    for (auto& session : sessions) REQUIRE(session->wait({}, Deadline::in(kSoon)));
  }
  ~GpuUpdate() {
    sessions.clear();
    if (run_.valid()) run_.wait();
    transfer_.reset();
    std::filesystem::remove_all(directory_);
  }

  void reload(std::size_t which, std::uint32_t number) {
    const std::vector<std::uint64_t> shape{4};
    const std::vector<TensorView> tensors{{"a", weights::Dtype::bf16, shape, 0}};
    REQUIRE(sessions[which]->reload(tensors, number));
  }
  /// As its lane, after an error.
  std::shared_ptr<Hold> hold_after_failure(std::size_t which) {
    sessions[which]->fail({ErrorKind::cancelled, "a lane has failed"});
    return sessions[which]->hold();
  }
  Result<std::string> answer() {
    REQUIRE(run_.wait_for(kSoon) == std::future_status::ready);
    return run_.get();
  }

  std::vector<std::unique_ptr<Session>> sessions;

 private:
  const std::filesystem::path directory_ =
      std::filesystem::temp_directory_path() / fmt::format("ckptd-gpu-transfer-{}", ::getpid());
  std::unique_ptr<Transfer> transfer_;
  std::future<Result<std::string>> run_;
};

}  // namespace

TEST_CASE("memory that the server was told nothing of is held by nobody: it would not be started") {
  Server server([&](const std::string& target, int) -> std::optional<vllm_ipc::Reply> {
    if (target == kStart) return refusal("boom");
    return std::nullopt;
  });
  GpuUpdate update(server, 1);
  update.reload(0, 0);
  REQUIRE_FALSE(update.sessions[0]->wait({}, Deadline::in(kSoon)));
  CHECK_FALSE(update.hold_after_failure(0));
  CHECK_FALSE(update.answer());
  CHECK(std::ranges::count(server.posts(), "/update_weights") == 0);
}

TEST_CASE("memory that the server was told nothing of is held by nobody: another device did not come") {
  Server server;
  GpuUpdate update(server, 2);
  update.reload(0, 0);
  CHECK_FALSE(update.hold_after_failure(1));
  CHECK_FALSE(update.hold_after_failure(0));
  CHECK_FALSE(update.answer());
  CHECK(std::ranges::count(server.posts(), "/update_weights") == 0);
}

TEST_CASE("a handle that has not left is not missed among those that have") {
  Server server;
  GpuUpdate update(server, 2);
  for (std::size_t i = 0; i < 2; ++i) update.reload(i, 0);
  for (auto& session : update.sessions) REQUIRE(session->wait({}, Deadline::in(kSoon)));
  update.reload(0, 1);
  const auto late = update.hold_after_failure(1), waiting = update.hold_after_failure(0);
  REQUIRE((late && waiting));
  for (const auto& hold : {late, waiting}) {
    CHECK_FALSE(hold->let_go());
    CHECK(hold->why().find("1 receipts are missing") != std::string::npos);
  }
  CHECK(update.sessions[0]->hold() == waiting);
  CHECK(waiting->why().find("1 receipts are missing") != std::string::npos);
  CHECK_FALSE(update.answer());
}

TEST_CASE("who has left a meeting can be sure that what he brought is not handed out any more") {
  vllm::Meeting meeting("v0");
  const auto member = *meeting.join("GPU-0");
  REQUIRE(meeting.arrive(member, {.step = Step::reload, .number = 0, .tensors = {}, .memory = {}}));
  REQUIRE(meeting.gather(Deadline::in(kSoon), {}));
  CHECK_FALSE(meeting.is_kept_back(1));
  SECTION("it leaves before the server is told") {
    meeting.leave(Error{ErrorKind::cancelled, "the lane was cancelled"});
    const auto told = meeting.hand_out();
    REQUIRE_FALSE(told);
    CHECK(told.error().sentence == "the lane was cancelled");
    CHECK(meeting.is_kept_back(1));
  }
  SECTION("it leaves after that") {
    REQUIRE(meeting.hand_out());
    meeting.leave(Error{ErrorKind::cancelled, "the lane was cancelled"});
    CHECK_FALSE(meeting.is_kept_back(1));
    CHECK(meeting.is_kept_back(2));
  }
}
