#include "launcher/bench_collectives.h"

#include <optional>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace longspan {
namespace {

// Four blocks to a chunk.
BenchShape FourBlocks() {
  BenchShape shape;
  shape.block_tokens = 512;
  shape.chunk_tokens = 2048;
  shape.ranks = 2;
  return shape;
}

int64_t BytesOf(const std::vector<CollectiveCase>& cases, const std::string& name) {
  for (const CollectiveCase& of : cases) {
    if (of.name == name) return of.bytes;
  }
  return 0;
}

TEST(BenchCollectivesTest, EveryCaseIsReadAsItIsWritten) {
  for (const bool on_gpu : {false, true}) {
    for (const CollectiveCase& of : CollectiveCases(FourBlocks(), 3, on_gpu)) {
      const BenchRow row = CollectiveRow(of, "a way", {1e-6}, 2);
      const std::optional<CollectiveCase> read = ParseCollectiveCase(row.name, row.shape);
      ASSERT_TRUE(read.has_value()) << row.shape;
      EXPECT_EQ(read->name, of.name);
      EXPECT_EQ(read->kind, of.kind) << row.shape;
      EXPECT_EQ(read->bytes, of.bytes) << row.shape;
    }
  }
}

// 1,024 bins of CPUs, 8,192 of a GPU's digit.
TEST(BenchCollectivesTest, SumsAHistogramOfEachRow) {
  const std::vector<CollectiveCase> cpu = CollectiveCases(FourBlocks(), 3, false);
  EXPECT_EQ(BytesOf(cpu, "decode: histogram"), 3 * 4096);
  EXPECT_EQ(BytesOf(cpu, "chunk: histogram"), 4 * 4096);
  const std::vector<CollectiveCase> gpu = CollectiveCases(FourBlocks(), 3, true);
  EXPECT_EQ(BytesOf(gpu, "decode: histogram"), 3 * 32768);
  EXPECT_EQ(BytesOf(gpu, "chunk: histogram"), 4 * 32768);
  BenchShape dense = FourBlocks();
  dense.attention = Attention::kDense;
  EXPECT_EQ(BytesOf(CollectiveCases(dense, 3, true), "decode: histogram"), 0);
}

}  // namespace
}  // namespace longspan
