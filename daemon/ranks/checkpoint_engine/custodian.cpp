#include "daemon/ranks/checkpoint_engine/custodian.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <exception>
#include <iterator>
#include <utility>

namespace ckptd::ranks::checkpoint_engine {
namespace {

/// A peer that sends without end gets its share of each round and no more.
constexpr int kRepliesPerRound = 16;
/// How soon a rank that is still there is sent the exception again, and how seldom in the end.
constexpr Clock::duration kFirstResend = std::chrono::milliseconds(250), kLastResend = std::chrono::seconds(30);

}  // namespace

Clock::time_point closing_time(const Watch& watch, std::chrono::milliseconds keep_bound) {
  if (watch.connected > 0) return Clock::time_point::max();
  if (watch.anybody_came) return watch.last_change + std::max(kStayBound, watch.stay_at_least);
  return watch.taken + keep_bound;
}

/// One endpoint in custody. Belongs to the custodian's thread.
class Custodian::Ward {
 public:
  Ward(Charge charge, std::chrono::milliseconds keep_bound)
      : charge_(std::move(charge)),
        keep_bound_(charge_.open.failed ? keep_bound : charge_.stay_at_least),
        watch_{.taken = Clock::now(), .last_change = Clock::now(), .stay_at_least = charge_.stay_at_least} {
    charge_.socket.look();
    owe_everybody(watch_.taken);
  }

  const std::string& endpoint() const { return charge_.open.endpoint; }

  void attend() {
    auto& socket = charge_.socket;
    const auto now = Clock::now();
    auto arrivals = socket.arrivals();
    auto connected = socket.peers().size();
    socket.look();
    bool news = take_replies() || socket.arrivals() != arrivals;
    if (!charge_.open.failed && socket.arrivals() > 1 && !std::exchange(came_back_, true))
      spdlog::warn("{}: the rank on {} came for another session when its update had succeeded, and is told that there is none",
                   charge_.open.engine, charge_.open.device);
    if (news || socket.peers().size() != connected) watch_.last_change = now;
    if (news) resend_after_ = kFirstResend;
    if (news || now >= resend_at_) owe_everybody(now);
    owed_ = std::min(owed_, socket.peers().size());
    while (owed_ > 0 && socket.send(charge_.exception)) --owed_;
    watch_.connected = socket.peers().size();
    watch_.anybody_came = socket.arrivals() > 0;
  }

  Clock::time_point closes_at() const { return closing_time(watch_, keep_bound_); }
  Clock::time_point acts_at() const { return watch_.connected > 0 ? resend_at_ : closes_at(); }
  std::array<zmq::pollitem_t, 2> poll_items() { return charge_.socket.poll_items(owed_ > 0); }

 private:
  /// Messages go to the connected peers in turn, so as many as there are reach each of them. One may still go to a peer
  /// that has just left, in place of one that waits: hence the exception is repeated, ever more seldom, while somebody
  /// is connected. A rank takes the first and drops the rest with its socket.
  void owe_everybody(Clock::time_point now) {
    owed_ = charge_.socket.peers().size();
    resend_at_ = now + resend_after_;
    resend_after_ = std::min(resend_after_ * 2, kLastResend);
  }

  bool take_replies() {
    int taken = 0;
    while (taken < kRepliesPerRound && charge_.socket.receive()) ++taken;
    return taken > 0;
  }

