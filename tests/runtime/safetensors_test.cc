#include "runtime/safetensors.h"

#include <sys/stat.h>

#include <cstring>
#include <filesystem>
#include <limits>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "runtime/mapped_file.h"
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
using ::testing::Pair;
using ::testing::UnorderedElementsAre;

using Code = absl::StatusCode;

std::string LengthPrefix(uint64_t length) {
  std::string bytes(sizeof(length), '\0');
  std::memcpy(bytes.data(), &length, sizeof(length));
  return bytes;
}

std::string FileBytes(const std::string& header, const std::string& data) {
  return LengthPrefix(header.size()) + header + data;
}

template <typename T>
std::vector<T> Values(const Tensor& tensor) {
  const auto* values = static_cast<const T*>(tensor.data);
  return {values, values + tensor.num_elements()};
}

std::string FloatBytes(const std::vector<float>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)};
}

// --- MappedFile ---

TEST(MappedFileTest, MapsTheWholeFile) {
  TempDir dir;
  WriteFile(dir / "a", "contents");
  absl::StatusOr<MappedFile> file = MappedFile::Open(dir / "a");
  ASSERT_THAT(file, IsOk());
  const MappedFile moved = *std::move(file);
  EXPECT_EQ(std::memcmp(moved.bytes().data(), "contents", moved.bytes().size()), 0);
  EXPECT_EQ(moved.bytes().size(), 8u);
  EXPECT_EQ(moved.path(), dir / "a");
}

TEST(MappedFileTest, MoveAssignmentReleasesTheOldMapping) {
  TempDir dir;
  WriteFile(dir / "a", "a");
  WriteFile(dir / "b", "bb");
  absl::StatusOr<MappedFile> a = MappedFile::Open(dir / "a");
  absl::StatusOr<MappedFile> b = MappedFile::Open(dir / "b");
  ASSERT_THAT(a, IsOk());
  ASSERT_THAT(b, IsOk());
  *a = *std::move(b);
  EXPECT_EQ(a->bytes().size(), 2u);
  EXPECT_EQ(a->path(), dir / "b");
}

TEST(MappedFileTest, EmptyFileHasNoBytes) {
  TempDir dir;
  WriteFile(dir / "empty", "");
  const absl::StatusOr<MappedFile> file = MappedFile::Open(dir / "empty");
  ASSERT_THAT(file, IsOk());
  EXPECT_TRUE(file->bytes().empty());
}

TEST(MappedFileTest, RefusesWhatIsNoFile) {
  TempDir dir;
  EXPECT_THAT(MappedFile::Open(dir / "missing"), Fails(Code::kNotFound, dir / "missing"));
  EXPECT_THAT(MappedFile::Open(dir.path()), Fails(Code::kInvalidArgument, "not a regular file"));
  ASSERT_EQ(mkfifo((dir / "pipe").c_str(), 0600), 0);
  EXPECT_THAT(MappedFile::Open(dir / "pipe"), Fails(Code::kInvalidArgument, "not a regular file"));
  WriteFile(dir / "pointer", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n");
  EXPECT_THAT(MappedFile::Open(dir / "pointer"), Fails(Code::kInvalidArgument, "`git lfs pull`"));
}

TEST(MappedFileTest, KeepsTheOldFileWhenItIsReplaced) {
  TempDir dir;
  WriteFile(dir / "a", "old");
  WriteFile(dir / "new", "");
  const absl::StatusOr<MappedFile> file = MappedFile::Open(dir / "a");
  ASSERT_THAT(file, IsOk());
  std::filesystem::rename(dir / "new", dir / "a");
  EXPECT_EQ(static_cast<char>(file->bytes()[0]), 'o');
}

// --- Reading ---

TEST(SafetensorsTest, ReadsEveryFloatType) {
  TempDir dir;
  const std::string data = FloatBytes({1.5f, -2, 3, 4}) + std::string("\x80\x3f\x00\xc0", 4) +
                           std::string("\x00\x3c", 2);
  WriteFile(dir / "f", FileBytes(R"({"__metadata__":{"format":"pt","a":""},
      "half":{"dtype":"F16","shape":[],"data_offsets":[20,22]},
      "matrix":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},
      "none":{"dtype":"F32","shape":[3,0],"data_offsets":[22,22]},
      "brain":{"shape":[2],"data_offsets":[16,20],"dtype":"BF16"}}    )",
                                 data));
  const absl::StatusOr<SafetensorsFile> file = SafetensorsFile::Open(dir / "f");
  ASSERT_THAT(file, IsOk());
  EXPECT_THAT(file->names(), ElementsAre("brain", "half", "matrix", "none"));
  EXPECT_THAT(file->metadata(), UnorderedElementsAre(Pair("format", "pt"), Pair("a", "")));

  const absl::StatusOr<Tensor> matrix = file->Find("matrix");
  ASSERT_THAT(matrix, IsOk());
  EXPECT_EQ(matrix->dtype, DType::kFloat32);
  EXPECT_THAT(matrix->shape, ElementsAre(2, 2));
  EXPECT_THAT(Values<float>(*matrix), ElementsAre(1.5f, -2, 3, 4));

  const absl::StatusOr<Tensor> brain = file->Find("brain");
  ASSERT_THAT(brain, IsOk());
  EXPECT_EQ(brain->dtype, DType::kBFloat16);
  EXPECT_EQ(ToFloat(Values<BFloat16>(*brain)[0]), 1.0f);
  EXPECT_EQ(ToFloat(Values<BFloat16>(*brain)[1]), -2.0f);

  const absl::StatusOr<Tensor> half = file->Find("half");
  ASSERT_THAT(half, IsOk());
  EXPECT_EQ(half->dtype, DType::kFloat16);
  EXPECT_EQ(half->num_elements(), 1);
  EXPECT_EQ(ToFloat(Values<Float16>(*half)[0]), 1.0f);

  const absl::StatusOr<Tensor> none = file->Find("none");
  ASSERT_THAT(none, IsOk());
  EXPECT_FALSE(none->empty());
  EXPECT_EQ(none->num_elements(), 0);

  EXPECT_THAT(file->Find("other"), Fails(Code::kNotFound, "no tensor 'other'"));
}

