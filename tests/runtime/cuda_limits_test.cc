// What GPUs refuse is known without one.
#include "runtime/cuda/cuda_limits.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runtime/model.h"
#include "tests/runtime/llama3_8b.h"

namespace longspan {
namespace {

using ::testing::HasSubstr;

// Llama 3 8B on an H200.
struct Job {
  Config config;
  ModelConfig model = Llama3Of8B();
  int ranks = 1;
  cuda::DeviceInfo info;

  Job() {
    config.device = "cuda";
    config.dtype = "bfloat16";
    config.max_model_len = 1 << 20;
    info.name = "NVIDIA H200";
    info.multiprocessors = 132;
    info.shared_memory_per_block = 232448;
  }

  absl::Status Check() {
    if (config.parallel.stripe_tokens == 0) config.parallel.stripe_tokens = 4096;
    return CheckCudaLimits(config,
                           CudaSizes::Of(config, model, MakeAttentionContext(config, model, ranks),
                                         /*sharers=*/1, info.multiprocessors),
                           info);
  }
  std::string Refusal() { return std::string(Check().message()); }
};

TEST(CudaLimitsTest, TakesWhatKernelsTake) {
  EXPECT_EQ(Job().Check(), absl::OkStatus());
  for (const int64_t head_dim : {16, 32, 64, 128, 256}) {
    Job job;
    job.model.head_dim = head_dim;
    EXPECT_EQ(job.Check(), absl::OkStatus()) << head_dim;
  }
  Job most;
  most.model.num_heads = 128;
  most.ranks = 1024;
  most.config.max_num_seqs = 65535;
  most.config.esa.selection_block = 1;
  most.config.prefill_chunk_tokens = 65535;
  most.config.max_model_len = 0;  // not known yet
  most.config.esa.compressed_dim = 8;
  EXPECT_EQ(most.Check(), absl::OkStatus());
}

TEST(CudaLimitsTest, RefusesHeadsThatAttentionIsNotCompiledFor) {
  for (const int64_t head_dim : {2, 80, 96, 512}) {
    Job job;
    job.model.head_dim = head_dim;
    EXPECT_TRUE(absl::IsUnimplemented(job.Check())) << head_dim;
    EXPECT_EQ(job.Refusal(),
              absl::StrCat("attention on GPUs supports a head_dim of 16, 32, 64, 128, 256, not ",
                           head_dim, ": use `device: cpu`"));
  }
  Job job;
  job.model.num_heads = 17 * job.model.num_kv_heads;
  EXPECT_EQ(job.Refusal(),
            "decoding on GPUs supports up to 16 heads a KV head, not 17: use `deterministic: "
            "true`, or `device: cpu`");
  job.config.deterministic = true;
  EXPECT_EQ(job.Check(), absl::OkStatus());
}

TEST(CudaLimitsTest, RefusesMoreThanALaunchHolds) {
  Job job;
  job.config.esa.selection_block = 1;
  job.config.prefill_chunk_tokens = 65536;
  EXPECT_THAT(job.Refusal(), HasSubstr("`prefill.chunk_tokens` (65536) is more than 65535 blocks "
                                       "of `esa.selection_block` (1)"));
  job = Job();
  job.model.num_heads = job.model.num_kv_heads = 1;
  job.model.num_heads = 4096;
  job.config.deterministic = true;
  job.config.esa.selection_block = job.config.prefill_chunk_tokens = (1 << 18) + 1;
  EXPECT_THAT(job.Refusal(), HasSubstr("must be at most 262144 on GPUs"));
  job = Job();
  job.config.max_num_seqs = 65536;
  EXPECT_THAT(job.Refusal(), HasSubstr("`max_num_seqs` (65536) must be at most 65535 on GPUs"));
  job.config.deterministic = true;
  EXPECT_EQ(job.Check(), absl::OkStatus());
  job = Job();
  job.config.parallel.stripe_tokens = int64_t{1} << 31;
  EXPECT_THAT(job.Refusal(), HasSubstr("`parallel.stripe_tokens` (2147483648) must be at most "));
}

TEST(CudaLimitsTest, RefusesScoreKeysThatAreNotReadAtATime) {
  Job job;
  job.config.esa.compressed_dim = 8;
  EXPECT_EQ(job.Check(), absl::OkStatus());
  job.config.kv_cache_score_dtype = "fp8_e4m3";
  EXPECT_EQ(job.Refusal(),
            "compressed keys of 8 bytes (`esa.compressed_dim` 8, fp8_e4m3) are no multiples of 16 "
            "bytes, as GPUs need them: use an `esa.compressed_dim` that is a multiple of 16");
  job.config.esa.compressed_dim = 4;
  job.config.kv_cache_score_dtype = "auto";
  EXPECT_THAT(job.Refusal(), HasSubstr("that is a multiple of 8"));
  job.config.dtype = "float32";
  EXPECT_EQ(job.Check(), absl::OkStatus());
  job.config.dtype = "bfloat16";
  job.config.attention = Attention::kDense;  // which has none
  EXPECT_EQ(job.Check(), absl::OkStatus());
}

TEST(CudaLimitsTest, RefusesSlicesThatAreNotReadAtATime) {
  Job job;
  job.config.esa.score = Score::kGroupVote;
  for (const int64_t groups : {1, 8, 16}) {
    job.config.esa.score_groups = groups;
    EXPECT_EQ(job.Check(), absl::OkStatus()) << groups;
  }
  job.config.esa.score_groups = 32;
  EXPECT_EQ(job.Refusal(),
            "`esa.score: group_vote` reads 4 numbers of a key for each vote, 8 bytes "
            "(`esa.compressed_dim` 128, `esa.score_groups` 32, bfloat16), and GPUs need multiples "
            "of 16 bytes: lower `esa.score_groups`");
  job.config.esa.score_groups = 16;
  job.config.kv_cache_score_dtype = "fp8_e4m3";
  EXPECT_THAT(job.Refusal(), HasSubstr("8 numbers of a key for each vote, 8 bytes"));
  for (const Score score : {Score::kHeadMax, Score::kSoftVote}) {
    job = Job();
    job.config.esa.compression = Compression::kExact;
    job.config.esa.score = score;
    EXPECT_EQ(job.Check(), absl::OkStatus());
    // Proximity takes no shared memory there.
    job.config.esa.proximity = job.config.parallel.stripe_tokens = 16384;
    EXPECT_EQ(job.Check(), absl::OkStatus());
    job.model.num_heads = job.model.num_kv_heads = 65536;
    EXPECT_THAT(job.Refusal(), HasSubstr("has 65536 voters, but GPUs count the votes of at most "));
  }
}

TEST(CudaLimitsTest, RefusesSelectionsBeyondTheirMemoryAndNumbers) {
  Job job;
  job.config.esa.proximity = 4096;
  EXPECT_EQ(job.Check(), absl::OkStatus());
  job.config.esa.proximity = job.config.parallel.stripe_tokens = 16384;
  EXPECT_TRUE(absl::IsUnimplemented(job.Check()));
  EXPECT_THAT(job.Refusal(), HasSubstr("bytes of shared memory, and NVIDIA H200 has "));
  EXPECT_THAT(job.Refusal(), HasSubstr("lower esa.proximity"));
  job.config.esa.proximity = 4096;
  job.info.shared_memory_per_block = 101376;  // as of sm_89
  EXPECT_TRUE(absl::IsUnimplemented(job.Check()));
  job.config.esa.proximity = 1;
  EXPECT_EQ(job.Check(), absl::OkStatus());

  job = Job();
  job.config.esa.top_k = int64_t{1} << 31;
  EXPECT_THAT(job.Refusal(), HasSubstr("`esa.top_k` (2147483648) must be at most 2147483647"));
  job.ranks = 8;
  EXPECT_THAT(job.Refusal(), HasSubstr("must be at most 536870911"));
  job = Job();
  job.ranks = 1025;
  EXPECT_EQ(job.Check(), absl::OkStatus());
  job.config.parallel.selection_merge = SelectionMerge::kAllGather;
  EXPECT_EQ(job.Refusal(),
            "`parallel.selection_merge: all_gather` is for at most 1024 GPUs, not 1025: use auto "
            "or histogram");
  job = Job();
  job.config.max_model_len = int64_t{1} << 31;
  EXPECT_THAT(job.Refusal(), HasSubstr("`max_model_len` (2147483648) gives a rank 2148532224 keys "
                                       "to select from, but GPUs select from at most 2147471357"));
  job.ranks = 2;
  EXPECT_EQ(job.Check(), absl::OkStatus());
}

}  // namespace
}  // namespace longspan