  Charge charge_;
  std::chrono::milliseconds keep_bound_;
  Watch watch_;
  bool came_back_ = false;
  std::size_t owed_ = 0;  ///< exceptions that somebody should have had already
  Clock::duration resend_after_ = kFirstResend;
  Clock::time_point resend_at_;
};

Custodian::Custodian(std::chrono::milliseconds keep_bound, Waker waker)
    : keep_bound_(keep_bound), waker_(std::move(waker)), thread_([this] { run(); }) {}

Custodian::~Custodian() { stop(); }

void Custodian::stop() noexcept {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  waker_.wake();
  if (thread_.joinable()) thread_.join();
}

void Custodian::take(Charge charge) noexcept try {
  std::unique_lock lock(mutex_);
  if (stopping_) {
    lock.unlock();
    charge.socket.look();
    for (std::size_t i = 0; i < charge.socket.peers().size(); ++i) charge.socket.send(charge.exception);
    return;
  }
  held_.push_back(charge.open);
  inbox_.push_back(std::move(charge));
  lock.unlock();
  waker_.wake();
} catch (const std::exception& error) {
  spdlog::error("an endpoint could not be handed to the custodian, its rank may wait for ever: {}", error.what());
}

std::vector<OpenEndpoint> Custodian::held() const {
  std::lock_guard lock(mutex_);
  return held_;
}

void Custodian::on_closed(std::function<void(const std::string&)> callback) {
  std::lock_guard lock(callback_mutex_);
  callback_ = std::move(callback);
}

std::vector<OpenEndpoint> Custodian::drain(Deadline deadline) {
  std::unique_lock lock(mutex_);
  std::vector<OpenEndpoint> failed;
  changed_.wait_until(lock, deadline.at(), [&] {
    failed.clear();
    std::ranges::copy_if(held_, std::back_inserter(failed), &OpenEndpoint::failed);
    return failed.empty();
  });
  return failed;
}

Result<> Custodian::check_alive(Deadline deadline) const {
  std::unique_lock lock(mutex_);
  const auto seen = rounds_;
  waker_.wake();
  if (changed_.wait_until(lock, deadline.at(), [&] { return rounds_ > seen; })) return {};
  return fail(ErrorKind::timed_out, "the custodian of failed sessions did not come round in time");
}

void Custodian::run() noexcept {
  std::list<Ward> wards;
  for (bool going_on = true; going_on;) {
    try {
      going_on = admit(wards);
      round(wards);
      if (going_on) sleep(wards);
    } catch (const std::exception& error) {
      spdlog::error("the custodian of failed sessions goes on after: {}", error.what());
      std::this_thread::sleep_for(std::chrono::milliseconds(100));  // whatever it is, do not spin on it
    }
  }
}

bool Custodian::admit(std::list<Ward>& wards) {
  waker_.drain();
  std::vector<Charge> charges;
  bool stopping = false;
  {
    std::lock_guard lock(mutex_);
    charges.swap(inbox_);
    stopping = stopping_;
    ++rounds_;
  }
  changed_.notify_all();
  for (auto& charge : charges) {
    auto endpoint = charge.open.endpoint;
    try {
      wards.emplace_back(std::move(charge), keep_bound_);
    } catch (const std::exception& error) {
      spdlog::error("{} cannot be kept bound, its rank may wait for ever: {}", endpoint, error.what());
      closed(endpoint);
    }
  }
  return !stopping;
}

void Custodian::round(std::list<Ward>& wards) {
  std::vector<std::string> finished;
  std::erase_if(wards, [&](Ward& ward) {
    bool broken = false;
    try {
      ward.attend();
    } catch (const zmq::error_t& error) {
      spdlog::error("{} is closed after an error of ZeroMQ, its rank may wait for ever: {}", ward.endpoint(),
                    error.what());
      broken = true;
    }
    bool done = broken || ward.closes_at() <= Clock::now();
    if (done) finished.push_back(ward.endpoint());
    return done;
  });
  for (const auto& endpoint : finished) closed(endpoint);
}

/// The callback comes before the endpoint leaves held(), so that a drain that ends has told everything.
void Custodian::closed(const std::string& endpoint) noexcept {
  try {
    std::lock_guard lock(callback_mutex_);
    if (callback_) callback_(endpoint);
  } catch (const std::exception& error) {
    spdlog::error("nobody could be told that {} was closed: {}", endpoint, error.what());
  }
  {
    std::lock_guard lock(mutex_);
    std::erase_if(held_, [&](const OpenEndpoint& open) { return open.endpoint == endpoint; });
  }
  changed_.notify_all();
}

void Custodian::sleep(std::list<Ward>& wards) {
  std::vector<zmq::pollitem_t> items{{nullptr, waker_.fd(), ZMQ_POLLIN, 0}};
  auto wake_at = Clock::now() + std::chrono::minutes(1);
  for (auto& ward : wards) {
    auto of_ward = ward.poll_items();
    items.insert(items.end(), of_ward.begin(), of_ward.end());
    wake_at = std::min(wake_at, ward.acts_at());
  }
  try {
    zmq::poll(items, std::chrono::milliseconds(Deadline(wake_at).poll_timeout_ms()));
  } catch (const zmq::error_t& error) {
    if (error.num() != EINTR) throw;
  }
}

}  // namespace ckptd::ranks::checkpoint_engine