TEST(SafetensorsTest, TensorsKeepTheirMemory) {
  TempDir dir;
  WriteFile(dir / "f", FileBytes(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})",
                                 FloatBytes({7})));
  absl::StatusOr<SafetensorsFile> file = SafetensorsFile::Open(dir / "f");
  ASSERT_THAT(file, IsOk());
  const absl::StatusOr<Tensor> tensor = file->Find("a");
  ASSERT_THAT(tensor, IsOk());
  file = absl::UnknownError("closed");
  EXPECT_THAT(Values<float>(*tensor), ElementsAre(7));
}

// Headers need not be padded, and a tensor may follow one of odd size.
TEST(SafetensorsTest, AlignsEveryTensor) {
  TempDir dir;
  for (int padding = 0; padding < 8; ++padding) {
    const std::string header = R"({"u":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},)"
                               R"("h":{"dtype":"BF16","shape":[1],"data_offsets":[3,5]},)"
                               R"("f":{"dtype":"F32","shape":[2],"data_offsets":[5,13]}})" +
                               std::string(padding, ' ');
    WriteFile(dir / "f", FileBytes(header, std::string("abc\x80\x3f", 5) + FloatBytes({3, 4})));
    const absl::StatusOr<SafetensorsFile> file = SafetensorsFile::Open(dir / "f");
    ASSERT_THAT(file, IsOk());
    const absl::StatusOr<Tensor> floats = file->Find("f");
    const absl::StatusOr<Tensor> half = file->Find("h");
    ASSERT_THAT(floats, IsOk());
    ASSERT_THAT(half, IsOk());
    EXPECT_EQ(reinterpret_cast<uintptr_t>(floats->data) % 4, 0u);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(half->data) % 2, 0u);
    EXPECT_THAT(Values<float>(*floats), ElementsAre(3, 4));
    EXPECT_EQ(ToFloat(Values<BFloat16>(*half)[0]), 1.0f);
  }
}

TEST(SafetensorsTest, NamesTheDTypeItCannotUse) {
  TempDir dir;
  const std::pair<std::string, int> kinds[] = {
      {"BOOL", 8},    {"U8", 8},          {"I8", 8},      {"F8_E4M3", 8}, {"F8_E4M3FNUZ", 8},
      {"F8_E5M2", 8}, {"F8_E5M2FNUZ", 8}, {"F8_E8M0", 8}, {"F4", 4},      {"F6_E2M3", 6},
      {"F6_E3M2", 6}, {"I16", 16},        {"U16", 16},    {"I32", 32},    {"U32", 32},
      {"I64", 64},    {"U64", 64},        {"F64", 64},    {"C64", 64},
  };
  for (const auto& [dtype, bits] : kinds) {
    WriteFile(dir / "f",
              FileBytes(absl::StrCat(R"({"q":{"dtype":")", dtype,
                                     R"(","shape":[4],"data_offsets":[0,)", bits / 2, "]}}"),
                        std::string(bits / 2, 'x')));
    const absl::StatusOr<SafetensorsFile> file = SafetensorsFile::Open(dir / "f");
    ASSERT_THAT(file, IsOk());
    EXPECT_THAT(file->Find("q"), Fails(Code::kUnimplemented, absl::StrCat("is ", dtype)));
  }
}

