#include "runtime/dummy_model.h"

#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/check.h"
#include "kernels/base/convert.h"
#include "kernels/base/status_macros.h"
#include "runtime/tokenizer_utf8.h"

namespace longspan {
namespace {

constexpr double kDeviation = 0.02;

// The finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014): any counter gives a random word.
uint64_t Mix(uint64_t counter) {
  uint64_t word = counter * 0x9e3779b97f4a7c15u;
  word = (word ^ (word >> 30)) * 0xbf58476d1ce4e5b9u;
  word = (word ^ (word >> 27)) * 0x94d049bb133111ebu;
  return word ^ (word >> 31);
}

// Which stream of counters is a tensor's: 64-bit FNV-1a of its name.
uint64_t SeedOf(absl::string_view name) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return hash;
}

uint64_t RandomWord(uint64_t seed, int64_t index) {
  return Mix(seed + static_cast<uint64_t>(index / 4));
}

float NumberOfBits(uint64_t bits, double deviation) {
  return static_cast<float>((static_cast<double>(bits) / 32767.5 - 1) * std::sqrt(3.0) * deviation);
}

// Number `index` of a stream: uniform with mean 0, from 16 of a word's bits.
float RandomNumber(uint64_t seed, int64_t index, double deviation) {
  return NumberOfBits(RandomWord(seed, index) >> (index % 4 * 16) & 0xffff, deviation);
}

// The number of every 16 bits that a word can give, converted once: weights are billions.
template <typename T>
std::vector<T> NumbersOfBits(DType dtype, double deviation) {
  std::vector<float> values(1 << 16);
  for (int64_t bits = 0; bits < 1 << 16; ++bits) values[bits] = NumberOfBits(bits, deviation);
  std::vector<T> converted(values.size());
  ConvertFromFloat(values.data(), std::ssize(values), dtype,
                   reinterpret_cast<std::byte*>(converted.data()));
  return converted;
}

template <typename T>
void FillWith(uint64_t seed, DType dtype, int64_t count, std::byte* out) {
  LONGSPAN_CHECK(SizeOf(dtype) == sizeof(T));
  const std::vector<T> numbers = NumbersOfBits<T>(dtype, kDeviation);
  for (int64_t first = 0; first < count; first += 4) {
    const uint64_t word = RandomWord(seed, first);
    const T four[] = {numbers[word & 0xffff], numbers[word >> 16 & 0xffff],
                      numbers[word >> 32 & 0xffff], numbers[word >> 48]};
    std::memcpy(out + first * sizeof(T), four, std::min<int64_t>(4, count - first) * sizeof(T));
  }
}

void FillRandom(absl::string_view name, const Tensor& tensor, std::byte* out) {
  const int64_t count = tensor.num_elements();
  if (tensor.shape.size() == 1 && absl::StrContains(name, "norm")) {
    const std::vector<float> ones(count, 1.0f);
    ConvertFromFloat(ones.data(), count, tensor.dtype, out);
  } else if (tensor.dtype == DType::kFloat32) {
    FillWith<float>(SeedOf(name), tensor.dtype, count, out);
  } else {
    FillWith<uint16_t>(SeedOf(name), tensor.dtype, count, out);
  }
}

// Zeroed memory of this process, given back with its last owner.
absl::StatusOr<std::shared_ptr<std::byte>> MapMemory(int64_t bytes) {
  const auto size = static_cast<size_t>(std::max<int64_t>(1, bytes));
  void* const address = mmap(nullptr, size, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (address == MAP_FAILED) {
    return absl::ResourceExhaustedError(
        absl::StrCat("no memory for a dummy tensor of ", bytes, " bytes"));
  }
  madvise(address, size, MADV_HUGEPAGE);  // else most of the time goes to page faults
  return std::shared_ptr<std::byte>(static_cast<std::byte*>(address),
                                    [size](std::byte* data) { munmap(data, size); });
}

Tensor RandomFactor(const std::string& name, int64_t rows, int64_t columns) {
  const uint64_t seed = SeedOf(name);
  auto values = std::make_shared<std::vector<float>>(rows * columns);
  // So that compressed queries and keys are about as long as the full ones.
  const double deviation = 1 / std::sqrt(static_cast<double>(columns));
  for (int64_t i = 0; i < rows * columns; ++i) (*values)[i] = RandomNumber(seed, i, deviation);
  return {values->data(), DType::kFloat32, {rows, columns}, values};
}

}  // namespace

absl::StatusOr<ModelWeights> MakeDummyWeights(const ModelConfig& config, bool fill) {
  const DType dtype = config.dtype == DType::kFloat32 ? DType::kFloat32 : DType::kBFloat16;
  return AssembleWeights(
      config,
      [&](absl::string_view name, const std::vector<int64_t>& shape) -> absl::StatusOr<Tensor> {
        Tensor tensor = {nullptr, dtype, shape, nullptr};
        LONGSPAN_ASSIGN_OR_RETURN(const std::shared_ptr<std::byte> memory,
                                  MapMemory(tensor.num_bytes()));
        if (fill) FillRandom(name, tensor, memory.get());
        tensor.data = memory.get();
        tensor.owner = memory;
        return tensor;
      });
}

Compressor MakeDummyCompressor(const ModelConfig& config, int64_t dim) {
  const int64_t width = config.num_kv_heads * config.head_dim;
  Compressor compressor;
  compressor.dim = dim;
  compressor.method = "dummy";
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    compressor.layers.push_back({RandomFactor(absl::StrCat("layers.", layer, ".query"), width, dim),
                                 RandomFactor(absl::StrCat("layers.", layer, ".key"), width, dim)});
  }
  return compressor;
}

absl::StatusOr<std::unique_ptr<Tokenizer>> MakeDummyTokenizer(int64_t vocab_size) {
  nlohmann::json vocabulary = nlohmann::json::object();
  for (int byte = 0; byte < 256; ++byte) {
    vocabulary[ByteLevelCharacter(static_cast<uint8_t>(byte))] = byte;
  }
  for (int64_t id = 256; id < vocab_size; ++id) vocabulary[absl::StrCat("<|", id, "|>")] = id;
  const nlohmann::json file = {
      {"model", {{"type", "BPE"}, {"vocab", vocabulary}, {"merges", nlohmann::json::array()}}},
      {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}}},
      {"decoder", {{"type", "ByteLevel"}}}};
  return Tokenizer::Parse(file.dump(), "");
}

}  // namespace longspan
