#include "common/listener.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <ifaddrs.h>
#include <netinet/in.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <memory>
#include <set>
#include <sstream>
#include <string_view>
#include <vector>

#include "common/files.h"

namespace ckptd {
namespace {

constexpr std::uint64_t kTableBytes = 64 << 20;
constexpr std::string_view kListening = "0A";              // TCP_LISTEN, in the column "st"
constexpr std::uint64_t kAcceptsConnections = 0x00010000;  // __SO_ACCEPTCON, in the column "Flags"

/// An IPv4 address is kept as IPv6 keeps it, ::ffff:a.b.c.d.
using Address = std::array<unsigned char, 16>;

Address mapped(const unsigned char* four) {
  Address address{};
  address[10] = address[11] = 0xff;
  std::copy_n(four, 4, address.begin() + 12);
  return address;
}

bool is_any(const Address& address) {
  return address == Address{} || address == mapped(std::array<unsigned char, 4>{}.data());
}

bool is_loopback(const Address& address) {
  constexpr Address kSix{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1};
  return address == kSix || (address[10] == 0xff && address[12] == 127);
}

std::optional<Address> parsed(const std::string& host) {
  std::array<unsigned char, 4> four{};
  if (::inet_pton(AF_INET, host.c_str(), four.data()) == 1) return mapped(four.data());
  Address six{};
  if (::inet_pton(AF_INET6, host.c_str(), six.data()) == 1) return six;
  return std::nullopt;
}

bool is_of_this_machine(const Address& address) {
  ifaddrs* list = nullptr;
  if (::getifaddrs(&list) != 0) return false;
  const std::unique_ptr<ifaddrs, decltype(&::freeifaddrs)> owner(list, ::freeifaddrs);
  for (auto* entry = list; entry != nullptr; entry = entry->ifa_next) {
    if (entry->ifa_addr == nullptr) continue;
    if (entry->ifa_addr->sa_family == AF_INET) {
      std::array<unsigned char, 4> four{};
      std::memcpy(four.data(), &reinterpret_cast<sockaddr_in*>(entry->ifa_addr)->sin_addr, 4);
      if (mapped(four.data()) == address) return true;
    } else if (entry->ifa_addr->sa_family == AF_INET6) {
      Address six{};
      std::memcpy(six.data(), &reinterpret_cast<sockaddr_in6*>(entry->ifa_addr)->sin6_addr, 16);
      if (six == address) return true;
    }
  }
  return false;
}

/// The addresses that a server which is reached at `host` may be bound to, besides "any". Empty: not of this machine.
std::vector<Address> local_addresses(const std::string& host) {
  std::array<char, 256> name{};
  const bool is_ours = ::gethostname(name.data(), name.size() - 1) == 0 && host == name.data();
  if (host == "localhost" || is_ours) {
    const std::array<unsigned char, 4> four{127, 0, 0, 1};
    return {mapped(four.data()), *parsed("::1")};
  }
  const auto address = parsed(host);
  if (!address || !(is_loopback(*address) || is_of_this_machine(*address))) return {};
  return {*address};
}

std::vector<std::string_view> words_of(std::string_view line) {
  std::vector<std::string_view> words;
  for (auto at = line.find_first_not_of(' '); at != line.npos; at = line.find_first_not_of(' ', at)) {
    words.push_back(line.substr(at, line.find(' ', at) - at));
    at += words.back().size();
    if (at >= line.size()) break;
  }
  return words;
}

std::optional<std::uint64_t> hexadecimal(std::string_view text) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, 16);
  if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return value;
}

/// The kernel writes each 32-bit word of an address as a number of its own byte order.
std::optional<Address> from_table(std::string_view digits) {
  if (digits.size() != 8 && digits.size() != 32) return std::nullopt;
  Address bytes{};
  for (std::size_t word = 0; word < digits.size() / 8; ++word) {
    const auto value = hexadecimal(digits.substr(word * 8, 8));
    if (!value) return std::nullopt;
    const auto four = static_cast<std::uint32_t>(*value);
    std::memcpy(bytes.data() + word * 4, &four, 4);
  }
  return digits.size() == 8 ? mapped(bytes.data()) : bytes;
}