struct BadFile {
  std::string what;
  std::string bytes;
  std::string message;
  Code code = Code::kDataLoss;
};

// A file with `count` data bytes and the one tensor "a" of this entry.
BadFile BadEntry(std::string what, const std::string& entry, int count, std::string message) {
  return {std::move(what), FileBytes("{\"a\":" + entry + "}", std::string(count, 'x')),
          std::move(message)};
}

std::vector<BadFile> BadFiles() {
  const std::string good = R"({"dtype":"F32","shape":[1],"data_offsets":[0,4]})";
  const std::string data = "1234";
  return {
      {"empty", "", "truncated"},
      {"short length", "1234567", "truncated"},
      {"no header", LengthPrefix(0), "no JSON object"},
      {"header beyond the file", LengthPrefix(3) + "{}", "truncated"},
      {"header of 2^64-1", LengthPrefix(~uint64_t{0}) + "{}", "over the limit"},
      {"header of 2^63", LengthPrefix(uint64_t{1} << 63) + "{}", "over the limit"},
      {"not JSON", FileBytes("{]", ""), "not valid JSON at byte 2"},
      {"no object", FileBytes("[]", ""), "no JSON object"},
      {"after the object", FileBytes("{}{}", ""), "not valid JSON"},
      {"space before", FileBytes(" {}", ""), "no JSON object"},
      {"not UTF-8", FileBytes("{\"\xff\":" + good + "}", data), "not valid JSON"},
      {"unclosed", FileBytes("{\"a\":" + good, data), "not valid JSON"},
      {"duplicate", FileBytes("{\"a\":" + good + ",\"a\":" + good + "}", data),
       "'a': the name occurs twice"},
      {"control characters", FileBytes("{\"a\\u001b[2J\":1}", ""), "'a\\033[2J'"},
      {"metadata of numbers", FileBytes(R"({"__metadata__":{"a":1}})", ""), "a number where"},
      {"nested metadata", FileBytes(R"({"__metadata__":{"a":{}}})", ""), "an object where"},
      {"metadata lists", FileBytes(R"({"__metadata__":{"a":[]}})", ""), "an array where"},
      {"duplicate metadata", FileBytes(R"({"__metadata__":{"a":"","a":""}})", ""), "twice"},
      {"unused data", FileBytes("{}", data), "cover 0 of 4"},
      BadEntry("null", "null", 0, "null where"),
      BadEntry("boolean", "true", 0, "a boolean where"),
      BadEntry("string", R"("F32")", 0, "a string where"),
      BadEntry("list", "[1]", 0, "an array where"),
      BadEntry("empty", "{}", 0, "is missing"),
      BadEntry("no shape", R"({"dtype":"F32","data_offsets":[0,4]})", 4, "is missing"),
      BadEntry("no dtype", R"({"shape":[1],"data_offsets":[0,4]})", 4, "is missing"),
      BadEntry("no offsets", R"({"dtype":"F32","shape":[1]})", 4, "is missing"),
      BadEntry("more keys", R"({"dtype":"F32","stride":[1]})", 4, "a key that is not"),
      BadEntry("key twice", R"({"dtype":"F32","dtype":"F32"})", 4, "a key occurs twice"),
      BadEntry("dtype of numbers", R"({"dtype":1})", 4, "a number where"),
      BadEntry("list of dtypes", R"({"dtype":["F32"]})", 4, "an array where"),
      BadEntry("shape of strings", R"({"shape":["1"]})", 4, "a string where"),
      BadEntry("shape string", R"({"shape":"1"})", 4, "a string where"),
      BadEntry("shape number", R"({"shape":1})", 4, "a number where"),
      BadEntry("nested shape", R"({"shape":[[1]]})", 4, "an array where"),
      BadEntry("object in shape", R"({"shape":[{}]})", 4, "an object where"),
      BadEntry("negative", R"({"dtype":"F32","shape":[-1],"data_offsets":[0,4]})", 4, "negative"),
      BadEntry("fraction", R"({"dtype":"F32","shape":[1.0],"data_offsets":[0,4]})", 4,
               "not a 64-bit integer"),
      BadEntry("2^64", R"({"dtype":"F32","shape":[18446744073709551616],"data_offsets":[0,4]})", 4,
               "not a 64-bit integer"),
      BadEntry("2^63", R"({"dtype":"F32","shape":[9223372036854775808],"data_offsets":[0,4]})", 4,
               "beyond 63 bits"),
      BadEntry("overflow to 4 bytes",
               R"({"dtype":"F32","shape":[4611686018427387905],"data_offsets":[0,4]})", 4,
               "does not fit"),
      BadEntry("overflow of a product",
               R"({"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]})", 0,
               "does not fit"),
      BadEntry("half a byte", R"({"dtype":"F4","shape":[1],"data_offsets":[0,0]})", 0,
               "does not fit"),
      BadEntry("three offsets", R"({"dtype":"F32","shape":[1],"data_offsets":[0,4,4]})", 4,
               "not a pair"),
      BadEntry("one offset", R"({"dtype":"F32","shape":[1],"data_offsets":[0]})", 4, "not a pair"),
      BadEntry("reversed", R"({"dtype":"F32","shape":[1],"data_offsets":[4,0]})", 4, "reversed"),
      BadEntry("beyond the file", R"({"dtype":"F32","shape":[1],"data_offsets":[0,4]})", 3,
               "the file is truncated"),
      BadEntry("far beyond the file",
               R"({"dtype":"F32","shape":[1],"data_offsets":[9223372036854775803,)"
               R"(9223372036854775807]})",
               4, "the file is truncated"),
      BadEntry("shape too small", R"({"dtype":"F16","shape":[1],"data_offsets":[0,4]})", 4,
               "shape [1] of F16 does not fit its 4 bytes"),
      BadEntry("data left over", R"({"dtype":"F32","shape":[1],"data_offsets":[0,4]})", 5,
               "cover 4 of 5"),
      BadEntry("gap in front", R"({"dtype":"F32","shape":[1],"data_offsets":[1,5]})", 5,
               "starts at byte 1"),
      {"overlap", FileBytes("{\"a\":" + good + ",\"b\":" + good + "}", data), "overlap"},
      {"unknown dtype",
       FileBytes(R"({"a":{"dtype":"F31","shape":[1],"data_offsets":[0,4]}})", data),
       "unknown dtype 'F31'", Code::kUnimplemented},
  };
}

