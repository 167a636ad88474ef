#include "collectives/heartbeat.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <optional>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "collectives/agree.h"
#include "collectives/hosts.h"
#include "kernels/base/status_macros.h"

namespace longspan {
namespace {

constexpr char kBeat = '.', kGoodbye = '!';
constexpr absl::Duration kSetupLimit = absl::Seconds(10);
constexpr absl::Duration kTryLimit = absl::Seconds(2);           // of one address
constexpr absl::Duration kHelloLimit = absl::Milliseconds(500);  // of who has connected
constexpr int kMaxAddresses = 16;

// Of a clock that never jumps.
absl::Time Now() {
  return absl::UnixEpoch() + absl::FromChrono(std::chrono::steady_clock::now().time_since_epoch());
}

class Socket {
 public:
  explicit Socket(int fd = -1) : fd_(fd) {}
  Socket(Socket&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Socket& operator=(Socket&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Socket() {
    if (fd_ >= 0) close(fd_);
  }
  int fd() const { return fd_; }
  bool valid() const { return fd_ >= 0; }

 private:
  int fd_;
};

// How rank 0 can be reached.
struct Announcement {
  uint16_t port = 0;
  uint64_t token = 0;  // tells ranks of this job from whoever else connects
  int32_t count = 0;
  std::array<in_addr, kMaxAddresses> addresses = {};
};

// The first message of a rank.
struct Hello {
  uint64_t token = 0;
  int32_t rank = 0;
};

// Waits until `fd` can be read or written (`events`), or the time has come.
bool WaitUntil(int fd, int16_t events, absl::Time end) {
  while (true) {
    pollfd wanted = {fd, events, 0};
    const int64_t left = std::max<int64_t>(0, absl::ToInt64Milliseconds(end - Now()));
    const int ready = poll(&wanted, 1, static_cast<int>(left));
    if (ready > 0) return true;
    if (ready == 0 || errno != EINTR) return false;
  }
}

Socket NewSocket() {
  return Socket(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
}

// Listens at any port; the loopback address comes first.
absl::StatusOr<Socket> Listen(Announcement* announcement) {
  Socket listener = NewSocket();
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  socklen_t size = sizeof(address);
  auto* const raw = reinterpret_cast<sockaddr*>(&address);
  if (!listener.valid() || bind(listener.fd(), raw, size) != 0 ||
      listen(listener.fd(), SOMAXCONN) != 0 || getsockname(listener.fd(), raw, &size) != 0) {
    return absl::UnavailableError(absl::StrCat("no socket for heartbeats: ", strerror(errno)));
  }
  announcement->port = ntohs(address.sin_port);
  std::random_device random;
  announcement->token = (uint64_t{random()} << 32) | random();
  ifaddrs* interfaces = nullptr;
  if (getifaddrs(&interfaces) != 0) return listener;
  for (const bool loopback : {true, false}) {
    for (const ifaddrs* i = interfaces; i != nullptr; i = i->ifa_next) {
      if (i->ifa_addr == nullptr || i->ifa_addr->sa_family != AF_INET ||
          (i->ifa_flags & IFF_UP) == 0 || ((i->ifa_flags & IFF_LOOPBACK) != 0) != loopback ||
          announcement->count == kMaxAddresses) {
        continue;
      }
      announcement->addresses[announcement->count++] =
          reinterpret_cast<const sockaddr_in*>(i->ifa_addr)->sin_addr;
    }
  }
  freeifaddrs(interfaces);
  return listener;
}

// Who connects must know the token, so a wrong host's loopback interface does no harm.
absl::StatusOr<Socket> Connect(const Announcement& announcement, int rank, bool same_host) {
  std::string tried;
  for (int i = 0; i < announcement.count; ++i) {
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_port = htons(announcement.port);
    address.sin_addr = announcement.addresses[i];
    const bool is_loopback = ntohl(address.sin_addr.s_addr) >> 24 == 127;
    if (is_loopback != same_host) continue;
    absl::StrAppend(&tried, tried.empty() ? "" : ", ", inet_ntoa(address.sin_addr));
    Socket peer = NewSocket();
    const auto* raw = reinterpret_cast<const sockaddr*>(&address);
    if (connect(peer.fd(), raw, sizeof(address)) != 0 && errno != EINPROGRESS) continue;
    int error = 0;
    socklen_t size = sizeof(error);
    if (!WaitUntil(peer.fd(), POLLOUT, Now() + kTryLimit) ||
        getsockopt(peer.fd(), SOL_SOCKET, SO_ERROR, &error, &size) != 0 || error != 0) {
      continue;
    }
    const Hello hello = {announcement.token, rank};
    if (send(peer.fd(), &hello, sizeof(hello), MSG_NOSIGNAL) != sizeof(hello)) continue;
    return peer;
  }
  return absl::UnavailableError(absl::StrCat("rank ", rank, " cannot connect to rank 0 at port ",
                                             announcement.port, " of ", tried));
}

// [rank], that of rank 0 itself invalid.
absl::StatusOr<std::vector<Socket>> Accept(const Socket& listener, uint64_t token, int ranks) {
  std::vector<Socket> peers(ranks);
  const absl::Time end = Now() + kSetupLimit;
  for (int missing = ranks - 1; missing > 0;) {
    if (!WaitUntil(listener.fd(), POLLIN, end)) {
      return absl::UnavailableError(absl::StrCat(missing, " ranks did not connect"));
    }
    Socket peer(accept4(listener.fd(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    Hello hello;
    if (!peer.valid() || !WaitUntil(peer.fd(), POLLIN, std::min(end, Now() + kHelloLimit)) ||
        recv(peer.fd(), &hello, sizeof(hello), 0) != sizeof(hello) || hello.token != token ||
        hello.rank <= 0 || hello.rank >= ranks || peers[hello.rank].valid()) {
      continue;
    }
    peers[hello.rank] = std::move(peer);
    --missing;
  }
  return peers;
}

class HeartbeatImpl final : public Heartbeat {
 public:
  struct Peer {
    int rank;
    std::string host;
    Socket socket;
    absl::Time heard;
    bool has_left = false;  // in order
    bool is_silent = false;
  };

  HeartbeatImpl(const HeartbeatOptions& options, std::vector<Peer> peers,
                std::function<void(const LostRank&)> on_lost)
      : options_(options), peers_(std::move(peers)), on_lost_(std::move(on_lost)) {
    thread_ = std::thread([this] { Watch(); });
  }
  ~HeartbeatImpl() override {
    stopping_ = true;
    thread_.join();
    for (const Peer& peer : peers_) Send(peer, kGoodbye);
  }

 private:
  static void Send(const Peer& peer, char byte) {
    (void)send(peer.socket.fd(), &byte, 1, MSG_NOSIGNAL | MSG_DONTWAIT);  // a failure shows in recv
  }

  void Watch() {
    absl::Time next_beat = Now(), last = next_beat;
    for (Peer& peer : peers_) peer.heard = next_beat;
    while (!stopping_) {
      const absl::Time now = Now();
      // This process was stopped itself, and so may all have been: the silence says nothing.
      if (now - last > options_.interval) {
        for (Peer& peer : peers_) peer.heard = now;
      }
      last = now;
      if (now >= next_beat) {
        for (const Peer& peer : peers_) Send(peer, kBeat);
        next_beat = now + options_.interval;
      }
      std::vector<pollfd> wanted;
      for (const Peer& peer : peers_) {
        wanted.push_back({peer.has_left ? -1 : peer.socket.fd(), POLLIN, 0});
      }
      const int ready = poll(wanted.data(), wanted.size(), 100);
      for (size_t p = 0; p < peers_.size(); ++p) {
        const auto lost = Check(&peers_[p], ready > 0 && wanted[p].revents != 0);
        if (lost) return on_lost_(*lost);
      }
      if (options_.on_silent) TellSilent();
    }
  }

  void TellSilent() {
    std::string silent;  // since the last time
    for (Peer& peer : peers_) {
      const bool was_silent = peer.is_silent;
      peer.is_silent = !peer.has_left && Now() - peer.heard > options_.silence;
      if (peer.is_silent && !was_silent) {
        absl::StrAppend(&silent, silent.empty() ? "" : ", ", Who(peer));
      }
    }
    if (!silent.empty()) options_.on_silent(silent);
  }

  static std::string Who(const Peer& peer) {
    return absl::StrCat("rank ", peer.rank, " on ", peer.host);
  }

  // Null: the peer is there, or has left in order.
  std::optional<LostRank> Check(Peer* peer, bool is_readable) {
    if (peer->has_left) return std::nullopt;
    if (is_readable) {
      char bytes[64];
      const ssize_t got = recv(peer->socket.fd(), bytes, sizeof(bytes), MSG_DONTWAIT);
      if (got == 0) return LostRank{absl::StrCat(Who(*peer), " has ended"), true};
      if (got < 0 && errno != EAGAIN) {
        return LostRank{absl::StrCat(Who(*peer), ": ", strerror(errno)), errno == ECONNRESET};
      }
      if (got > 0) peer->heard = Now();
      peer->has_left = got > 0 && bytes[got - 1] == kGoodbye;
    } else if (Now() - peer->heard > options_.limit) {
      return LostRank{
          absl::StrCat(Who(*peer), " was not heard of for ", absl::FormatDuration(options_.limit)),
          false};
    }
    return std::nullopt;
  }

  const HeartbeatOptions options_;
  std::vector<Peer> peers_;
  const std::function<void(const LostRank&)> on_lost_;
  std::atomic<bool> stopping_ = false;
  std::thread thread_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Heartbeat>> Heartbeat::Start(
    Communicator& communicator, const HeartbeatOptions& options,
    std::function<void(const LostRank&)> on_lost) {
  const int rank = communicator.rank();
  LONGSPAN_ASSIGN_OR_RETURN(const std::vector<std::string> hosts, HostNames(communicator));
  Announcement announcement;
  absl::StatusOr<Socket> listener;
  if (rank == 0) listener = Listen(&announcement);
  LONGSPAN_RETURN_IF_ERROR(
      AgreeOnStatus(&communicator, rank == 0 ? listener.status() : absl::OkStatus()));
  LONGSPAN_RETURN_IF_ERROR(
      communicator.Broadcast("heartbeat.address", &announcement, sizeof(announcement), 0));
  std::vector<HeartbeatImpl::Peer> peers;
  absl::Status status;
  if (rank == 0) {
    absl::StatusOr<std::vector<Socket>> sockets =
        Accept(*listener, announcement.token, communicator.size());
    status = sockets.status();
    for (int r = 1; status.ok() && r < communicator.size(); ++r) {
      peers.push_back({r, hosts[r], std::move((*sockets)[r]), absl::Time()});
    }
  } else {
    absl::StatusOr<Socket> socket = Connect(announcement, rank, hosts[rank] == hosts[0]);
    status = socket.status();
    if (status.ok()) peers.push_back({0, hosts[0], *std::move(socket), absl::Time()});
  }
  LONGSPAN_RETURN_IF_ERROR(AgreeOnStatus(&communicator, status));
  return std::make_unique<HeartbeatImpl>(options, std::move(peers), std::move(on_lost));
}

}  // namespace longspan
