#include "common/listener.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>

#include "common/unique_fd.h"
#include "tests/support/fake_system_root.h"

using namespace ckptd;

namespace {

/// A listening socket of this process; gives the port.
UniqueFd listen_on_loopback(std::uint16_t& port) {
  UniqueFd fd(::socket(AF_INET, SOCK_STREAM, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  REQUIRE(::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), size) == 0);
  REQUIRE(::listen(fd.get(), 1) == 0);
  ::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &size);
  port = ntohs(address.sin_port);
  return fd;
}

class Machine : public test::FakeSystemRoot {
 public:
  void process(int pid, std::uint64_t started, std::initializer_list<const char*> descriptors) const {
    const auto folder = path() / "proc" / std::to_string(pid);
    write("proc/" + std::to_string(pid) + "/stat",
          fmt::format("{} (a (b) c) S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 3 0 {} 0 0\n", pid, started));
    std::filesystem::create_directories(folder / "fd");
    int number = 0;
    for (const auto* target : descriptors)
      std::filesystem::create_symlink(target, folder / "fd" / std::to_string(number++));
  }
  std::string root() const { return path().string(); }
};

constexpr auto kTcpHead =
    "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";

std::string tcp_row(const char* local, const char* state, int inode) {
  return fmt::format("   0: {} 00000000:0000 {} 00000000:00000000 00:00000000 00000000     0        0 {} 1 0 100 0 0 10 0\n",
                     local, state, inode);
}

}  // namespace

TEST_CASE("the listener of a real socket is this process, with its start time") {
  std::uint16_t port = 0;
  const auto fd = listen_on_loopback(port);
  for (const auto* host : {"127.0.0.1", "localhost"}) {
    const auto found = listener_on_tcp(host, port);
    REQUIRE(found);
    CHECK(*found == process_with(::getpid()));
    CHECK(found->started > 0);
  }
  CHECK_FALSE(listener_on_tcp("192.0.2.1", port));
  CHECK_FALSE(listener_on_tcp("inference.example", port));

  const auto path = fmt::format("/tmp/ckptd-listener {}.sock", ::getpid());
  UniqueFd local(::socket(AF_UNIX, SOCK_STREAM, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  REQUIRE(::bind(local.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
  CHECK_FALSE(listener_on_unix(path));  // bound, but nobody listens yet
  REQUIRE(::listen(local.get(), 1) == 0);
  CHECK(listener_on_unix(path) == process_with(::getpid()));
  ::unlink(path.c_str());
}

TEST_CASE("nobody listens where a socket was closed") {
  std::uint16_t port = 0;
  { const auto fd = listen_on_loopback(port); }
  CHECK_FALSE(listener_on_tcp("127.0.0.1", port));
}

TEST_CASE("an address of its own goes before any; IPv6's any takes IPv4 as well") {
  Machine machine;
  machine.process(10, 500, {"socket:[100]", "/dev/null"});
  machine.process(20, 600, {"socket:[200]"});
  machine.process(30, 700, {"socket:[300]", "pipe:[300]", "anon_inode:[eventpoll]"});
  machine.write("proc/net/tcp", kTcpHead + tcp_row("0100007F:7530", "01", 999) +  // a connection, no listener
                                    tcp_row("00000000:7530", "0A", 100) + tcp_row("0100007F:7530", "0A", 200));
  machine.write("proc/net/tcp6", kTcpHead + tcp_row("00000000000000000000000000000000:7531", "0A", 300) +
                                     tcp_row("00000000000000000000000001000000:7532", "0A", 100));
  CHECK(listener_on_tcp("127.0.0.1", 30000, machine.root()) == ProcessId{20, 600});
  CHECK(listener_on_tcp("127.0.0.2", 30000, machine.root()) == ProcessId{10, 500});
  CHECK(listener_on_tcp("127.0.0.1", 30001, machine.root()) == ProcessId{30, 700});
  CHECK(listener_on_tcp("::1", 30002, machine.root()) == ProcessId{10, 500});
  CHECK_FALSE(listener_on_tcp("127.0.0.1", 30002, machine.root()));
  CHECK_FALSE(listener_on_tcp("127.0.0.1", 30003, machine.root()));
}

TEST_CASE("of several that have the socket the first to start is meant") {
  Machine machine;
  machine.process(7, 900, {"socket:[5]"});
  machine.process(9, 300, {"socket:[5]"});
  machine.process(8, 300, {"socket:[5]"});
  machine.write("proc/net/unix",
                "Num       RefCount Protocol Flags    Type St Inode Path\n"
                "0000000000000000: 00000002 00000000 00010000 0001 01 5 /run/a b.sock\n"
                "0000000000000000: 00000003 00000000 00000000 0001 03 6 /run/c.sock\n");
  CHECK(listener_on_unix("/run/a b.sock", machine.root()) == ProcessId{8, 300});
  CHECK_FALSE(listener_on_unix("/run/c.sock", machine.root()));
  CHECK_FALSE(listener_on_unix("/run/a", machine.root()));
}

TEST_CASE("what cannot be read is absent: no /proc, no permission, damaged tables") {
  Machine machine;
  CHECK_FALSE(listener_on_tcp("127.0.0.1", 30000, machine.root()));
  CHECK_FALSE(listener_on_unix("/run/a.sock", machine.root()));
  machine.write("proc/net/tcp", "x\n\n   \n 0: zz:7530 y 0A\n" + tcp_row("0100007F", "0A", 1) +
                                    tcp_row("01Z0007F:7530", "0A", 1) + tcp_row("0100007F:7530", "0A", 4));
  CHECK_FALSE(listener_on_tcp("127.0.0.1", 30001, machine.root()));
}

TEST_CASE("a process whose descriptors cannot be seen is told by its socket, which a restart changes") {
  Machine machine;
  machine.process(10, 500, {"socket:[100]"});
  machine.write("proc/net/tcp", kTcpHead + tcp_row("0100007F:7530", "0A", 4711) + tcp_row("0100007F:7530", "0A", 4712));
  CHECK(listener_on_tcp("127.0.0.1", 30000, machine.root()) == ProcessId{0, 4711});
  machine.write("proc/net/tcp", kTcpHead + tcp_row("0100007F:7530", "0A", 4805));
  CHECK(listener_on_tcp("127.0.0.1", 30000, machine.root()) == ProcessId{0, 4805});
}