TEST(SafetensorsTest, RefusesMalformedFiles) {
  TempDir dir;
  for (const BadFile& bad : BadFiles()) {
    SCOPED_TRACE(bad.what);
    WriteFile(dir / "f", bad.bytes);
    EXPECT_THAT(SafetensorsFile::Open(dir / "f"), Fails(bad.code, bad.message));
    EXPECT_THAT(SafetensorsFile::Open(dir / "f"), Fails(bad.code, dir / "f"));
  }
}

TEST(SafetensorsTest, RefusesGiganticHeaders) {
  TempDir dir;
  WriteFile(dir / "f", LengthPrefix(100'000'001) + "{}");
  std::filesystem::resize_file(dir / "f", 200'000'000);  // sparse
  EXPECT_THAT(SafetensorsFile::Open(dir / "f"), Fails(Code::kDataLoss, "over the limit"));
}

TEST(SafetensorsTest, RefusesDeepNesting) {
  TempDir dir;
  std::string objects = "{";
  for (int i = 0; i < 100'000; ++i) objects += "\"dtype\":{";
  WriteFile(dir / "f", FileBytes(objects, ""));
  EXPECT_THAT(SafetensorsFile::Open(dir / "f"), Fails(Code::kDataLoss, "an object where"));
  WriteFile(dir / "f", FileBytes("{\"a\":{\"shape\":" + std::string(1'000'000, '['), ""));
  EXPECT_THAT(SafetensorsFile::Open(dir / "f"), Fails(Code::kDataLoss, "an array where"));
}

std::string SmallFile() {
  TempDir dir;
  const std::vector<float> values = {1, 2, 3, 4, 5, 6};
  const std::vector<NamedFloats> tensors = {{"first", {2, 3}, values},
                                            {"second", {2}, absl::MakeSpan(values.data(), 2)}};
  LONGSPAN_CHECK(WriteSafetensors(dir / "f", tensors, {{"key", "value"}}).ok());
  return ReadFile(dir / "f");
}

TEST(SafetensorsTest, RefusesEveryTruncation) {
  TempDir dir;
  const std::string bytes = SmallFile();
  for (size_t size = 0; size < bytes.size(); ++size) {
    WriteFile(dir / "f", absl::string_view(bytes).substr(0, size));
    EXPECT_FALSE(SafetensorsFile::Open(dir / "f").ok()) << size;
  }
}

TEST(SafetensorsTest, RandomDamageIsRefusedOrHarmless) {
  TempDir dir;
  const std::string bytes = SmallFile();
  std::mt19937_64 random(1);
  int opened = 0;
  float sum = 0;  // touches the data
  for (int round = 0; round < 5000; ++round) {
    WriteFile(dir / "f", Mutate(bytes, bytes.size() - 32, &random));
    const absl::StatusOr<SafetensorsFile> file = SafetensorsFile::Open(dir / "f");
    if (!file.ok()) continue;
    ++opened;
    for (const std::string& name : file->names()) {
      const absl::StatusOr<Tensor> tensor = file->Find(name);
      if (!tensor.ok()) continue;
      ASSERT_LE(tensor->num_bytes(), 64);
      const auto* data = static_cast<const unsigned char*>(tensor->data);
      sum = std::accumulate(data, data + tensor->num_bytes(), sum);
    }
  }
  EXPECT_GT(opened, 0);
  EXPECT_LT(opened, 5000);
  EXPECT_GT(sum, 0);
}

// --- Writing ---

TEST(WriteSafetensorsTest, ReadsBackWhatItWrote) {
  TempDir dir;
  const std::vector<float> values = {0.1f,   -0.0f, std::numeric_limits<float>::infinity(),
                                     1e-45f, 5,     6};
  const std::vector<NamedFloats> tensors = {
      {"z", {2, 3}, values}, {"a", {0}, {}}, {"s", {}, absl::MakeSpan(values.data(), 1)}};
  ASSERT_THAT(WriteSafetensors(dir / "f", tensors, {{"k", "v\n\"\xc3\xa9"}, {"l", ""}}), IsOk());
  const absl::StatusOr<SafetensorsFile> file = SafetensorsFile::Open(dir / "f");
  ASSERT_THAT(file, IsOk());
  EXPECT_THAT(file->names(), ElementsAre("a", "s", "z"));
  EXPECT_THAT(file->metadata(), UnorderedElementsAre(Pair("k", "v\n\"\xc3\xa9"), Pair("l", "")));
  const absl::StatusOr<Tensor> z = file->Find("z");
  ASSERT_THAT(z, IsOk());
  EXPECT_THAT(z->shape, ElementsAre(2, 3));
  EXPECT_EQ(std::memcmp(z->data, values.data(), sizeof(float) * values.size()), 0);
}

TEST(WriteSafetensorsTest, ReplacesTheFileAndLeavesNothingElse) {
  TempDir dir;
  WriteFile(dir / "f", "old");
  ASSERT_THAT(WriteSafetensors(dir / "f", {}, {}), IsOk());
  EXPECT_THAT(SafetensorsFile::Open(dir / "f"), IsOk());
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(dir.path()), {}), 1);
}

