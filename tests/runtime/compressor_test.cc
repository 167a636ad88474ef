#include "runtime/compressor.h"

#include <limits>
#include <numeric>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "tests/runtime/file_testing.h"

namespace longspan {
namespace {

using longspan::testing::Fails;
using longspan::testing::IsOk;
using longspan::testing::Mutate;
using longspan::testing::ReadFile;
using longspan::testing::TempDir;
using longspan::testing::WriteFile;
using ::testing::ElementsAre;
using ::testing::ElementsAreArray;

using Code = absl::StatusCode;

constexpr int64_t kLayers = 2;
constexpr int64_t kRows = 4;  // kv_heads * head_dim
constexpr int64_t kColumns = 3;
constexpr char kFingerprint[] = "0123456789abcdef";

class CompressorTest : public ::testing::Test {
 protected:
  CompressorTest() : path_(dir_ / "compressor.safetensors") {
    config_.num_layers = kLayers;
    config_.num_heads = 4;
    config_.num_kv_heads = 2;
    config_.head_dim = 2;
    std::iota(values_.begin(), values_.end(), 0.0f);
  }

  // Layer i's query starts at 24 i, its key at 24 i + 12.
  absl::Span<const float> Matrix(int64_t number) const {
    return absl::MakeSpan(values_).subspan(number * kRows * kColumns, kRows * kColumns);
  }
  absl::Status Save() {
    std::vector<LayerCompressorData> layers;
    for (int64_t i = 0; i < kLayers; ++i) layers.push_back({Matrix(2 * i), Matrix(2 * i + 1)});
    return SaveCompressor(path_, config_, kFingerprint, "far 17", kColumns, layers, "closed_form",
                          "a book");
  }
  absl::StatusOr<Compressor> Load(int64_t dim) {
    return LoadCompressor(path_, config_, kFingerprint, "far 17", dim);
  }
  // What SaveCompressor writes, with one tensor or one metadata value replaced.
  void WriteWith(const NamedFloats& replacement,
                 const absl::flat_hash_map<std::string, std::string>& changes) {
    std::vector<NamedFloats> tensors;
    for (int64_t i = 0; i < kLayers; ++i) {
      const std::string prefix = "layers." + std::to_string(i);
      tensors.push_back({prefix + ".query", {kRows, kColumns}, Matrix(2 * i)});
      tensors.push_back({prefix + ".key", {kRows, kColumns}, Matrix(2 * i + 1)});
    }
    for (NamedFloats& tensor : tensors) {
      if (tensor.name == replacement.name) tensor = replacement;
    }
    absl::flat_hash_map<std::string, std::string> metadata = {
        {"fingerprint", kFingerprint}, {"target", "far 17"}, {"compressed_dim", "3"}};
    for (const auto& [key, value] : changes) metadata[key] = value;
    ASSERT_THAT(WriteSafetensors(path_, tensors, metadata), IsOk());
  }

