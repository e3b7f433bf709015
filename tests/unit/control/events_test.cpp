// Streams of events over the socket: what a client reads, and what clients do that no client should.
#include <sys/ioctl.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <future>
#include <random>
#include <thread>

#include "proto/control/events.h"
#include "tests/unit/control/server_fixture.h"

using namespace ckptd;
using namespace std::chrono_literals;
using testing::job_named;
using testing::kLong;
using testing::ServerFixture;
namespace api = proto::control;
using Kind = api::Event::Kind;

namespace {

/// Reads one stream as a client does, chunks and all.
class Reader {
 public:
  Reader(const ServerFixture& site, const std::string& target, const std::string& headers = {})
      : fd_(site.connect()) {
    testing::write_all(fd_.get(), "GET " + target + " HTTP/1.1\r\nHost: h\r\n" + headers + "\r\n");
    head_ = testing::read_until(fd_.get(), "\r\n\r\n");
  }

  const std::string& head() const { return head_; }
  int fd() const { return fd_.get(); }
  /// The rest of an answer that is no stream.
  std::string rest() { return testing::read_until(fd_.get(), std::string_view("\0never", 6)); }

  /// The next event, or nothing when the stream has ended as it should; fails the test when it broke off.
  std::optional<api::WireEvent> next() {
    for (;;) {
      if (auto event = events_.next()) return event;
      if (!read_chunk()) return std::nullopt;
    }
  }

  /// The next event of this name; others are skipped.
  std::optional<api::WireEvent> next(std::string_view name) {
    while (auto event = next())
      if (event->name == name) return event;
    return std::nullopt;
  }

  int comments() const { return comments_; }

 private:
  bool read_chunk() {
    auto line = testing::read_until(fd_.get(), "\r\n");
    REQUIRE(line.ends_with("\r\n"));
    auto bytes = std::stoul(line, nullptr, 16);
    std::string chunk;
    while (chunk.size() < bytes + 2) {
      char piece[4096];
      auto got = ::recv(fd_.get(), piece, std::min(sizeof piece, bytes + 2 - chunk.size()), 0);
      REQUIRE(got > 0);
      chunk.append(piece, static_cast<std::size_t>(got));
    }
    chunk.resize(bytes);
    if (chunk.starts_with(":")) ++comments_;
    REQUIRE(events_.feed(chunk));
    return bytes != 0;
  }

  UniqueFd fd_;
  std::string head_;
  api::EventReader events_;
  int comments_ = 0;
};

nlohmann::json data_of(const std::optional<api::WireEvent>& event) {
  REQUIRE(event);
  return nlohmann::json::parse(event->data);
}

api::Engine engine_named(std::string name, std::string state) {
  api::Engine engine;
  engine.name = std::move(name);
  engine.state = std::move(state);
  return engine;
}

/// Waits until the server has as many streams as `clients`.
bool await_clients(const std::atomic<std::size_t>& count, std::size_t clients) {
  auto deadline = Deadline::in(kLong);
  while (count != clients && !deadline.passed()) std::this_thread::sleep_for(1ms);
  return count == clients;
}

void follow_count(control::Options& options, std::atomic<std::size_t>& count) {
  options.on_event_clients = [&count](std::size_t clients) { count = clients; };
}

}  // namespace

TEST_CASE("everything is told, in order, as the API's own values") {
  ServerFixture site;
  Reader reader(site, "/v1/events");
  CHECK(reader.head().starts_with("HTTP/1.1 200 OK\r\n"));
  CHECK(reader.head().find("Content-Type: text/event-stream\r\n") != std::string::npos);
  CHECK(reader.head().find("Transfer-Encoding: chunked\r\n") != std::string::npos);
  site.operations.tell({Kind::job_started, job_named("load-1", "running")});
  auto started = reader.next();
  CHECK(data_of(started) == to_json(job_named("load-1", "running")));
  CHECK(started->name == "job-started");
  site.operations.tell({Kind::job_progress, job_named("load-1", "running", 5)});
  auto progress = reader.next();
  CHECK(progress->name == "job-progress");
  CHECK(data_of(progress)["done_bytes"] == 5);
  CHECK(progress->id == started->id);  // no id of its own: there is nothing to go on from
  site.operations.tell({Kind::engine_changed, engine_named("e", "poisoned")});
  CHECK(data_of(reader.next()) == to_json(engine_named("e", "poisoned")));
  site.operations.tell({Kind::version_changed, testing::version_named("n", "1")});
  CHECK(data_of(reader.next()) == to_json(testing::version_named("n", "1")));
  site.operations.tell({Kind::job_ended, job_named("load-1", "succeeded", 9)});
  auto ended = reader.next();
  CHECK(ended->name == "job-ended");
  CHECK(ended->id != started->id);
  CHECK(data_of(ended)["state"] == "succeeded");
}

