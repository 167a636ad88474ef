#include "tests/collectives/device_communicator_checks.h"

#include <algorithm>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "kernels/cuda/device.h"
#include "tests/collectives/check_data.h"

namespace longspan {
namespace {

template <typename T>
int64_t BytesOf(const std::vector<T>& values) {
  return static_cast<int64_t>(values.size() * sizeof(T));
}

// A stream, and what goes to and from the device in it. Every buffer is poisoned first.
class Bench {
 public:
  static absl::StatusOr<Bench> Create(DeviceCommunicator& communicator) {
    Bench bench(communicator);
    LONGSPAN_ASSIGN_OR_RETURN(bench.stream_, cuda::StreamHandle::Create());
    return bench;
  }
  cuda::Stream stream() const { return stream_.get(); }

  absl::StatusOr<cuda::Buffer> Allocate(int64_t bytes) const {
    LONGSPAN_ASSIGN_OR_RETURN(cuda::Buffer buffer,
                              cuda::Buffer::Allocate(std::max<int64_t>(1, bytes)));
    LONGSPAN_RETURN_IF_ERROR(cuda::Fill(buffer.data(), 0xa5, buffer.bytes(), stream()));
    return buffer;
  }
  template <typename T>
  absl::Status Put(const std::vector<T>& values, void* to) const {
    if (values.empty()) return absl::OkStatus();
    LONGSPAN_RETURN_IF_ERROR(cuda::Copy(to, values.data(), BytesOf(values), stream()));
    return cuda::Synchronize(stream());  // `values` may go
  }
  template <typename T>
  absl::StatusOr<cuda::Buffer> Upload(const std::vector<T>& values) const {
    LONGSPAN_ASSIGN_OR_RETURN(cuda::Buffer buffer, Allocate(BytesOf(values)));
    LONGSPAN_RETURN_IF_ERROR(Put(values, buffer.data()));
    return buffer;
  }
  // After all that is in the stream, by way of the communicator's own wait.
  template <typename T>
  absl::StatusOr<std::vector<T>> Download(const void* data, int64_t count) const {
    LONGSPAN_RETURN_IF_ERROR(communicator_->Synchronize(stream()));
    std::vector<T> values(count);
    if (count == 0) return values;
    LONGSPAN_RETURN_IF_ERROR(cuda::Copy(values.data(), data, BytesOf(values), stream()));
    LONGSPAN_RETURN_IF_ERROR(cuda::Synchronize(stream()));
    return values;
  }

 private:
  explicit Bench(DeviceCommunicator& communicator) : communicator_(&communicator) {}

