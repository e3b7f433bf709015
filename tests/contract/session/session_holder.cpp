// A daemon in the middle of an update: binds an endpoint in the directory, prints it, walks its rank to a state, prints
// that, and then waits to be killed.
//
//   session_holder DIRECTORY STEPS
//
// STEPS is the number of steps that are sent: 0 none, 1 the offer, 2 a list, 3 the release, 4 the finish. All but the
// last are waited for; the last is waited for unless it is followed by '+': "2" is an idle rank after one list, "2+" a
// rank that is still loading it. The memory offered is a file in the directory's parent.
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <string>

#include "daemon/ranks/checkpoint_engine/endpoints.h"

namespace {

using namespace ckptd;
using namespace std::chrono_literals;

constexpr std::uint64_t kBytes = 1 << 16;

Result<> send_step(ranks::Session& session, int number, const std::string& file) {
  static constexpr std::array<std::uint64_t, 1> shape{16};
  const std::array tensors{ranks::TensorView{"weight", weights::Dtype::f32, shape, 0}};
  switch (number) {
    case 1: return session.offer(device::HostExport{file, kBytes});
    case 2: return session.reload(tensors, 0);
    case 3: return session.release();
    default: return session.finish();
  }
}

Result<> wait_for_rank(ranks::Session& session) {
  while (!session.peer()) {
    auto looked = session.wait({}, Deadline::in(20ms));
    if (!looked && looked.error().kind != ErrorKind::timed_out) return std::unexpected(looked.error());
  }
  return {};
}

Result<> hold(const std::filesystem::path& directory, int steps, bool last_is_outstanding) {
  auto file = (directory.parent_path() / "memory").string();
  std::ofstream(file) << std::string(kBytes, '\x5a');
  auto endpoints = CKPTD_TRY(ranks::checkpoint_engine::make_endpoints({directory, "", 60s}));
  auto session = CKPTD_TRY(endpoints->open("test", "HOST-0"));
  std::cout << "{\"endpoint\":\"" << session->endpoint() << "\"}" << std::endl;
  CKPTD_TRY(wait_for_rank(*session));
  for (int number = 1; number <= steps; ++number) {
    CKPTD_TRY(send_step(*session, number, file));
    if (number < steps || !last_is_outstanding) CKPTD_TRY(session->wait({}, Deadline::in(60s)));
  }
  // What was sent last leaves in ZeroMQ's own thread; a kill before that would test another state.
  auto looked = session->wait({}, Deadline::in(300ms));
  std::cout << "{\"reached\":true}" << std::endl;
  for (;;) ::pause();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return EXIT_FAILURE;
  std::string steps = argv[2];
  auto held = hold(argv[1], std::atoi(steps.c_str()), steps.ends_with('+'));
  std::cerr << held.error().sentence << '\n';
  return EXIT_FAILURE;
}