  TempDir dir_;
  std::string path_;
  ModelConfig config_;
  std::vector<float> values_ = std::vector<float>(2 * kLayers * kRows * kColumns);
};

std::vector<float> Values(const Tensor& tensor) {
  const auto* values = static_cast<const float*>(tensor.data);
  return {values, values + tensor.num_elements()};
}

TEST_F(CompressorTest, ReadsBackWhatItSaved) {
  ASSERT_THAT(Save(), IsOk());
  const absl::StatusOr<Compressor> compressor = Load(kColumns);
  ASSERT_THAT(compressor, IsOk());
  EXPECT_EQ(compressor->dim, kColumns);
  EXPECT_EQ(compressor->target, "far 17");
  EXPECT_EQ(compressor->method, "closed_form");
  EXPECT_EQ(compressor->calibration, "a book");
  ASSERT_EQ(compressor->layers.size(), 2u);
  for (int64_t i = 0; i < kLayers; ++i) {
    EXPECT_THAT(compressor->layers[i].query.shape, ElementsAre(kRows, kColumns));
    EXPECT_THAT(Values(compressor->layers[i].query), ElementsAreArray(Matrix(2 * i)));
    EXPECT_THAT(Values(compressor->layers[i].key), ElementsAreArray(Matrix(2 * i + 1)));
  }
}

TEST_F(CompressorTest, SmallerDimUsesTheFirstColumns) {
  ASSERT_THAT(Save(), IsOk());
  const absl::StatusOr<Compressor> compressor = Load(2);
  ASSERT_THAT(compressor, IsOk());
  EXPECT_EQ(compressor->dim, 2);
  EXPECT_THAT(compressor->layers[0].query.shape, ElementsAre(kRows, 2));
  EXPECT_THAT(Values(compressor->layers[0].query), ElementsAre(0, 1, 3, 4, 6, 7, 9, 10));
  EXPECT_THAT(Values(compressor->layers[1].key), ElementsAre(36, 37, 39, 40, 42, 43, 45, 46));
}

TEST_F(CompressorTest, ColumnsWithoutOrderAreNotCut) {
  WriteWith({}, {{"method", "sgd"}});
  EXPECT_THAT(Load(kColumns), IsOk());
  EXPECT_THAT(Load(2), Fails(Code::kInvalidArgument, "does not order"));
}

TEST_F(CompressorTest, LargerDimIsRefused) {
  ASSERT_THAT(Save(), IsOk());
  EXPECT_THAT(Load(kColumns + 1), Fails(Code::kInvalidArgument, "esa.compressed_dim is 4 but"));
}

TEST_F(CompressorTest, AnotherModelIsRefused) {
  ASSERT_THAT(Save(), IsOk());
  EXPECT_THAT(LoadCompressor(path_, config_, "f00d", "far 17", kColumns),
              Fails(Code::kFailedPrecondition, "run `longspan calibrate`"));
  ASSERT_THAT(WriteSafetensors(path_, {}, {}), IsOk());
  EXPECT_THAT(Load(kColumns), Fails(Code::kFailedPrecondition, "fingerprint ''"));
}

TEST_F(CompressorTest, AnotherTargetIsRefused) {
  ASSERT_THAT(Save(), IsOk());
  for (const char* target : {"dot", "far 18"}) {
    EXPECT_THAT(LoadCompressor(path_, config_, kFingerprint, target, kColumns),
                Fails(Code::kFailedPrecondition,
                      absl::StrCat("fitted for esa.target 'far 17', this run's is '", target)));
  }
}

TEST_F(CompressorTest, FilesThatStateNoTargetHaveTheDotProduct) {
  WriteWith({}, {{"target", ""}});
  EXPECT_THAT(LoadCompressor(path_, config_, kFingerprint, "dot", kColumns), IsOk());
  EXPECT_THAT(Load(kColumns), Fails(Code::kFailedPrecondition, "fitted for esa.target 'dot'"));
}

TEST_F(CompressorTest, MissingFileSaysWhatToDo) {
  EXPECT_THAT(Load(kColumns), Fails(Code::kNotFound, "run `longspan calibrate`"));
  EXPECT_THAT(Load(kColumns), Fails(Code::kNotFound, path_));
}

TEST_F(CompressorTest, RefusesWhatDoesNotFit) {
  for (const char* dim : {"", "0", "-3", "three", "99999999999999999999"}) {
    WriteWith({}, {{"compressed_dim", dim}});
    EXPECT_THAT(Load(kColumns), Fails(Code::kInvalidArgument, "compressed_dim is no positive"));
  }
  WriteWith({}, {{"compressed_dim", "5"}});
  EXPECT_THAT(Load(kColumns),
              Fails(Code::kInvalidArgument, "float32 [4, 3]; expected float32 [4, 5]"));
  WriteWith({"layers.1.key", {kColumns, kRows}, Matrix(0)}, {});
  EXPECT_THAT(Load(kColumns), Fails(Code::kInvalidArgument, "'layers.1.key'"));
  WriteWith({}, {});
  EXPECT_THAT(Load(kColumns), IsOk());
  config_.num_layers = 3;
  EXPECT_THAT(Load(kColumns), Fails(Code::kNotFound, "'layers.2.query'"));
}

TEST_F(CompressorTest, RefusesValuesThatAreNotFinite) {
  for (const float value :
       {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
    values_.back() = value;
    ASSERT_THAT(Save(), IsOk());
    EXPECT_THAT(Load(kColumns), Fails(Code::kDataLoss, "'layers.1.key'"));
  }
}

TEST_F(CompressorTest, RandomDamageIsRefusedOrHarmless) {
  ASSERT_THAT(Save(), IsOk());
  const std::string bytes = ReadFile(path_);
  std::mt19937_64 random(4);
  int loaded = 0;
  for (int round = 0; round < 3000; ++round) {
    WriteFile(path_, Mutate(bytes, bytes.size() / 2, &random));
    const absl::StatusOr<Compressor> compressor = Load(2);
    if (!compressor.ok()) continue;
    ++loaded;
    for (const LayerCompressor& layer : compressor->layers) {
      ASSERT_EQ(Values(layer.query).size(), 8u);
      ASSERT_EQ(Values(layer.key).size(), 8u);
    }
  }
  EXPECT_GT(loaded, 0);
  EXPECT_LT(loaded, 3000);
}

}  // namespace
}  // namespace longspan