TEST_CASE("who comes later sees what runs, and then what happens") {
  ServerFixture site;
  site.operations.tell({Kind::job_started, job_named("load-1", "running")});
  site.operations.tell({Kind::job_progress, job_named("load-1", "running", 7)});
  site.operations.tell({Kind::engine_changed, engine_named("e", "idle")});  // before its time
  Reader reader(site, "/v1/events");
  auto first = reader.next();
  CHECK(first->name == "job-progress");
  CHECK(data_of(first)["done_bytes"] == 7);
  site.operations.tell({Kind::job_ended, job_named("load-1", "failed")});
  CHECK(reader.next()->name == "job-ended");
}

TEST_CASE("one job's stream begins with the job as it is and ends with its outcome") {
  ServerFixture site;
  site.operations.tell({Kind::job_started, job_named("load-1", "running")});
  Reader reader(site, "/v1/jobs/load-1/events");
  CHECK(reader.next()->name == "job-progress");
  site.operations.tell({Kind::job_started, job_named("load-2", "running")});
  site.operations.tell({Kind::job_ended, job_named("load-2", "succeeded")});
  site.operations.tell({Kind::job_progress, job_named("load-1", "running", 4)});
  CHECK(data_of(reader.next())["done_bytes"] == 4);
  site.operations.tell({Kind::job_ended, job_named("load-1", "failed", 4)});
  auto ended = reader.next();
  CHECK(ended->name == "job-ended");
  CHECK(data_of(ended)["id"] == "load-1");
  CHECK_FALSE(reader.next());
  char byte = 0;
  CHECK(::recv(reader.fd(), &byte, 1, 0) == 0);
}

TEST_CASE("the stream of a job that has ended is its outcome, of one that nobody knows 404") {
  ServerFixture site;
  site.operations.set_job(job_named("load-1", "cancelled"));
  Reader reader(site, "/v1/jobs/load-1/events");
  auto ended = reader.next();
  CHECK(ended->name == "job-ended");
  CHECK(data_of(ended)["state"] == "cancelled");
  CHECK_FALSE(reader.next());
  site.operations.fail_with(Error{ErrorKind::not_found, "no job is named load-9"});
  Reader unknown(site, "/v1/jobs/load-9/events");
  CHECK(unknown.head().starts_with("HTTP/1.1 404 "));
  CHECK(site.say("GET /v1/jobs/j/events?wait=1 HTTP/1.1\r\nConnection: close\r\n\r\n").starts_with("HTTP/1.1 400 "));
  CHECK(site.say("POST /v1/events HTTP/1.1\r\nConnection: close\r\n\r\n").starts_with("HTTP/1.1 405 "));
}

TEST_CASE("a client that comes back goes on behind its last event") {
  ServerFixture site;
  std::string last;
  {
    Reader reader(site, "/v1/events");
    site.operations.tell({Kind::engine_changed, engine_named("e", "idle")});
    last = reader.next()->id;
  }
  site.operations.tell({Kind::engine_changed, engine_named("e", "updating")});
  site.operations.tell({Kind::engine_changed, engine_named("e", "poisoned")});
  Reader again(site, "/v1/events", "Last-Event-ID: " + last + "\r\n");
  CHECK(data_of(again.next())["state"] == "updating");
  auto second = again.next();
  CHECK(data_of(second)["state"] == "poisoned");
  Reader nothing_new(site, "/v1/events", "Last-Event-ID: " + second->id + "\r\n");
  site.operations.tell({Kind::engine_removed, engine_named("e", "idle")});
  CHECK(nothing_new.next()->name == "engine-removed");
  for (const char* foreign : {"abcdef-7", "x", "-", "99999999999999999999999", "abcdef-"}) {
    Reader stranger(site, "/v1/events", fmt::format("Last-Event-ID: {}\r\n", foreign));
    CHECK(stranger.next()->name == "missed");
  }
  for (const std::string& wrong : {std::string(""), std::string(200, 'x'), std::string("a\tb")})
    CHECK(Reader(site, "/v1/events", "Last-Event-ID: " + wrong + "\r\n").head().starts_with("HTTP/1.1 400 "));
}

