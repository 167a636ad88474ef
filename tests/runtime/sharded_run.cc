#include "tests/runtime/sharded_run.h"

#include <algorithm>
#include <memory>

#include "collectives/thread_communicator.h"
#include "gtest/gtest.h"
#include "kernels/base/status_macros.h"
#include "runtime/cpu_transformer.h"
#include "runtime/gpu_model.h"
#include "runtime/model.h"
#include "runtime/sampling.h"
#include "runtime/transformer.h"

namespace longspan {
namespace {

// A sequence under way on one rank.
struct Running {
  const TestSequence* sequence;
  SequenceResult* result;
  std::unique_ptr<KvShard> cache;
  int64_t done = 0;  // tokens in the cache

  int64_t prompt() const { return static_cast<int64_t>(sequence->prompt.size()); }
  int64_t total() const { return prompt() + static_cast<int64_t>(sequence->decoded.size()); }
};

class RankRun {
 public:
  RankRun(const RandomModel& model, const Config& config, Communicator& communicator,
          const RunOverrides& overrides)
      : model_(model),
        config_(config),
        communicator_(communicator),
        rope_(InverseFrequencies(model.config.rope, model.config.head_dim)) {
    loaded_.config = model.config;
    loaded_.weights = model.weights;
    loaded_.attention =
        MakeAttentionContext(config_, model.config, &communicator, &rope_, &loaded_.counts);
    context_.limits = overrides.limits;
    context_.moving = overrides.moving;
    if (context_.selects && config.esa.compression == Compression::kLowRank) {
      context_.factors = MakeScoreFactors(model.compressor);
    }
    if (overrides.observe) {
      context_.on_selection = [this](int64_t layer, Range block, absl::Span<const int64_t> chosen) {
        for (Running* running : current_) {
          if (running->done != block.begin && current_.size() > 1) continue;
          running->result->selections[{layer, block.begin}] = {chosen.begin(), chosen.end()};
        }
      };
    }
  }

  absl::Status Run(const std::vector<TestSequence>& sequences,
                   std::vector<SequenceResult>* results) {
    LONGSPAN_RETURN_IF_ERROR(MakeTransformer(sequences));
    std::vector<Running> all(sequences.size());
    for (size_t i = 0; i < sequences.size(); ++i) {
      all[i].sequence = &sequences[i];
      all[i].result = &(*results)[i];
      all[i].cache =
          std::make_unique<KvShard>(loaded_.pool.get(), context_.layout, communicator_.rank());
      LONGSPAN_RETURN_IF_ERROR(all[i].cache->Reserve(all[i].total()));
    }
    bool busy = true;
    while (busy) {
      busy = false;
      for (Running& running : all) {
        if (running.done >= running.prompt()) continue;
        LONGSPAN_RETURN_IF_ERROR(PrefillChunkOf(&running));
        busy = true;
      }
      std::vector<Running*> decoding;
      for (Running& running : all) {
        if (running.done >= running.prompt() && running.done < running.total()) {
          decoding.push_back(&running);
        }
      }
      if (decoding.empty()) continue;
      LONGSPAN_RETURN_IF_ERROR(DecodeStep(decoding));
      busy = true;
    }
    return absl::OkStatus();
  }

 private:
  absl::Status MakeTransformer(const std::vector<TestSequence>& sequences) {
    const bool on_gpu = config_.device == "cuda";
    loaded_.pool =
        std::make_unique<PagePool>(context_.kv, 1 << 20, on_gpu ? GpuPages(config_) : PageMemory());
    if (!on_gpu) {
      transformer_ = std::make_unique<CpuTransformer>(model_.config, model_.weights, context_);
      return absl::OkStatus();
    }
    for (const TestSequence& sequence : sequences) {
      const auto tokens = static_cast<int64_t>(sequence.prompt.size() + sequence.decoded.size());
      config_.max_model_len = std::max(config_.max_model_len, tokens);
    }
    config_.max_num_seqs = std::max(config_.max_num_seqs, static_cast<int64_t>(sequences.size()));
    LONGSPAN_RETURN_IF_ERROR(OpenModelGpu(config_, &communicator_, &loaded_));
    LONGSPAN_ASSIGN_OR_RETURN(transformer_, MakeGpuTransformer(config_, loaded_));
    return absl::OkStatus();
  }

  void Store(const std::vector<float>& logits, int64_t row, int64_t position, Running* running) {
    const int64_t vocab = model_.config.vocab_size;
    std::copy_n(logits.data() + row * vocab, vocab,
                running->result->logits.data() + position * vocab);
  }

