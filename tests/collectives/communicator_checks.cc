#include "tests/collectives/communicator_checks.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "absl/strings/str_cat.h"
#include "collectives/agree.h"
#include "kernels/base/status_macros.h"
#include "tests/collectives/check_data.h"

namespace longspan {
namespace {

absl::Status CheckBroadcast(Communicator& c) {
  Findings findings;
  for (const int64_t bytes : {0, 1, 4097, 3 << 20}) {
    for (int root = 0; root < c.size(); ++root) {
      const std::vector<char> expected = MakeBytes(bytes + root, bytes);
      std::vector<char> data = c.rank() == root ? expected : std::vector<char>(bytes, 'x');
      LONGSPAN_RETURN_IF_ERROR(c.Broadcast("data", data.data(), bytes, root));
      findings.Expect(data == expected, absl::StrCat(bytes, " bytes from ", root));
    }
  }
  return findings.status();
}

absl::Status CheckAllGather(Communicator& c) {
  Findings findings;
  for (const int64_t bytes : {0, 1, 16384, 1'500'001}) {
    const std::vector<char> expected = GatheredBytes(bytes, bytes, c.size());
    const std::vector<char> own = MakeBytes(bytes + c.rank(), bytes);
    std::vector<char> all(bytes * c.size());
    LONGSPAN_RETURN_IF_ERROR(c.AllGather("parts", own.data(), all.data(), bytes));
    findings.Expect(all == expected, absl::StrCat(bytes, " bytes"));

    std::vector<char> in_place(bytes * c.size());
    char* part = in_place.data() + bytes * c.rank();
    std::copy(own.begin(), own.end(), part);
    LONGSPAN_RETURN_IF_ERROR(c.AllGather("in place", part, in_place.data(), bytes));
    findings.Expect(in_place == expected, absl::StrCat(bytes, " bytes in place"));
  }
  return findings.status();
}

absl::Status CheckAllGatherV(Communicator& c) {
  Findings findings;
  std::mt19937 random(1);
  for (int round = 0; round < 20; ++round) {
    std::vector<int64_t> bytes(c.size());
    for (int64_t& b : bytes) b = random() % 3 == 0 ? 0 : random() % (1 << (random() % 18));
    if (round == 0) std::fill(bytes.begin(), bytes.end(), 0);
    std::vector<char> expected;
    for (int r = 0; r < c.size(); ++r) {
      const std::vector<char> part = MakeBytes(1000 * round + r, bytes[r]);
      expected.insert(expected.end(), part.begin(), part.end());
    }
    const std::vector<char> own = MakeBytes(1000 * round + c.rank(), bytes[c.rank()]);
    std::vector<char> all(expected.size());
    LONGSPAN_RETURN_IF_ERROR(c.AllGatherV("parts", own.data(), all.data(), bytes));
    findings.Expect(all == expected, absl::StrCat("round ", round));
  }
  return findings.status();
}

absl::Status CheckAllReduceMax(Communicator& c) {
  Findings findings;
  for (const int64_t count : {0, 1, 4096, 100'003}) {
    std::vector<float> values = MakeFloats(c.rank(), count);
    LONGSPAN_RETURN_IF_ERROR(c.AllReduceMax("maxima", values.data(), count));
    findings.Expect(SameBits(values, Maxima(count, c.size())), absl::StrCat(count, " values"));
  }
  return findings.status();
}

std::vector<double> MakeDoubles(int rank, int64_t count) {
  std::mt19937_64 random(rank + 5);
  std::vector<double> values(count);
  for (double& v : values) v = std::ldexp(static_cast<double>(random()), random() % 64);
  return values;
}

absl::Status CheckAllReduceSum(Communicator& c) {
  Findings findings;
  for (const int64_t count : {0, 1, 1000, 300'001}) {
    std::vector<double> expected(count, 0.0);
    for (int r = 0; r < c.size(); ++r) {
      const std::vector<double> values = MakeDoubles(r, count);
      for (int64_t i = 0; i < count; ++i) expected[i] += values[i];
    }
    std::vector<double> values = MakeDoubles(c.rank(), count);
    LONGSPAN_RETURN_IF_ERROR(c.AllReduceSum("sums", values.data(), count));
    findings.Expect(SameBits(values, expected), absl::StrCat(count, " values"));
  }
  return findings.status();
}

absl::Status CheckAllReduceSumOfIntegers(Communicator& c) {
  Findings findings;
  for (const int64_t count : {0, 1, 1000, 300'001}) {
    std::vector<uint32_t> values = MakeIntegers(c.rank(), count);
    LONGSPAN_RETURN_IF_ERROR(c.AllReduceSum("counts", values.data(), count));
    findings.Expect(values == Sums(count, c.size()), absl::StrCat(count, " values"));
  }
  const CallStats counted = c.stats().find("counts")->second;
  findings.Expect(counted.calls == 4, "calls");
  findings.Expect(counted.bytes_sent == int64_t{4} * 301'002 * (c.size() - 1), "bytes");
  return findings.status();
}

// One random exchange: every rank draws all messages of all pairs and takes part in its own.
struct RandomExchange {
  ExchangeId id{};
  std::vector<std::vector<char>> sent, received, expected;

  absl::Status Start(Communicator& c, uint64_t seed) {
    std::mt19937_64 random(seed);
    std::vector<int> send_peers, receive_peers;
    for (int from = 0; from < c.size(); ++from) {
      for (int to = 0; to < c.size(); ++to) {
        for (int n = random() % 3; n > 0; --n) {
          int64_t bytes = random() % 4 == 0 ? 0 : random() % (1 << (random() % 16));
          if (random() % 100 == 0) bytes = (2 << 20) + random() % 1000;
          const uint64_t key = random();
          // Empty transfers may be listed by one side and not by the other.
          if (from == c.rank() && (bytes > 0 || key % 2 == 0)) {
            sent.push_back(MakeBytes(key, bytes));
            send_peers.push_back(to);
          }
          if (to == c.rank() && (bytes > 0 || key % 3 == 0)) {
            expected.push_back(MakeBytes(key, bytes));
            received.emplace_back(bytes);
            receive_peers.push_back(from);
          }
        }
      }
    }
    const auto started =
        c.StartExchange("random", Transfers(sent, send_peers), Transfers(received, receive_peers));
    if (started.ok()) id = *started;
    return started.status();
  }

  static std::vector<Transfer> Transfers(std::vector<std::vector<char>>& buffers,
                                         const std::vector<int>& peers) {
    std::vector<Transfer> transfers;
    for (size_t i = 0; i < buffers.size(); ++i) {
      transfers.push_back({peers[i], buffers[i].data(), static_cast<int64_t>(buffers[i].size())});
    }
    return transfers;
  }
};

// Up to four exchanges in flight, waited for in an order that differs between ranks, with other
// calls in between.
absl::Status CheckRandomExchanges(Communicator& c) {
  Findings findings;
  for (uint64_t round = 0; round < 30; ++round) {
    std::vector<RandomExchange> exchanges(1 + round % 4);
    for (size_t i = 0; i < exchanges.size(); ++i) {
      LONGSPAN_RETURN_IF_ERROR(exchanges[i].Start(c, 100 * round + i));
      c.Progress();
    }
    if (round % 3 == 0) LONGSPAN_RETURN_IF_ERROR(c.Barrier("between start and wait"));
    std::shuffle(exchanges.begin(), exchanges.end(), std::mt19937(100 * round + c.rank()));
    for (RandomExchange& exchange : exchanges) {
      LONGSPAN_RETURN_IF_ERROR(c.WaitExchange(exchange.id));
      findings.Expect(exchange.received == exchange.expected, absl::StrCat("round ", round));
    }
  }
  return findings.status();
}

// In step i a rank sends to rank + i and receives from rank - i; the next step starts before the
// last one is waited for.
absl::Status CheckRing(Communicator& c) {
  const int n = c.size();
  const int64_t bytes = 200'000;
  std::vector<char> own = MakeBytes(c.rank(), bytes);
  std::vector<std::vector<char>> received(n, std::vector<char>(bytes));
  std::vector<ExchangeId> steps;
  Findings findings;
  for (int i = 0; i < n; ++i) {
    const Transfer send{(c.rank() + i) % n, own.data(), bytes};
    const Transfer receive{(c.rank() - i + n) % n, received[i].data(), bytes};
    LONGSPAN_ASSIGN_OR_RETURN(const ExchangeId id, c.StartExchange("ring", {send}, {receive}));
    steps.push_back(id);
    if (i > 0) LONGSPAN_RETURN_IF_ERROR(c.WaitExchange(steps[i - 1]));
  }
  LONGSPAN_RETURN_IF_ERROR(c.WaitExchange(steps.back()));
  for (int i = 0; i < n; ++i) {
    findings.Expect(received[i] == MakeBytes((c.rank() - i + n) % n, bytes),
                    absl::StrCat("step ", i));
  }
  return findings.status();
}

absl::Status CheckStats(Communicator& c) {
  std::vector<char> own(100), all(100 * c.size());
  for (int i = 0; i < 3; ++i) {
    LONGSPAN_RETURN_IF_ERROR(c.AllGather("counted", own.data(), all.data(), 100));
  }
  const int next = (c.rank() + 1) % c.size();
  const int last = (c.rank() + c.size() - 1) % c.size();
  LONGSPAN_ASSIGN_OR_RETURN(const ExchangeId id,
                            c.StartExchange("counted exchange", {Transfer{next, own.data(), 50}},
                                            {Transfer{last, all.data(), 50}}));
  LONGSPAN_RETURN_IF_ERROR(c.WaitExchange(id));
  const CallStats gather = c.stats().find("counted")->second;
  const CallStats exchange = c.stats().find("counted exchange")->second;
  Findings findings;
  findings.Expect(gather.calls == 3, "calls of the all-gather");
  findings.Expect(gather.bytes_sent == 300 * (c.size() - 1), "bytes of the all-gather");
  findings.Expect(gather.seconds_waited > 0, "seconds of the all-gather");
  findings.Expect(exchange.calls == 1, "calls of the exchange");
  findings.Expect(exchange.bytes_sent == (c.size() > 1 ? 50 : 0), "bytes of the exchange");
  return findings.status();
}

// The error of the lowest rank that has one, on all ranks, and known as agreed on.
absl::Status CheckAgreeOnStatus(Communicator& communicator) {
  Findings findings;
  findings.Expect(AgreeOnStatus(&communicator, absl::OkStatus()).ok(), "all OK");
  const int last = communicator.size() - 1;
  const int first = std::max(0, last - 1);
  absl::Status mine;
  if (communicator.rank() >= first) {
    mine = absl::NotFoundError(absl::StrCat("of rank ", communicator.rank()));
  }
  const absl::Status agreed = AgreeOnStatus(&communicator, mine);
  findings.Expect(absl::IsNotFound(agreed) && agreed.message() == absl::StrCat("of rank ", first),
                  "whose error");
  findings.Expect(IsAgreed(agreed), "agreed");
  findings.Expect(!IsAgreed(mine) && !IsAgreed(absl::OkStatus()), "not agreed");
  return findings.status();
}

}  // namespace

const std::vector<CommunicatorCheck>& CommunicatorChecks() {
  static const auto* checks = new std::vector<CommunicatorCheck>{
      {"Broadcast", CheckBroadcast},
      {"AllGather", CheckAllGather},
      {"AllGatherV", CheckAllGatherV},
      {"AllReduceMax", CheckAllReduceMax},
      {"AllReduceSum", CheckAllReduceSum},
      {"AllReduceSumOfIntegers", CheckAllReduceSumOfIntegers},
      {"RandomExchanges", CheckRandomExchanges},
      {"Ring", CheckRing},
      {"Stats", CheckStats},
      {"AgreeOnStatus", CheckAgreeOnStatus},
  };
  return *checks;
}

}  // namespace longspan
