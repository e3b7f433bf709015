#include "daemon/operations/engine_call.h"

#include <condition_variable>
#include <exception>
#include <mutex>
#include <system_error>

#include "common/units.h"

namespace ckptd::operations {

OwnCall::OwnCall(std::function<Result<std::string>(std::stop_token)> call,
                 std::function<void(const Result<std::string>&)> answered)
    : answer_(promise_.get_future().share()),
      thread_([this, call = std::move(call), answered = std::move(answered)](std::stop_token stop) {
        auto answer = [&]() -> Result<std::string> {
          try {
            return call(stop);
          } catch (const std::exception& error) {
            return fail(ErrorKind::internal, "the call of the engine broke off: {}", error.what());
          }
        }();
        promise_.set_value(answer);
        answered(answer);
      }) {}

Result<std::string> OwnCall::answer_by(Clock::time_point limit, Clock::time_point ranks_done, const std::string& engine) {
  if (answer_.wait_until(limit) == std::future_status::ready) return answer_.get();
  thread_.request_stop();
  return fail(ErrorKind::timed_out, "engine {} did not answer within {} after its ranks had finished", engine,
              show_seconds(std::chrono::duration<double>(Clock::now() - ranks_done).count()));
}

void RanksEnd::end_after(std::chrono::milliseconds span) {
  try {
    timer_ = std::jthread([this, span](std::stop_token cancelled) {
      std::mutex mutex;
      std::unique_lock lock(mutex);
      std::condition_variable_any sleep;
      sleep.wait_for(lock, cancelled, span, [] { return false; });
      if (!cancelled.stop_requested()) stop_.request_stop();
    });
  } catch (const std::system_error&) {  // nobody could end it later
    stop_.request_stop();
  }
}

}  // namespace ckptd::operations