/// Inodes of the sockets that listen on `port`: those bound to the address itself, else those bound to any.
std::set<std::string> listening_inodes(const std::vector<Address>& addresses, std::uint16_t port,
                                       const std::string& root) {
  std::set<std::string> exact, any;
  for (const auto* table : {"/proc/net/tcp", "/proc/net/tcp6"}) {
    const auto text = read_small_file(root + table, kTableBytes);
    if (!text) continue;
    std::istringstream lines(*text);
    for (std::string line; std::getline(lines, line);) {
      const auto words = words_of(line);  // sl local_address rem_address st queues timer retransmit uid timeout inode
      if (words.size() < 10 || words[3] != kListening) continue;
      const auto colon = words[1].find(':');
      if (colon == words[1].npos || hexadecimal(words[1].substr(colon + 1)) != port) continue;
      const auto bound = from_table(words[1].substr(0, colon));
      if (!bound) continue;
      if (std::ranges::find(addresses, *bound) != addresses.end())
        exact.emplace(words[9]);
      else if (is_any(*bound))
        any.emplace(words[9]);
    }
  }
  return exact.empty() ? any : exact;
}

struct CloseDirectory {
  void operator()(DIR* directory) const { ::closedir(directory); }
};
using Directory = std::unique_ptr<DIR, CloseDirectory>;

/// Nothing when it could not be looked for: we are short of something.
std::optional<bool> has_socket(const std::string& process, const std::set<std::string>& inodes) {
  constexpr std::string_view kSocket = "socket:[";
  const auto path = process + "/fd";
  const Directory directory(::opendir(path.c_str()));
  if (!directory && (errno == EMFILE || errno == ENFILE || errno == ENOMEM)) return std::nullopt;
  if (!directory) return false;  // not ours to read, or ended meanwhile
  while (const auto* entry = ::readdir(directory.get())) {
    std::array<char, 64> target;
    const auto size = ::readlinkat(::dirfd(directory.get()), entry->d_name, target.data(), target.size());
    if (size <= 0) continue;
    std::string_view text(target.data(), static_cast<std::size_t>(size));
    if (!text.starts_with(kSocket) || !text.ends_with(']')) continue;
    if (inodes.contains(std::string(text.substr(kSocket.size(), text.size() - kSocket.size() - 1)))) return true;
  }
  return false;
}

/// Of a socket whose process cannot be seen.
std::optional<ProcessId> socket_alone(const std::set<std::string>& inodes) {
  std::optional<ProcessId> lowest;
  for (const auto& inode : inodes) {
    std::uint64_t number = 0;
    const auto [end, error] = std::from_chars(inode.data(), inode.data() + inode.size(), number);
    if (error != std::errc{} || number == 0) continue;
    if (!lowest || number < lowest->started) lowest = ProcessId{0, number};
  }
  return lowest;
}

std::optional<ProcessId> holder_of(const std::set<std::string>& inodes, const std::string& root) {
  if (inodes.empty()) return std::nullopt;
  const Directory proc(::opendir((root + "/proc").c_str()));
  if (!proc) return std::nullopt;
  std::optional<ProcessId> first;
  while (const auto* entry = ::readdir(proc.get())) {
    const std::string_view name(entry->d_name);
    int pid = 0;
    const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), pid);
    if (error != std::errc{} || end != name.data() + name.size()) continue;
    const auto has = has_socket(root + "/proc/" + std::string(name), inodes);
    if (!has) return std::nullopt;
    if (!*has) continue;
    const auto process = process_with(pid, root);
    const auto earlier = [](const ProcessId& a, const ProcessId& b) {
      return a.started != b.started ? a.started < b.started : a.pid < b.pid;
    };
    if (!first || earlier(process, *first)) first = process;
  }
  return first ? first : socket_alone(inodes);
}

}  // namespace

std::optional<ProcessId> listener_on_tcp(const std::string& host, std::uint16_t port, const std::string& root) {
  const auto addresses = local_addresses(host);
  if (addresses.empty()) return std::nullopt;
  return holder_of(listening_inodes(addresses, port, root), root);
}

std::optional<ProcessId> listener_on_unix(const std::string& path, const std::string& root) {
  const auto text = read_small_file(root + "/proc/net/unix", kTableBytes);
  if (!text) return std::nullopt;
  std::set<std::string> inodes;
  std::istringstream lines(*text);
  for (std::string line; std::getline(lines, line);) {
    const auto words = words_of(line);  // num refcount protocol flags type state inode path
    if (words.size() < 8) continue;
    const auto flags = hexadecimal(words[3]);
    if (!flags || (*flags & kAcceptsConnections) == 0) continue;
    const auto at = static_cast<std::size_t>(words[7].data() - line.data());  // a path may hold blanks
    if (std::string_view(line).substr(at) == path) inodes.emplace(words[6]);
  }
  return holder_of(inodes, root);
}

}  // namespace ckptd