  absl::Status PrefillChunkOf(Running* running) {
    const Range tokens = {
        running->done, std::min(running->prompt(), running->done + config_.prefill_chunk_tokens)};
    const PrefillChunk chunk = PlanChunk(context_, config_.esa.selection_block,
                                         running->cache.get(), tokens, running->total());
    current_ = {running};
    LONGSPAN_RETURN_IF_ERROR(transformer_->Prefill(
        chunk, absl::MakeConstSpan(running->sequence->prompt).subspan(tokens.begin, tokens.size()),
        Transformer::Outputs::kAll));
    LONGSPAN_ASSIGN_OR_RETURN(const std::vector<float> logits, transformer_->Logits(0, chunk.rows));
    for (const PrefillBlock& block : chunk.blocks) {
      if (block.rank != communicator_.rank()) continue;
      for (int64_t i = 0; i < block.tokens.size(); ++i) {
        Store(logits, block.row + i, block.tokens.begin + i, running);
      }
    }
    running->done = tokens.end;
    return absl::OkStatus();
  }

  absl::Status DecodeStep(const std::vector<Running*>& decoding) {
    std::vector<DecodeToken> tokens;
    std::vector<int32_t> ids;
    for (const Running* running : decoding) {
      tokens.push_back({running->cache.get(), running->done});
      ids.push_back(running->sequence->decoded[running->done - running->prompt()]);
    }
    current_ = decoding;
    LONGSPAN_RETURN_IF_ERROR(transformer_->Decode(tokens, ids));
    LONGSPAN_ASSIGN_OR_RETURN(const std::vector<float> logits,
                              transformer_->Logits(0, static_cast<int64_t>(decoding.size())));
    LONGSPAN_ASSIGN_OR_RETURN(
        const std::vector<int32_t> likeliest,
        transformer_->LikeliestTokens(0, static_cast<int64_t>(decoding.size())));
    for (size_t i = 0; i < decoding.size(); ++i) {
      const int64_t vocab = model_.config.vocab_size;
      EXPECT_EQ(likeliest[i],
                LikeliestToken(absl::MakeConstSpan(logits).subspan(i * vocab, vocab)));
      if (communicator_.rank() == 0) {
        Store(logits, static_cast<int64_t>(i), decoding[i]->done, decoding[i]);
      }
      ++decoding[i]->done;
    }
    return absl::OkStatus();
  }

  const RandomModel& model_;
  Config config_;
  Communicator& communicator_;
  Rope rope_;
  Model loaded_;  // its transformer is ours
  AttentionContext& context_ = loaded_.attention;
  std::unique_ptr<Transformer> transformer_;
  std::vector<Running*> current_;  // whose blocks are under way
};

}  // namespace

absl::Status RunOnRank(const RandomModel& model, const Config& resolved, Communicator& communicator,
                       const std::vector<TestSequence>& sequences,
                       std::vector<SequenceResult>* results, const RunOverrides& overrides) {
  return RankRun(model, resolved, communicator, overrides).Run(sequences, results);
}

std::vector<SequenceResult> RunSharded(const RandomModel& model, Config config, int ranks,
                                       const std::vector<TestSequence>& sequences,
                                       const RunOverrides& overrides) {
  const absl::Status resolved = ResolveConfig(ranks, &config);
  EXPECT_TRUE(resolved.ok()) << resolved;
  std::vector<SequenceResult> merged(sequences.size());
  for (size_t i = 0; i < sequences.size(); ++i) {
    merged[i].logits.resize((sequences[i].prompt.size() + sequences[i].decoded.size()) *
                            model.config.vocab_size);
  }
  // Logits of a position are written by one rank alone; selections by all, so each keeps its own.
  std::vector<std::vector<SequenceResult>> of_rank(ranks, merged);
  const absl::Status ran = RunThreadRanks(ranks, [&](Communicator& communicator) {
    return RunOnRank(model, config, communicator, sequences, &of_rank[communicator.rank()],
                     overrides);
  });
  EXPECT_TRUE(ran.ok()) << ran;
  const SequenceLayout layout = {config.parallel.stripe_tokens, ranks};
  const int64_t vocab = model.config.vocab_size;
  for (size_t i = 0; i < sequences.size(); ++i) {
    merged[i].selections = of_rank[0][i].selections;
    for (int r = 1; r < ranks; ++r) {
      EXPECT_EQ(of_rank[r][i].selections, merged[i].selections) << "rank " << r;
    }
    const auto prompt = static_cast<int64_t>(sequences[i].prompt.size());
    const auto total = prompt + static_cast<int64_t>(sequences[i].decoded.size());
    for (int64_t p = 0; p < total; ++p) {
      const int owner = p < prompt ? layout.owner(p) : 0;
      std::copy_n(of_rank[owner][i].logits.data() + p * vocab, vocab,
                  merged[i].logits.data() + p * vocab);
    }
  }
  return merged;
}

}  // namespace longspan