TEST(WriteSafetensorsTest, BytesDependOnTheArgumentsOnly) { EXPECT_EQ(SmallFile(), SmallFile()); }

TEST(WriteSafetensorsTest, RefusesWhatItCannotWrite) {
  TempDir dir;
  const std::vector<float> values = {1, 2};
  const auto write = [&](const std::vector<NamedFloats>& tensors, const std::string& metadata) {
    return WriteSafetensors(dir / "f", tensors, {{"key", metadata}});
  };
  EXPECT_THAT(write({{"a", {3}, values}}, ""), Fails(Code::kInvalidArgument, "'a' of shape [3]"));
  EXPECT_THAT(write({{"a", {2}, values}, {"a", {2}, values}}, ""),
              Fails(Code::kInvalidArgument, "'a' is taken"));
  EXPECT_THAT(write({{"__metadata__", {2}, values}}, ""), Fails(Code::kInvalidArgument, "taken"));
  EXPECT_THAT(write({}, "\xff"), Fails(Code::kInvalidArgument, "UTF-8"));
  EXPECT_TRUE(std::filesystem::is_empty(dir.path()));
  EXPECT_THAT(WriteSafetensors(dir / "none/f", {}, {}), Fails(Code::kNotFound, dir / "none/f"));
}

TEST(WriteSafetensorsTest, FailsCleanlyWhereADirectoryIs) {
  TempDir dir;
  std::filesystem::create_directory(dir / "f");
  EXPECT_FALSE(WriteSafetensors(dir / "f", {}, {}).ok());
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(dir.path()), {}), 1);
}

}  // namespace
}  // namespace longspan