TEST_CASE("a client of HTTP/1.0 gets the same without chunks") {
  ServerFixture site;
  site.operations.set_job(job_named("load-1", "succeeded"));
  auto text = site.say("GET /v1/jobs/load-1/events HTTP/1.0\r\n\r\n");
  CHECK(text.starts_with("HTTP/1.0 200 "));
  CHECK(text.find("Transfer-Encoding") == text.npos);
  CHECK(text.find("\nevent: job-ended\n") != text.npos);
  CHECK(text.ends_with("\n\n"));
}

TEST_CASE("a silent stream has a heartbeat") {
  ServerFixture site([](control::Options& options) { options.heartbeat = 20ms; });
  Reader reader(site, "/v1/events");
  for (const auto deadline = Deadline::in(kLong); reader.comments() == 0 && !deadline.passed();) {
    std::this_thread::sleep_for(200ms);
    site.operations.tell({Kind::engine_changed, engine_named("e", "idle")});
    CHECK(reader.next()->name == "engine-changed");
  }
  CHECK(reader.comments() >= 1);
}

TEST_CASE("a shutdown ends streams with a last event") {
  ServerFixture site;
  Reader all(site, "/v1/events");
  site.operations.tell({Kind::job_started, job_named("load-1", "running")});
  Reader one(site, "/v1/jobs/load-1/events");
  CHECK(all.next()->name == "job-started");
  CHECK(one.next()->name == "job-progress");
  auto stopping = std::async(std::launch::async, [&] { site.stop(); });
  for (auto* reader : {&all, &one}) {
    CHECK(reader->next("closing"));
    CHECK_FALSE(reader->next());
  }
  stopping.get();
}

TEST_CASE("half of the connections may follow events; a client that goes makes room at once") {
  std::atomic<std::size_t> clients = 0;
  ServerFixture site([&](control::Options& options) {
    options.connections = 8;
    options.heartbeat = kLong;
    follow_count(options, clients);
  });
  std::vector<std::unique_ptr<Reader>> readers;
  for (int i = 0; i < 4; ++i) readers.push_back(std::make_unique<Reader>(site, "/v1/events"));
  REQUIRE(await_clients(clients, 4));
  Reader refused(site, "/v1/events");
  CHECK(refused.head().starts_with("HTTP/1.1 503 "));
  CHECK(site.is_alive());
  // No heartbeat finds out: the closed connection itself does.
  readers.pop_back();
  REQUIRE(await_clients(clients, 3));
  Reader welcome(site, "/v1/events");
  CHECK(welcome.head().starts_with("HTTP/1.1 200 "));
}

TEST_CASE("a client that has said all it has to say still reads") {
  ServerFixture site;
  Reader reader(site, "/v1/events");
  ::shutdown(reader.fd(), SHUT_WR);
  std::this_thread::sleep_for(20ms);
  site.operations.tell({Kind::engine_changed, engine_named("e", "idle")});
  CHECK(reader.next()->name == "engine-changed");
}