  DeviceCommunicator* communicator_;
  cuda::StreamHandle stream_;
};

absl::Status CheckAllGather(DeviceCommunicator& c) {
  LONGSPAN_ASSIGN_OR_RETURN(const Bench bench, Bench::Create(c));
  Findings findings;
  for (const int64_t bytes : {0, 1, 3, 16, 4097, 16384, 1 << 20}) {
    const std::vector<char> expected = GatheredBytes(bytes, bytes, c.size());
    const std::vector<char> own = MakeBytes(bytes + c.rank(), bytes);
    LONGSPAN_ASSIGN_OR_RETURN(const cuda::Buffer send, bench.Upload(own));
    LONGSPAN_ASSIGN_OR_RETURN(const cuda::Buffer receive, bench.Allocate(bytes * c.size()));
    LONGSPAN_RETURN_IF_ERROR(
        c.AllGather("parts", send.data(), receive.data(), bytes, bench.stream()));
    LONGSPAN_ASSIGN_OR_RETURN(const std::vector<char> all,
                              bench.Download<char>(receive.data(), bytes * c.size()));
    findings.Expect(all == expected, absl::StrCat(bytes, " bytes"));

    LONGSPAN_ASSIGN_OR_RETURN(const cuda::Buffer both, bench.Allocate(bytes * c.size()));
    std::byte* part = both.data() + bytes * c.rank();
    LONGSPAN_RETURN_IF_ERROR(bench.Put(own, part));
    LONGSPAN_RETURN_IF_ERROR(c.AllGather("in place", part, both.data(), bytes, bench.stream()));
    LONGSPAN_ASSIGN_OR_RETURN(const std::vector<char> in_place,
                              bench.Download<char>(both.data(), bytes * c.size()));
    findings.Expect(in_place == expected, absl::StrCat(bytes, " bytes in place"));
  }
  return findings.status();
}

// Many calls in a row, of sizes that go up and down, without a wait of the test in between.
absl::Status CheckManyAllGathers(DeviceCommunicator& c) {
  constexpr int kCalls = 200;
  LONGSPAN_ASSIGN_OR_RETURN(const Bench bench, Bench::Create(c));
  std::vector<int64_t> bytes, offsets;
  int64_t total = 0;
  for (int i = 0; i < kCalls; ++i) {
    bytes.push_back(int64_t{i} * 7919 % 5003);
    offsets.push_back(total);
    total += bytes.back();
  }
  std::vector<char> own;
  for (int i = 0; i < kCalls; ++i) {
    const std::vector<char> part = MakeBytes(1000 * i + c.rank(), bytes[i]);
    own.insert(own.end(), part.begin(), part.end());
  }
  LONGSPAN_ASSIGN_OR_RETURN(const cuda::Buffer send, bench.Upload(own));
  LONGSPAN_ASSIGN_OR_RETURN(const cuda::Buffer receive, bench.Allocate(total * c.size()));
  for (int i = 0; i < kCalls; ++i) {
    LONGSPAN_RETURN_IF_ERROR(c.AllGather("many", send.data() + offsets[i],
                                         receive.data() + offsets[i] * c.size(), bytes[i],
                                         bench.stream()));
  }
  LONGSPAN_ASSIGN_OR_RETURN(const std::vector<char> all,
                            bench.Download<char>(receive.data(), total * c.size()));
  Findings findings;
  for (int i = 0; i < kCalls; ++i) {
    const std::vector<char> expected = GatheredBytes(1000 * i, bytes[i], c.size());
    findings.Expect(
        std::equal(expected.begin(), expected.end(), all.begin() + offsets[i] * c.size()),
        absl::StrCat("call ", i));
  }
  return findings.status();
}

absl::Status CheckAllReduceMax(DeviceCommunicator& c) {
  LONGSPAN_ASSIGN_OR_RETURN(const Bench bench, Bench::Create(c));
  Findings findings;
  for (const int64_t count : {0, 1, 3, 4096, 100'003, 1 << 20}) {
    LONGSPAN_ASSIGN_OR_RETURN(const cuda::Buffer data, bench.Upload(MakeFloats(c.rank(), count)));
    LONGSPAN_RETURN_IF_ERROR(c.AllReduceMax("maxima", data.as<float>(), count, bench.stream()));
    LONGSPAN_ASSIGN_OR_RETURN(const std::vector<float> maxima,
                              bench.Download<float>(data.data(), count));
    findings.Expect(SameBits(maxima, Maxima(count, c.size())), absl::StrCat(count, " values"));
  }
  return findings.status();
}

absl::Status CheckAllReduceSum(DeviceCommunicator& c) {
  LONGSPAN_ASSIGN_OR_RETURN(const Bench bench, Bench::Create(c));
  Findings findings;
  for (const int64_t count : {0, 1, 3, 4096, 100'003, 1 << 20}) {
    LONGSPAN_ASSIGN_OR_RETURN(const cuda::Buffer data, bench.Upload(MakeIntegers(c.rank(), count)));
    LONGSPAN_RETURN_IF_ERROR(c.AllReduceSum("sums", data.as<uint32_t>(), count, bench.stream()));
    LONGSPAN_ASSIGN_OR_RETURN(const std::vector<uint32_t> sums,
                              bench.Download<uint32_t>(data.data(), count));
    findings.Expect(sums == Sums(count, c.size()), absl::StrCat(count, " values"));
  }
  return findings.status();
}

// In step i a rank sends to rank + i and receives from rank - i; in step 0 all to themselves.
absl::Status CheckRing(DeviceCommunicator& c) {
  constexpr int64_t kBytes = 200'001;
  const int n = c.size();
  LONGSPAN_ASSIGN_OR_RETURN(const Bench bench, Bench::Create(c));
  LONGSPAN_ASSIGN_OR_RETURN(const cuda::Buffer own, bench.Upload(MakeBytes(c.rank(), kBytes)));
  LONGSPAN_ASSIGN_OR_RETURN(const cuda::Buffer received, bench.Allocate(kBytes * n));
  for (int i = 0; i < n; ++i) {
    const Transfer send{(c.rank() + i) % n, own.data(), kBytes};
    const Transfer receive{(c.rank() - i + n) % n, received.data() + i * kBytes, kBytes};
    LONGSPAN_RETURN_IF_ERROR(c.Exchange("ring", {send}, {receive}, bench.stream()));
  }
  LONGSPAN_ASSIGN_OR_RETURN(const std::vector<char> all,
                            bench.Download<char>(received.data(), kBytes * n));
  Findings findings;
  for (int i = 0; i < n; ++i) {
    const std::vector<char> expected = MakeBytes((c.rank() - i + n) % n, kBytes);
    findings.Expect(std::equal(expected.begin(), expected.end(), all.begin() + i * kBytes),
                    absl::StrCat("step ", i));
  }
  return findings.status();
}

// Every rank draws all messages of all pairs, itself included, and takes part in its own.
absl::Status CheckRandomExchanges(DeviceCommunicator& c) {
  LONGSPAN_ASSIGN_OR_RETURN(const Bench bench, Bench::Create(c));
  Findings findings;
  for (uint64_t round = 0; round < 30; ++round) {
    std::mt19937_64 random(round);
    std::vector<Transfer> sends, receives;
    std::vector<cuda::Buffer> buffers;  // of sends and receives
    std::vector<std::vector<char>> expected;
    for (int from = 0; from < c.size(); ++from) {
      for (int to = 0; to < c.size(); ++to) {
        for (int n = random() % 3; n > 0; --n) {
          int64_t bytes = random() % 4 == 0 ? 0 : random() % (1 << (random() % 16));
          if (random() % 30 == 0) bytes = (1 << 20) + random() % 1000;
          const uint64_t key = random();
          // Empty transfers may be listed by one side and not by the other.
          if (from == c.rank() && (bytes > 0 || key % 2 == 0)) {
            LONGSPAN_ASSIGN_OR_RETURN(cuda::Buffer data, bench.Upload(MakeBytes(key, bytes)));
            sends.push_back({to, data.data(), bytes});
            buffers.push_back(std::move(data));
          }
          if (to == c.rank() && (bytes > 0 || key % 3 == 0)) {
            LONGSPAN_ASSIGN_OR_RETURN(cuda::Buffer data, bench.Allocate(bytes));
            receives.push_back({from, data.data(), bytes});
            buffers.push_back(std::move(data));
            expected.push_back(MakeBytes(key, bytes));
          }
        }
      }
    }
    LONGSPAN_RETURN_IF_ERROR(c.Exchange("random", sends, receives, bench.stream()));
    for (size_t i = 0; i < receives.size(); ++i) {
      LONGSPAN_ASSIGN_OR_RETURN(const std::vector<char> received,
                                bench.Download<char>(receives[i].data, receives[i].bytes));
      findings.Expect(received == expected[i], absl::StrCat("round ", round, ", message ", i));
    }
  }
  return findings.status();
}

// Work before a call is done when it reads, and work behind it finds what it wrote, without any
// wait of the host: the stream is kept busy so that whoever does not wait is too early.
absl::Status CheckStreamOrder(DeviceCommunicator& c) {
  constexpr int64_t kBytes = 5000, kBusyBytes = int64_t{256} << 20;
  constexpr int kRounds = 5;
  const int n = c.size();
  LONGSPAN_ASSIGN_OR_RETURN(const Bench bench, Bench::Create(c));
  LONGSPAN_ASSIGN_OR_RETURN(const cuda::Buffer busy, bench.Allocate(kBusyBytes));
  LONGSPAN_ASSIGN_OR_RETURN(const cuda::Buffer send, bench.Allocate(kBytes));
  LONGSPAN_ASSIGN_OR_RETURN(const cuda::Buffer receive, bench.Allocate(kBytes * n));
  LONGSPAN_ASSIGN_OR_RETURN(const cuda::Buffer gathered, bench.Allocate(kBytes * n * kRounds));
  LONGSPAN_ASSIGN_OR_RETURN(const cuda::Buffer exchanged, bench.Allocate(kBytes * kRounds));
  const cuda::Stream stream = bench.stream();
  const int next = (c.rank() + 1) % n, last = (c.rank() + n - 1) % n;
  const auto value_of = [](int round, int rank) { return (16 * round + rank + 1) & 0x7f; };
  for (int round = 0; round < kRounds; ++round) {
    for (int i = 0; i < 4; ++i) {
      LONGSPAN_RETURN_IF_ERROR(cuda::Fill(busy.data(), i, kBusyBytes, stream));
    }
    LONGSPAN_RETURN_IF_ERROR(cuda::Fill(send.data(), value_of(round, c.rank()), kBytes, stream));
    LONGSPAN_RETURN_IF_ERROR(c.AllGather("order", send.data(), receive.data(), kBytes, stream));
    LONGSPAN_RETURN_IF_ERROR(
        cuda::Copy(gathered.data() + round * kBytes * n, receive.data(), kBytes * n, stream));
    LONGSPAN_RETURN_IF_ERROR(cuda::Fill(receive.data(), 0, kBytes * n, stream));
    LONGSPAN_RETURN_IF_ERROR(c.Exchange("order", {Transfer{next, send.data(), kBytes}},
                                        {Transfer{last, receive.data(), kBytes}}, stream));
    LONGSPAN_RETURN_IF_ERROR(
        cuda::Copy(exchanged.data() + round * kBytes, receive.data(), kBytes, stream));
    LONGSPAN_RETURN_IF_ERROR(cuda::Fill(send.data(), 0, kBytes, stream));
  }
  LONGSPAN_ASSIGN_OR_RETURN(const std::vector<char> all,
                            bench.Download<char>(gathered.data(), kBytes * n * kRounds));
  LONGSPAN_ASSIGN_OR_RETURN(const std::vector<char> from_last,
                            bench.Download<char>(exchanged.data(), kBytes * kRounds));
  std::vector<char> all_expected, last_expected;
  for (int round = 0; round < kRounds; ++round) {
    for (int r = 0; r < n; ++r) {
      all_expected.insert(all_expected.end(), kBytes, static_cast<char>(value_of(round, r)));
    }
    last_expected.insert(last_expected.end(), kBytes, static_cast<char>(value_of(round, last)));
  }
  Findings findings;
  findings.Expect(all == all_expected, "all-gather");
  findings.Expect(from_last == last_expected, "exchange");
  return findings.status();
}

// Calls in turn in two streams, put in order by events alone: each reads what the one before
// brought.
absl::Status CheckTwoStreams(DeviceCommunicator& c) {
  constexpr int64_t kBytes = 5000, kBusyBytes = int64_t{256} << 20;
  constexpr int kRounds = 5;
  const int n = c.size();
  LONGSPAN_ASSIGN_OR_RETURN(const Bench bench, Bench::Create(c));
  LONGSPAN_ASSIGN_OR_RETURN(const cuda::StreamHandle ring, cuda::StreamHandle::CreateUrgent());
  LONGSPAN_ASSIGN_OR_RETURN(cuda::Event event, cuda::Event::Create());
  LONGSPAN_ASSIGN_OR_RETURN(const cuda::Buffer busy, bench.Allocate(kBusyBytes));
  LONGSPAN_ASSIGN_OR_RETURN(const cuda::Buffer send, bench.Upload(MakeBytes(c.rank(), kBytes)));
  LONGSPAN_ASSIGN_OR_RETURN(const cuda::Buffer receive, bench.Allocate(kBytes * n));
  const int next = (c.rank() + 1) % n, last = (c.rank() + n - 1) % n;
  for (int round = 0; round < kRounds; ++round) {
    LONGSPAN_RETURN_IF_ERROR(cuda::Fill(busy.data(), round, kBusyBytes, bench.stream()));
    LONGSPAN_RETURN_IF_ERROR(
        c.AllGather("main", send.data(), receive.data(), kBytes, bench.stream()));
    LONGSPAN_RETURN_IF_ERROR(event.Record(bench.stream()));
    LONGSPAN_RETURN_IF_ERROR(cuda::WaitFor(ring.get(), event));
    // Of what was gathered, the part of the rank behind: all parts go round by one.
    LONGSPAN_RETURN_IF_ERROR(cuda::Fill(busy.data(), round, kBusyBytes, ring.get()));
    LONGSPAN_RETURN_IF_ERROR(c.Exchange("ring",
                                        {Transfer{next, receive.data() + last * kBytes, kBytes}},
                                        {Transfer{last, send.data(), kBytes}}, ring.get()));
    LONGSPAN_RETURN_IF_ERROR(event.Record(ring.get()));
    LONGSPAN_RETURN_IF_ERROR(cuda::WaitFor(bench.stream(), event));
  }
  LONGSPAN_ASSIGN_OR_RETURN(const std::vector<char> held,
                            bench.Download<char>(send.data(), kBytes));
  // A round brings what the rank two before held.
  const int origin = ((c.rank() - 2 * kRounds) % n + n) % n;
  Findings findings;
  findings.Expect(held == MakeBytes(origin, kBytes), "what went round");
  return findings.status();
}

// The first gather between such memory is captured, as that of a job whose prompts are short.
absl::Status CheckSharedInGraph(DeviceCommunicator& c) {
  constexpr int64_t kBytes = 3000, kOffset = 4096;
  LONGSPAN_ASSIGN_OR_RETURN(const Bench bench, Bench::Create(c));
  LONGSPAN_ASSIGN_OR_RETURN(std::byte* const shared, c.AllocateShared(kOffset + kBytes * c.size()));
  if (!c.stream_ordered()) return absl::OkStatus();
  LONGSPAN_ASSIGN_OR_RETURN(const cuda::Graph graph, cuda::Graph::Capture(bench.stream(), [&] {
                              return c.AllGather("captured", shared, shared + kOffset, kBytes,
                                                 bench.stream());
                            }));
  Findings findings;
  for (int replay = 0; replay < 3; ++replay) {
    const uint64_t key = 100 * replay;
    LONGSPAN_RETURN_IF_ERROR(bench.Put(MakeBytes(key + c.rank(), kBytes), shared));
    LONGSPAN_RETURN_IF_ERROR(graph.Launch(bench.stream()));
    LONGSPAN_ASSIGN_OR_RETURN(const std::vector<char> all,
                              bench.Download<char>(shared + kOffset, kBytes * c.size()));
    findings.Expect(all == GatheredBytes(key, kBytes, c.size()), absl::StrCat("replay ", replay));
  }
  return findings.status();
}

// Gathers between memory that the communicator gave, at several places in it.
absl::Status CheckShared(DeviceCommunicator& c) {
  constexpr int64_t kMost = 100'000;
  LONGSPAN_ASSIGN_OR_RETURN(const Bench bench, Bench::Create(c));
  // Of another size on each rank.
  const int64_t odd = int64_t{3'000'000} * c.rank();
  LONGSPAN_ASSIGN_OR_RETURN(std::byte* const send, c.AllocateShared(kMost + odd));
  LONGSPAN_ASSIGN_OR_RETURN(std::byte* const receive, c.AllocateShared(kMost * c.size()));
  Findings findings;
  findings.Expect(c.AllocateShared(0).ok(), "no memory");
  findings.Expect(c.AllocateShared(100 * c.rank()).ok(), "no memory on one rank");
  for (int round = 0; round < 20; ++round) {
    for (const int64_t bytes : {16, 1000, 16384, 65536 + 4}) {
      const int64_t offset = round * 256;
      const uint64_t key = 100 * round + bytes;
      const std::vector<char> expected = GatheredBytes(key, bytes, c.size());
      const std::vector<char> own = MakeBytes(key + c.rank(), bytes);
      LONGSPAN_RETURN_IF_ERROR(bench.Put(own, send + offset));
      LONGSPAN_RETURN_IF_ERROR(
          c.AllGather("shared", send + offset, receive + offset, bytes, bench.stream()));
      LONGSPAN_ASSIGN_OR_RETURN(const std::vector<char> all,
                                bench.Download<char>(receive + offset, bytes * c.size()));
      findings.Expect(all == expected, absl::StrCat("round ", round, ", ", bytes, " bytes"));

      std::byte* part = receive + offset + bytes * c.rank();
      LONGSPAN_RETURN_IF_ERROR(cuda::Fill(receive, 0xa5, kMost * c.size(), bench.stream()));
      LONGSPAN_RETURN_IF_ERROR(bench.Put(own, part));
      LONGSPAN_RETURN_IF_ERROR(
          c.AllGather("shared in place", part, receive + offset, bytes, bench.stream()));
      LONGSPAN_ASSIGN_OR_RETURN(const std::vector<char> in_place,
                                bench.Download<char>(receive + offset, bytes * c.size()));
      findings.Expect(in_place == expected,
                      absl::StrCat("round ", round, ", ", bytes, " bytes in place"));
    }
  }
  return findings.status();
}

// All kinds of calls in one graph, replayed with other data each time.
absl::Status CheckGraph(DeviceCommunicator& c) {
  if (!c.stream_ordered()) return absl::OkStatus();
  constexpr int64_t kBytes = 3000, kCount = 1000;
  const int n = c.size();
  const int next = (c.rank() + 1) % n, last = (c.rank() + n - 1) % n;
  LONGSPAN_ASSIGN_OR_RETURN(const Bench bench, Bench::Create(c));
  LONGSPAN_ASSIGN_OR_RETURN(const cuda::Buffer send, bench.Allocate(kBytes));
  LONGSPAN_ASSIGN_OR_RETURN(const cuda::Buffer receive, bench.Allocate(kBytes * n));
  LONGSPAN_ASSIGN_OR_RETURN(const cuda::Buffer from_last, bench.Allocate(kBytes));
  LONGSPAN_ASSIGN_OR_RETURN(const cuda::Buffer values, bench.Allocate(kCount * 4));
  LONGSPAN_ASSIGN_OR_RETURN(const cuda::Buffer integers, bench.Allocate(kCount * 4));
  LONGSPAN_RETURN_IF_ERROR(c.Synchronize(bench.stream()));
  LONGSPAN_ASSIGN_OR_RETURN(
      const cuda::Graph graph, cuda::Graph::Capture(bench.stream(), [&]() -> absl::Status {
        LONGSPAN_RETURN_IF_ERROR(
            c.AllGather("captured", send.data(), receive.data(), kBytes, bench.stream()));
        LONGSPAN_RETURN_IF_ERROR(
            c.AllReduceMax("captured", values.as<float>(), kCount, bench.stream()));
        LONGSPAN_RETURN_IF_ERROR(
            c.AllReduceSum("captured", integers.as<uint32_t>(), kCount, bench.stream()));
        return c.Exchange("captured", {Transfer{next, send.data(), kBytes}},
                          {Transfer{last, from_last.data(), kBytes}}, bench.stream());
      }));
  Findings findings;
  for (int replay = 0; replay < 3; ++replay) {
    const uint64_t key = 100 * replay;
    LONGSPAN_RETURN_IF_ERROR(bench.Put(MakeBytes(key + c.rank(), kBytes), send.data()));
    LONGSPAN_RETURN_IF_ERROR(bench.Put(MakeFloats(c.rank(), kCount), values.data()));
    LONGSPAN_RETURN_IF_ERROR(bench.Put(MakeIntegers(c.rank(), kCount), integers.data()));
    LONGSPAN_RETURN_IF_ERROR(graph.Launch(bench.stream()));
    LONGSPAN_ASSIGN_OR_RETURN(const std::vector<char> all,
                              bench.Download<char>(receive.data(), kBytes * n));
    LONGSPAN_ASSIGN_OR_RETURN(const std::vector<char> exchanged,
                              bench.Download<char>(from_last.data(), kBytes));
    LONGSPAN_ASSIGN_OR_RETURN(const std::vector<float> maxima,
                              bench.Download<float>(values.data(), kCount));
    LONGSPAN_ASSIGN_OR_RETURN(const std::vector<uint32_t> sums,
                              bench.Download<uint32_t>(integers.data(), kCount));
    findings.Expect(all == GatheredBytes(key, kBytes, n), absl::StrCat("gather ", replay));
    findings.Expect(exchanged == MakeBytes(key + last, kBytes), absl::StrCat("exchange ", replay));
    findings.Expect(SameBits(maxima, Maxima(kCount, n)), absl::StrCat("maxima ", replay));
    findings.Expect(sums == Sums(kCount, n), absl::StrCat("sums ", replay));
  }
  return findings.status();
}

// An error inside a capture is the error, and leaves a stream that works.
absl::Status CheckFailedCapture(DeviceCommunicator& c) {
  LONGSPAN_ASSIGN_OR_RETURN(const Bench bench, Bench::Create(c));
  LONGSPAN_ASSIGN_OR_RETURN(const cuda::Buffer data, bench.Allocate(16));
  LONGSPAN_RETURN_IF_ERROR(c.Synchronize(bench.stream()));
  const auto graph = cuda::Graph::Capture(bench.stream(), [&]() -> absl::Status {
    LONGSPAN_RETURN_IF_ERROR(cuda::Fill(data.data(), 1, 16, bench.stream()));
    return absl::NotFoundError("on purpose");
  });
  Findings findings;
  findings.Expect(absl::IsNotFound(graph.status()), "the error of the captured work");
  LONGSPAN_RETURN_IF_ERROR(cuda::Fill(data.data(), 2, 16, bench.stream()));
  LONGSPAN_ASSIGN_OR_RETURN(const std::vector<char> values, bench.Download<char>(data.data(), 16));
  findings.Expect(values == std::vector<char>(16, 2), "the stream afterwards");
  return findings.status();
}

// A rank refuses wrong arguments by itself, and goes on.
absl::Status CheckArguments(DeviceCommunicator& c) {
  LONGSPAN_ASSIGN_OR_RETURN(const Bench bench, Bench::Create(c));
  LONGSPAN_ASSIGN_OR_RETURN(const cuda::Buffer data, bench.Allocate(64 * c.size()));
  const cuda::Stream stream = bench.stream();
  const Transfer beyond{c.size(), data.data(), 1};
  const Transfer self{c.rank(), data.data(), 4}, longer_self{c.rank(), data.data() + 8, 5};
  Findings findings;
  const auto refused = [&](const absl::Status& status, absl::string_view what) {
    findings.Expect(absl::IsInvalidArgument(status), what);
  };
  refused(c.AllGather("negative", data.data(), data.data(), -1, stream), "negative bytes");
  refused(c.AllReduceMax("negative", data.as<float>(), -1, stream), "negative count");
  refused(c.AllReduceSum("negative", data.as<uint32_t>(), -1, stream), "negative count of a sum");
  refused(c.Exchange("peer", {beyond}, {}, stream), "peer to send to");
  refused(c.Exchange("peer", {}, {beyond}, stream), "peer to receive from");
  refused(c.Exchange("self", {self}, {longer_self}, stream), "self of two sizes");
  refused(c.AllocateShared(-1).status(), "negative shared memory");
  LONGSPAN_RETURN_IF_ERROR(
      c.AllGather("afterwards", data.data() + 64 * c.rank(), data.data(), 64, stream));
  LONGSPAN_RETURN_IF_ERROR(c.Synchronize(stream));
  return findings.status();
}

absl::Status CheckStats(DeviceCommunicator& c) {
  LONGSPAN_ASSIGN_OR_RETURN(const Bench bench, Bench::Create(c));
  LONGSPAN_ASSIGN_OR_RETURN(const cuda::Buffer data, bench.Allocate(100 * c.size() + 100));
  std::byte* own = data.data() + 100 * c.size();
  for (int i = 0; i < 3; ++i) {
    LONGSPAN_RETURN_IF_ERROR(c.AllGather("counted", own, data.data(), 100, bench.stream()));
  }
  const int next = (c.rank() + 1) % c.size(), last = (c.rank() + c.size() - 1) % c.size();
  LONGSPAN_RETURN_IF_ERROR(c.Exchange("counted exchange", {Transfer{next, own, 50}},
                                      {Transfer{last, data.data(), 50}}, bench.stream()));
  LONGSPAN_RETURN_IF_ERROR(c.Synchronize(bench.stream()));
  Findings findings;
  const auto count = [&](const char* name) {
    const auto it = c.stats().find(name);
    return it == c.stats().end() ? CallStats() : it->second;
  };
  findings.Expect(count("counted").calls == 3, "calls of the all-gather");
  findings.Expect(count("counted").bytes_sent == 300 * (c.size() - 1), "bytes of the all-gather");
  findings.Expect(count("counted exchange").calls == 1, "calls of the exchange");
  findings.Expect(count("counted exchange").bytes_sent == (c.size() > 1 ? 50 : 0),
                  "bytes of the exchange");
  findings.Expect(count("synchronize").calls >= 1, "waits");
  return findings.status();
}

}  // namespace

const std::vector<DeviceCheck>& DeviceChecks() {
  static const auto* checks = new std::vector<DeviceCheck>{
      {"AllGather", CheckAllGather},
      {"ManyAllGathers", CheckManyAllGathers},
      {"AllReduceMax", CheckAllReduceMax},
      {"AllReduceSum", CheckAllReduceSum},
      {"Ring", CheckRing},
      {"RandomExchanges", CheckRandomExchanges},
      {"StreamOrder", CheckStreamOrder},
      {"TwoStreams", CheckTwoStreams},
      {"SharedInGraph", CheckSharedInGraph},
      {"Shared", CheckShared},
      {"Graph", CheckGraph},
      {"FailedCapture", CheckFailedCapture},
      {"Arguments", CheckArguments},
      {"Stats", CheckStats},
  };
  return *checks;
}

}  // namespace longspan
