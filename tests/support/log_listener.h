// What a test's program logs, line by line.
#pragma once

#include <spdlog/sinks/base_sink.h>
#include <spdlog/spdlog.h>

#include <functional>
#include <memory>
#include <mutex>
#include <string_view>
#include <utility>

namespace ckptd::test {

/// Everything that is logged while this lives goes to `hear`. It begins before the threads that log and ends after them:
/// they hold on to no logger.
class LogListener {
 public:
  explicit LogListener(std::function<void(std::string_view)> hear) : old_(spdlog::default_logger()) {
    spdlog::set_default_logger(std::make_shared<spdlog::logger>("", std::make_shared<Sink>(std::move(hear))));
  }
  ~LogListener() { spdlog::set_default_logger(old_); }

 private:
  struct Sink : spdlog::sinks::base_sink<std::mutex> {
    explicit Sink(std::function<void(std::string_view)> hear) : hear(std::move(hear)) {}
    void sink_it_(const spdlog::details::log_msg& message) override {
      hear({message.payload.data(), message.payload.size()});
    }
    void flush_() override {}
    std::function<void(std::string_view)> hear;
  };
  std::shared_ptr<spdlog::logger> old_;
};

}  // namespace ckptd::test
