#include "tests/support/fake_nccl/device_streams.h"

#include <cstring>

#include "tests/support/shuffling_device/shuffling_device.h"

namespace ckptd::tests {
namespace {

thread_local device::Device* current = nullptr;

device::Stream& stream_at(void* stream) {
  return *static_cast<device::Stream*>(stream);
}
device::Event& event_at(void* event) {
  return *static_cast<device::Event*>(event);
}

void* current_device(void*) {
  return current;
}

void* make_event(void*, void* device) {
  auto event = static_cast<device::Device*>(device)->make_event();
  return event ? event->release() : nullptr;
}

void destroy_event(void*, void*, void* event) {
  delete &event_at(event);
}

int record(void*, void*, void* stream, void* event) {
  return stream_at(stream).record(event_at(event)) ? 0 : 1;
}

int wait(void*, void*, void* stream, void* event) {
  return stream_at(stream).wait(event_at(event)) ? 0 : 1;
}

int copy(void*, void*, void* stream, void* to, const void* from, std::size_t bytes, const std::atomic<bool>* cut) {
  auto work = [=]() -> Result<> {
    if (!*cut) std::memcpy(to, from, bytes);
    return {};
  };
  if (queue_work(stream_at(stream), work)) return 0;
  const auto range = [&](const void* at) { return device::Range{reinterpret_cast<std::uintptr_t>(at), bytes}; };
  return stream_at(stream).copy(range(to), range(from)) ? 0 : 1;
}

/// For streams of a Shuffler alone, whose one thread it blocks.
int run(void*, void*, void* stream, void (*work)(void*), void* data) {
  return queue_work(stream_at(stream), [=]() -> Result<> {
           work(data);
           return {};
         })
             ? 0
             : 1;
}

constexpr FakeNcclStreams kStreams{nullptr, current_device, make_event, destroy_event, record, wait, copy, run};

}  // namespace

const FakeNcclStreams& device_streams() {
  return kStreams;
}

collective::nccl::Natives device_natives(Standing& standing) {
  return {
      .stream = [](device::Stream& stream) -> void* { return &stream; },
      .with_current = [](device::Device& device, const std::function<Result<>()>& act) -> Result<> {
        auto* before = std::exchange(current, &device);
        auto outcome = act();
        current = before;
        return outcome;
      },
      .usable = [&standing](device::Device& device) -> Result<> {
        if (standing.lost != &device) return {};
        return fail(ErrorKind::unavailable, "{} is lost", device.identity().uuid);
      },
      .give_up = [&standing](device::Device&, const Error&) { ++standing.given_up; },
  };
}

}  // namespace ckptd::tests