TEST_CASE("a client that goes on talking is not listened to, and not held up by") {
  ServerFixture site;
  Reader reader(site, "/v1/events");
  testing::write_all(reader.fd(), std::string(20'000, 'x'));
  site.operations.tell({Kind::engine_changed, engine_named("e", "idle")});
  CHECK(reader.next()->name == "engine-changed");
}

TEST_CASE("a client that does not read is cut off, holds up nobody, and costs no memory for each event") {
  std::atomic<std::size_t> clients = 0;
  ServerFixture site([&](control::Options& options) {
    options.write_timeout = 2s;
    follow_count(options, clients);
  });
  Reader deaf(site, "/v1/events");
  Reader good(site, "/v1/events");
  REQUIRE(await_clients(clients, 2));
  auto large = job_named("load-1", "succeeded");
  large.stage = std::string(256 << 10, 's');
  auto deadline = Deadline::in(kLong);
  int told = 0;
  while (clients == 2 && !deadline.passed()) {
    site.operations.tell({Kind::job_ended, large});
    ++told;
    CHECK(good.next("job-ended"));
  }
  CHECK(clients == 1);
  CHECK(told >= 1);
  CHECK(site.is_alive());
}

TEST_CASE("a slow reader is told how much it has missed, and of every outcome or that it was missed") {
  ServerFixture site;
  Reader slow(site, "/v1/events");
  auto large = job_named("", "succeeded");
  large.stage = std::string(64 << 10, 's');
  constexpr int kJobs = 600;  // 38 MiB: beyond the socket's buffer and the ring
  for (int i = 0; i < kJobs; ++i) {
    large.id = fmt::format("load-{}", i);
    site.operations.tell({Kind::job_ended, large});
  }
  int outcomes = 0, missed = 0;
  std::string last;
  while (outcomes + missed < kJobs) {
    auto event = slow.next();
    REQUIRE(event);
    if (event->name == "missed") missed += data_of(event)["events"].get<int>();
    if (event->name == "job-ended") ++outcomes, last = data_of(event)["id"];
  }
  CHECK(outcomes + missed == kJobs);
  CHECK(missed > 0);
  CHECK(last == fmt::format("load-{}", kJobs - 1));
}

TEST_CASE("clients that vanish in the middle of events") {
  std::atomic<std::size_t> clients = 0;
  ServerFixture site([&](control::Options& options) { follow_count(options, clients); });
  std::atomic<bool> over = false;
  std::jthread happenings([&] {
    for (int i = 0; !over; ++i) {
      auto id = fmt::format("load-{}", i);
      site.operations.tell({Kind::job_started, job_named(id, "running")});
      for (int step = 0; step < 5; ++step) site.operations.tell({Kind::job_progress, job_named(id, "running", 1)});
      site.operations.tell({Kind::job_ended, job_named(id, "succeeded")});
      std::this_thread::sleep_for(100us);
    }
  });
  std::mt19937 random(11);
  for (int round = 0; round < 150; ++round) {
    auto fd = site.connect();
    testing::write_all(fd.get(), "GET /v1/events HTTP/1.1\r\n\r\n");
    if (round % 3 == 0) ::shutdown(fd.get(), SHUT_RDWR);
    char bytes[3000];
    for (unsigned i = 0; i < random() % 4; ++i)
      if (::recv(fd.get(), bytes, 1 + random() % sizeof bytes, 0) <= 0) break;
  }
  over = true;
  CHECK(await_clients(clients, 0));
  CHECK(site.is_alive());
}

TEST_CASE("a hundred clients follow a storm of events from many threads") {
  ServerFixture site;
  std::vector<std::unique_ptr<Reader>> readers;
  for (int i = 0; i < 100; ++i) readers.push_back(std::make_unique<Reader>(site, "/v1/events"));
  constexpr int kThreads = 4, kEach = 50;
  {
    std::vector<std::jthread> threads;
    for (int thread = 0; thread < kThreads; ++thread)
      threads.emplace_back([&, thread] {
        for (int i = 0; i < kEach; ++i) {
          auto id = fmt::format("load-{}-{}", thread, i);
          site.operations.tell({Kind::job_started, job_named(id, "running")});
          site.operations.tell({Kind::job_progress, job_named(id, "running", 1)});
          site.operations.tell({Kind::job_ended, job_named(id, "succeeded")});
        }
      });
  }
  for (auto& reader : readers) {
    std::map<std::string, std::string> states;
    for (int ended = 0; ended < kThreads * kEach;) {
      auto event = reader->next();
      REQUIRE(event);
      std::string id = data_of(event)["id"];
      if (event->name == "job-started" && !states.emplace(id, "started").second) FAIL(id << " started twice");
      if (event->name == "job-progress" && states[id] != "started") FAIL(id << " progressed while not running");
      if (event->name == "job-ended") ++ended, states[id] = "ended";
    }
    CHECK(states.size() == kThreads * kEach);
  }
}
