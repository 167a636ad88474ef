#include "runtime/engine.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "absl/functional/function_ref.h"
#include "absl/strings/str_cat.h"
#include "collectives/agree.h"
#include "kernels/base/check.h"
#include "kernels/base/status_macros.h"
#include "runtime/clock.h"
#include "runtime/model.h"
#include "runtime/phase_clock.h"
#include "runtime/prefix_store.h"
#include "runtime/rank_stats.h"
#include "runtime/sampling.h"
#include "runtime/scheduler.h"
#include "runtime/selection_counter.h"
#include "runtime/sequence.h"
#include "runtime/sequence_caches.h"
#include "sharding/step_schedule.h"

namespace longspan {
namespace {

constexpr double kStatsSeconds = 1;  // at least, between two gatherings of RankStats

// Rank 0's view of what a step computed.
struct StepResult {
  std::vector<float> prefill_logits;  // [vocab] of the prompt's last token, if the step ended it
  std::vector<TokenLogprobs> prompt_logprobs;  // of the tokens that follow each of the chunk's
  std::vector<float> decode_logits;            // [decodes, vocab], or if all are greedy
  std::vector<int32_t> decode_tokens;          // [decodes]
  std::vector<std::vector<int64_t>>
      selected;  // [decodes] positions, layer after layer; if observed
  double prefill_s = 0;
  double decode_s = 0;
};

// Runs step plans on one rank.
class StepRunner {
 public:
  StepRunner(Communicator* communicator, Model* model, int64_t selection_block,
             std::map<int64_t, PageRef> cached)
      : communicator_(communicator),
        model_(model),
        selection_block_(selection_block),
        caches_(model->pool.get(), model->attention.layout, communicator->rank(),
                std::move(cached)),
        clock_(*communicator),
        selections_(&model->attention, model->config.num_layers, model->gpu != nullptr) {}

  SelectionCounter& selections() { return selections_; }
  const SelectionCounter& selections() const { return selections_; }

  // This rank's pages of the prefix cache, by their nodes.
  const std::map<int64_t, PageRef>& cached() const { return caches_.cached(); }

  // `greedy`, of rank 0: all decodes take the likeliest token and want no log-probabilities.
  absl::StatusOr<StepResult> Run(const StepPlan& plan, bool greedy) {
    StepResult result;
    selections_.BeginStep(plan.counts_selections, plan.closes);
    const absl::Status opened = caches_.Update(plan);
    if (!plan.opens.empty()) LONGSPAN_RETURN_IF_ERROR(AgreeOnStatus(communicator_, opened));
    if (plan.prefill) {
      LONGSPAN_ASSIGN_OR_RETURN(result.prefill_s, Timed(counts_ ? &phases_.prefill : nullptr, [&] {
                                  return Prefill(*plan.prefill, &result);
                                }));
    }
    if (!plan.decodes.empty()) {
      LONGSPAN_ASSIGN_OR_RETURN(result.decode_s, Timed(DecodePhases(plan.decodes.size()), [&] {
                                  return Decode(plan.decodes, greedy, &result);
                                }));
    }
    return result;
  }

  // Of all ranks, since the last call; from now on they are counted. Collective.
  absl::StatusOr<std::vector<RankPhases>> TakePhases() {
    std::vector<RankPhases> all;
    LONGSPAN_RETURN_IF_ERROR(GatherPhases(communicator_, phases_, &all));
    phases_ = {};
    counts_ = true;
    return all;
  }

 private:
  bool IsDriver() const { return communicator_->rank() == 0; }

  // Where the next decode step is counted, if it is. A GPU's steps take longer with the events that
  // time them: one in so many has them, and the first of so many rows, which records their graph,
  // does not count.
  StagePhases* DecodePhases(size_t rows) {
    constexpr int64_t kStepsOfGpu = 8;
    if (!counts_) return nullptr;
    if (model_->gpu == nullptr) return &phases_.decode;
    if (decodes_++ % kStepsOfGpu != 0) return nullptr;
    return recorded_.insert(rows).second ? &recording_ : &phases_.decode;
  }

  // Runs a step's part of one stage, and counts it in `phases`, which may be null. Returns its
  // seconds.
  absl::StatusOr<double> Timed(StagePhases* phases, absl::FunctionRef<absl::Status()> stage) {
    model_->attention.phases = phases == nullptr ? nullptr : &clock_;
    const double start = MonotonicSeconds();
    if (phases != nullptr) clock_.Begin();
    LONGSPAN_RETURN_IF_ERROR(stage());
    if (phases != nullptr) clock_.End(phases);
    return MonotonicSeconds() - start;
  }

  absl::Status Prefill(const StepPlan::Prefill& prefill, StepResult* result) {
    const SequenceCaches::Sequence& sequence = caches_.at(prefill.sequence);
    PrefillChunk chunk = PlanChunk(model_->attention, selection_block_, sequence.cache.get(),
                                   prefill.tokens, sequence.capacity);
    chunk.behind_cached =
        prefill.tokens.begin > 0 && prefill.tokens.begin == sequence.cached_tokens;
    using Outputs = Transformer::Outputs;
    const Outputs outputs = prefill.logprobs >= 0 ? Outputs::kAll
                            : prefill.last        ? Outputs::kLastBlock
                                                  : Outputs::kNone;
    if (selections_.counts()) {
      model_->attention.on_selection = [&](int64_t layer, Range block,
                                           absl::Span<const int64_t> chosen) {
        selections_.AddPrefill(prefill.sequence, layer, block, chosen);
      };
    }
    const absl::Status prefilled = model_->transformer->Prefill(chunk, prefill.ids, outputs);
    model_->attention.on_selection = nullptr;
    LONGSPAN_RETURN_IF_ERROR(prefilled);
    if (outputs == Outputs::kAll) {
      LONGSPAN_RETURN_IF_ERROR(GatherPromptLogprobs(chunk, prefill, result));
    }
    return prefill.last ? ShareLastLogits(chunk, outputs, result) : absl::OkStatus();
  }

  // The owner of the prompt's last token computes its logits and sends them to rank 0.
  absl::Status ShareLastLogits(const PrefillChunk& chunk, Transformer::Outputs outputs,
                               StepResult* result) {
    const PrefillBlock& block = chunk.blocks.back();
    std::vector<float> logits(model_->config.vocab_size);
    const Collective call = SendLastLogits(block.rank, model_->config.vocab_size);
    if (block.rank == communicator_->rank()) {
      const int64_t first = outputs == Transformer::Outputs::kAll ? block.row : 0;
      LONGSPAN_ASSIGN_OR_RETURN(logits,
                                model_->transformer->Logits(first + block.tokens.size() - 1, 1));
    }
    std::vector<Transfer> sends, receives;
    for (const Message& message : call.messages) {
      if (message.from == communicator_->rank()) {
        sends.push_back({message.to, logits.data(), message.bytes});
      } else if (message.to == communicator_->rank()) {
        receives.push_back({message.from, logits.data(), message.bytes});
      }
    }
    LONGSPAN_ASSIGN_OR_RETURN(const ExchangeId exchange,
                              communicator_->StartExchange(call.name, sends, receives));
    LONGSPAN_RETURN_IF_ERROR(communicator_->WaitExchange(exchange));
    if (IsDriver()) result->prefill_logits = std::move(logits);
    return absl::OkStatus();
  }

  // Each rank turns its tokens' logits into log-probabilities of the tokens that follow; rank 0
  // puts them in order of position.
  absl::Status GatherPromptLogprobs(const PrefillChunk& chunk, const StepPlan::Prefill& prefill,
                                    StepResult* result) {
    const int64_t top = std::min(prefill.logprobs, model_->config.vocab_size);
    const int64_t width = 1 + 2 * top;  // log-probability, then (id, log-probability) pairs
    const auto has_next = [&](int64_t position) {
      return position + 1 - chunk.tokens.begin < static_cast<int64_t>(prefill.ids.size());
    };
    std::vector<int64_t> bytes(communicator_->size(), 0);
    std::vector<double> mine;
    const int64_t vocab = model_->config.vocab_size;
    for (const PrefillBlock& block : chunk.blocks) {
      // Some rows at a time: each pass reads the whole matrix of the vocabulary.
      constexpr int64_t kRows = 16;
      for (int64_t p = block.tokens.begin; p < block.tokens.end && has_next(p); p += kRows) {
        int64_t rows = std::min(kRows, block.tokens.end - p);
        while (!has_next(p + rows - 1)) --rows;
        bytes[block.rank] += rows * width * static_cast<int64_t>(sizeof(double));
        if (block.rank != communicator_->rank()) continue;
        LONGSPAN_ASSIGN_OR_RETURN(
            const std::vector<float> logits,
            model_->transformer->Logits(block.row + p - block.tokens.begin, rows));
        for (int64_t r = 0; r < rows; ++r) {
          const TokenLogprobs logprobs =
              ComputeLogprobs(absl::MakeConstSpan(logits).subspan(r * vocab, vocab),
                              prefill.ids[p + r + 1 - chunk.tokens.begin], top);
          mine.push_back(logprobs.logprob);
          for (const auto& [id, logprob] : logprobs.top) {
            mine.insert(mine.end(), {1.0 * id, logprob});
          }
        }
      }
    }
    int64_t total = 0;
    for (const int64_t b : bytes) total += b;
    std::vector<double> all(total / static_cast<int64_t>(sizeof(double)));
    LONGSPAN_RETURN_IF_ERROR(
        communicator_->AllGatherV("prefill.logprobs", mine.data(), all.data(), bytes));
    std::vector<const double*> next;
    const double* from = all.data();
    for (const int64_t b : bytes) {
      next.push_back(from);
      from += b / static_cast<int64_t>(sizeof(double));
    }
    for (const PrefillBlock& block : chunk.blocks) {
      for (int64_t p = block.tokens.begin; p < block.tokens.end && has_next(p); ++p) {
        const double*& record = next[block.rank];
        TokenLogprobs& logprobs = result->prompt_logprobs.emplace_back();
        logprobs.logprob = record[0];
        for (int64_t i = 0; i < top; ++i) {
          logprobs.top.emplace_back(static_cast<int32_t>(record[1 + 2 * i]), record[2 + 2 * i]);
        }
        record += width;
      }
    }
    return absl::OkStatus();
  }

  // Every layer tells of all decodes in turn. On all ranks, since GPUs take another way then, and
  // exact scores need all.
  void Observe(const std::vector<StepPlan::Decode>& decodes, absl::Span<const DecodeToken> tokens,
               StepResult* result) {
    result->selected.resize(decodes.size());
    if (selections_.counts()) {
      std::vector<int64_t> sequences;
      for (const StepPlan::Decode& decode : decodes) sequences.push_back(decode.sequence);
      selections_.BeginDecode(sequences, tokens);
      model_->transformer->set_observer([this](int64_t, const float* queries, const float*,
                                               int64_t) { selections_.SetQueries(queries); });
    }
    model_->attention.on_selection = [this, &decodes, result, call = size_t{0}](
                                         int64_t layer, Range block,
                                         absl::Span<const int64_t> chosen) mutable {
      const size_t d = call++ % decodes.size();
      if (IsDriver() && decodes[d].observed) {
        result->selected[d].insert(result->selected[d].end(), chosen.begin(), chosen.end());
      }
      if (selections_.counts()) {
        selections_.AddDecode(layer, static_cast<int64_t>(d), block, chosen);
      }
    };
  }

  absl::Status Decode(const std::vector<StepPlan::Decode>& decodes, bool greedy,
                      StepResult* result) {
    std::vector<DecodeToken> tokens;
    std::vector<int32_t> ids;
    for (const StepPlan::Decode& decode : decodes) {
      tokens.push_back({caches_.at(decode.sequence).cache.get(), decode.position});
      ids.push_back(decode.id);
    }
    const bool observes =
        selections_.counts() || std::any_of(decodes.begin(), decodes.end(),
                                            [](const StepPlan::Decode& d) { return d.observed; });
    if (observes) Observe(decodes, tokens, result);
    const absl::Status decoded = model_->transformer->Decode(tokens, ids);
    model_->attention.on_selection = nullptr;
    model_->transformer->set_observer(nullptr);
    LONGSPAN_RETURN_IF_ERROR(decoded);
    LONGSPAN_RETURN_IF_ERROR(selections_.EndDecode());
    if (!IsDriver()) return absl::OkStatus();
    const auto count = static_cast<int64_t>(decodes.size());
    if (greedy) {
      LONGSPAN_ASSIGN_OR_RETURN(result->decode_tokens,
                                model_->transformer->LikeliestTokens(0, count));
    } else {
      LONGSPAN_ASSIGN_OR_RETURN(result->decode_logits, model_->transformer->Logits(0, count));
    }
    return absl::OkStatus();
  }

  Communicator* communicator_;
  Model* model_;
  int64_t selection_block_;
  SequenceCaches caches_;
  PhaseClock clock_;
  bool counts_ = false;    // where time goes
  RankPhases phases_;      // since they were last taken
  int64_t decodes_ = 0;    // since counts_
  StagePhases recording_;  // of a GPU's steps that recorded their graph
  std::set<size_t> recorded_;
  SelectionCounter selections_;
};

// Broadcasts a plan as a fixed first message, which small plans fit, and the rest.
absl::Status SharePlan(Communicator* communicator, std::vector<int64_t>* words) {
  constexpr size_t kHeld = kFirstPlanWords - 1;
  std::vector<int64_t> first(kFirstPlanWords, 0);
  // Rank 0 may wait for its input, or for its output to be read: the others then wait for it.
  const UntimedWaits untimed(communicator);
  first[0] = static_cast<int64_t>(words->size());
  std::copy_n(words->begin(), std::min(words->size(), kHeld), first.begin() + 1);
  const Collective head = BroadcastPlan(0)[0];
  LONGSPAN_RETURN_IF_ERROR(communicator->Broadcast(head.name, first.data(), head.bytes[0], 0));
  words->resize(first[0]);
  std::copy_n(first.begin() + 1, std::min(words->size(), kHeld), words->begin());
  const std::vector<Collective> calls = BroadcastPlan(first[0]);
  if (calls.size() == 1) return absl::OkStatus();
  return communicator->Broadcast(calls[1].name, words->data() + kHeld, calls[1].bytes[0], 0);
}

class EngineImpl final : public Engine {
 public:
  EngineImpl(Communicator* communicator, Config config, std::unique_ptr<Model> model,
             std::unique_ptr<Tokenizer> tokenizer, const PrefixCache::Shape& shape,
             std::unique_ptr<PrefixStore> store, CachedPrefixes cached)
      : communicator_(communicator),
        config_(std::move(config)),
        model_(std::move(model)),
        tokenizer_(std::move(tokenizer)),
        store_(std::move(store)),
        runner_(communicator, model_.get(), config_.esa.selection_block, std::move(cached.pages)),
        scheduler_({config_.max_num_seqs, config_.prefill_chunk_tokens, model_->pool->max_pages(),
                    shape, config_.kv_cache_prefix_caching == "true"},
                   std::move(cached.cache)) {}

  const Config& config() const override { return config_; }
  const Tokenizer& tokenizer() const override { return *tokenizer_; }
  int64_t vocab_size() const override { return model_->config.vocab_size; }

  absl::Status Check(const Request& request) const override {
    const auto prompt = static_cast<int64_t>(request.prompt.size());
    if (prompt == 0) return absl::InvalidArgumentError("the prompt has no tokens");
    if (request.sampling.max_tokens < 0) {
      return absl::InvalidArgumentError("max_tokens must not be negative");
    }
    if (request.sampling.max_tokens > config_.max_model_len - prompt) {  // no sum that overflows
      return absl::InvalidArgumentError(absl::StrCat(
          "the prompt has ", prompt, " tokens, and with max_tokens ", request.sampling.max_tokens,
          " exceeds max_model_len ", config_.max_model_len));
    }
    for (const int32_t id : request.prompt) {
      if (id < 0 || id >= model_->config.vocab_size) {
        return absl::InvalidArgumentError(absl::StrCat(
            "token id ", id, " is not in the vocabulary of ", model_->config.vocab_size));
      }
    }
    return absl::OkStatus();
  }

  absl::StatusOr<int64_t> SubmitChoice(std::shared_ptr<const Request> request,
                                       int64_t choice) override {
    if (choice == 0) LONGSPAN_RETURN_IF_ERROR(Check(*request));  // the others are of the same
    const int64_t id = next_id_++;
    const auto prompt = static_cast<int64_t>(request->prompt.size());
    const int64_t capacity = prompt + request->sampling.max_tokens;
    WarnIfBeyondTraining(capacity);
    const Sequence& sequence =
        sequences_
            .emplace(id, Sequence(id, std::move(request), choice, *tokenizer_, MonotonicSeconds()))
            .first->second;
    scheduler_.Add(id, sequence.request().prompt, capacity,
                   /*computes_all=*/sequence.wanted_prompt_logprobs() >= 0);
    return id;
  }

  void Cancel(int64_t request) override {
    if (sequences_.contains(request)) End(request);
  }

  bool HasWork() const override { return !sequences_.empty() || !closing_.empty(); }
  int64_t num_waiting() const override { return scheduler_.num_waiting(); }

  absl::StatusOr<std::vector<RequestUpdate>> Step() override {
    const StepPlan plan = Plan();
    std::vector<int64_t> words = plan.Serialize();
    LONGSPAN_RETURN_IF_ERROR(SharePlan(communicator_, &words));
    const AttentionCounts before = model_->counts;
    LONGSPAN_ASSIGN_OR_RETURN(StepResult result, runner_.Run(plan, AllGreedy(plan)));
    stats_.prefill_s += result.prefill_s;
    stats_.decode_s += result.decode_s;
    stats_.attended_keys += model_->counts.attended - before.attended;
    stats_.dense_keys += model_->counts.dense - before.dense;
    if (plan.gathers_stats) {
      LONGSPAN_RETURN_IF_ERROR(GatherRankStats(communicator_, &rank_stats_));
    }
    return Deliver(plan, std::move(result));
  }

  EngineLoad load() const override {
    return {scheduler_.num_running(),   scheduler_.num_waiting(),      scheduler_.used_pages(0),
            scheduler_.cached_pages(0), scheduler_.evictable_pages(0), model_->pool->max_pages()};
  }
  const EngineStats& stats() const override { return stats_; }
  const std::vector<RankStats>& rank_stats() const override { return rank_stats_; }
  const MemoryPlan& memory_plan() const override { return model_->memory; }

  absl::StatusOr<std::vector<RankPhases>> TakePhases() override {
    StepPlan plan;
    plan.takes_phases = true;
    std::vector<int64_t> words = plan.Serialize();
    LONGSPAN_RETURN_IF_ERROR(SharePlan(communicator_, &words));
    return runner_.TakePhases();
  }

  absl::StatusOr<EngineStats> Shutdown() override {
    if (store_ != nullptr) LONGSPAN_RETURN_IF_ERROR(PublishWhatRuns());
    StepPlan plan;
    plan.shutdown = true;
    std::vector<int64_t> words = plan.Serialize();
    LONGSPAN_RETURN_IF_ERROR(SharePlan(communicator_, &words));
    LONGSPAN_RETURN_IF_ERROR(Close());
    for (const auto& [name, call] : communicator_->stats()) {
      spdlog::debug("{}: {} calls, {} bytes sent, {:.3f} s waited", name, call.calls,
                    call.bytes_sent, call.seconds_waited);
    }
    return stats_;
  }

  void CountSelections() override { runner_.selections().Start(); }
  const SelectionStats* selection_stats() const override { return runner_.selections().stats(); }

  absl::Status RunWorker() override {
    while (true) {
      std::vector<int64_t> words;
      LONGSPAN_RETURN_IF_ERROR(SharePlan(communicator_, &words));
      const StepPlan plan = StepPlan::Deserialize(words);
      if (plan.shutdown) return Close();
      if (plan.takes_phases) {
        LONGSPAN_RETURN_IF_ERROR(runner_.TakePhases().status());
        continue;
      }
      LONGSPAN_RETURN_IF_ERROR(runner_.Run(plan, /*greedy=*/false).status());
      if (plan.gathers_stats) {
        LONGSPAN_RETURN_IF_ERROR(GatherRankStats(communicator_, &rank_stats_));
      }
    }
  }

 private:
  // Beyond the trained context a model meets distances that it has never seen.
  void WarnIfBeyondTraining(int64_t tokens) {
    const EsaConfig& esa = config_.esa;
    const bool all = config_.attention == Attention::kDense || esa.positions == Positions::kNative;
    const int64_t reach =
        all ? tokens
            : std::min(tokens, std::max(esa.local_tokens + esa.selection_block, esa.far_position));
    const int64_t trained = model_->config.max_position_embeddings;
    if (reach <= trained || warned_) return;
    warned_ = true;
    spdlog::warn(
        "attention reaches over {} tokens, but the model was {} {}: expect nonsense ({})", reach,
        config_.rope.scaling == RopeStretch::kNone ? "trained on" : "stretched to", trained,
        all ? "attention: esa with positions: far reads long contexts"
            : "esa.local_tokens + esa.selection_block and esa.far_position must stay within");
  }

  StepPlan Plan() {
    Scheduler::Work work = scheduler_.Next();
    StepPlan plan;
    const double now = MonotonicSeconds();
    plan.counts_selections = selection_stats() != nullptr;
    plan.gathers_stats = now - gathered_ >= kStatsSeconds;
    if (plan.gathers_stats) gathered_ = now;
    plan.publishes = std::move(work.publishes);
    plan.closes = std::exchange(closing_, {});
    plan.evicts = std::move(work.evicts);
    plan.opens = std::move(work.opens);
    for (const StepPlan::Open& open : plan.opens) {
      Sequence& sequence = sequences_.at(open.sequence);
      sequence.Cached(open.cached_tokens);
      if (config_.kv_cache_prefix_caching != "true" || sequence.wanted_prompt_logprobs() >= 0)
        continue;
      stats_.prefix_query_tokens += static_cast<int64_t>(sequence.request().prompt.size());
      stats_.prefix_hit_tokens += open.cached_tokens;
    }
    if (work.prefill) {
      const Sequence& sequence = sequences_.at(work.prefill->sequence);
      const Range tokens = work.prefill->tokens;
      StepPlan::Prefill& prefill = plan.prefill.emplace();
      prefill.sequence = work.prefill->sequence;
      prefill.tokens = tokens;
      prefill.last = work.prefill->last;
      prefill.logprobs = sequence.wanted_prompt_logprobs();
      const std::vector<int32_t>& prompt = sequence.request().prompt;
      int64_t end = tokens.end;
      if (prefill.logprobs >= 0) end = std::min<int64_t>(end + 1, prompt.size());
      prefill.ids.assign(prompt.begin() + tokens.begin, prompt.begin() + end);
      sequences_.at(prefill.sequence).PrefillStarts(MonotonicSeconds());
    }
    for (const int64_t id : work.decodes) {
      const Sequence& sequence = sequences_.at(id);
      plan.decodes.push_back({id, sequence.last_position(), sequence.last_token(),
                              sequence.request().sampling.attended});
    }
    return plan;
  }

  std::vector<RequestUpdate> Deliver(const StepPlan& plan, StepResult result) {
    std::vector<RequestUpdate> updates;
    if (plan.prefill) {
      Sequence& sequence = sequences_.at(plan.prefill->sequence);
      stats_.prompt_tokens += plan.prefill->tokens.size();
      sequence.Prefilled(plan.prefill->tokens.end, std::move(result.prompt_logprobs));
      RequestUpdate update = sequence.Update();
      if (plan.prefill->last) {
        update = sequence.request().sampling.max_tokens == 0
                     ? sequence.FinishPrompt(MonotonicSeconds())
                     : Extend(&sequence, result.prefill_logits);
      }
      updates.push_back(std::move(update));
    }
    const int64_t vocab = model_->config.vocab_size;
    stats_.decoded_tokens += static_cast<int64_t>(plan.decodes.size());
    for (size_t d = 0; d < plan.decodes.size(); ++d) {
      Sequence* sequence = &sequences_.at(plan.decodes[d].sequence);
      if (plan.decodes[d].observed) sequence->Selected(result.selected[d]);
      updates.push_back(result.decode_tokens.empty()
                            ? Extend(sequence, absl::MakeConstSpan(
                                                   result.decode_logits.data() + d * vocab, vocab))
                            : Append(sequence, result.decode_tokens[d], std::nullopt));
    }
    for (const RequestUpdate& update : updates) {
      if (update.finished) End(update.request);
    }
    return updates;
  }

  void End(int64_t request) {
    if (scheduler_.Remove(request)) closing_.push_back(request);
    sequences_.erase(request);
  }

  bool AllGreedy(const StepPlan& plan) const {
    for (const StepPlan::Decode& decode : plan.decodes) {
      const Sequence& sequence = sequences_.at(decode.sequence);
      if (sequence.request().sampling.temperature != 0 || sequence.wants_logprobs()) return false;
    }
    return true;
  }

  RequestUpdate Extend(Sequence* sequence, absl::Span<const float> logits) {
    const int64_t position = sequence->next_position();
    const SamplingParams& params = sequence->request().sampling;
    const int32_t token = SampleToken(logits, params, sequence->seed(), position);
    std::optional<TokenLogprobs> logprobs;
    if (sequence->wants_logprobs()) logprobs = ComputeLogprobs(logits, token, *params.logprobs);
    return Append(sequence, token, std::move(logprobs));
  }

  RequestUpdate Append(Sequence* sequence, int32_t token, std::optional<TokenLogprobs> logprobs) {
    stats_.generated_tokens += 1;
    return sequence->Append(token, std::move(logprobs), model_->config.eos_token_ids,
                            MonotonicSeconds());
  }

  // Ranks come to hold all that the prefix cache says that they do.
  absl::Status PublishWhatRuns() {
    while (!sequences_.empty()) End(sequences_.begin()->first);
    return HasWork() ? Step().status() : absl::OkStatus();
  }

  absl::Status Close() {
    LONGSPAN_RETURN_IF_ERROR(GatherMemory());
    if (store_ == nullptr) return absl::OkStatus();
    const bool is_first = communicator_->rank() == 0;
    const absl::Status saved =
        store_->Save(is_first ? &scheduler_.cache() : nullptr, runner_.cached());
    // All is answered: a full disk does not change that.
    if (!IsAgreed(saved)) return saved;
    if (is_first)
      spdlog::error("the cached prefixes are not saved: {}", std::string(saved.message()));
    return absl::OkStatus();
  }

  absl::Status GatherMemory() {
    const int64_t peak = PeakMemory();
    stats_.peak_memory_bytes.resize(communicator_->size());
    return communicator_->AllGather("stats.memory", &peak, stats_.peak_memory_bytes.data(),
                                    sizeof(peak));
  }

  Communicator* communicator_;
  Config config_;
  std::unique_ptr<Model> model_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::unique_ptr<PrefixStore> store_;  // null: prefixes end with the run
  StepRunner runner_;
  Scheduler scheduler_;
  std::map<int64_t, Sequence> sequences_;
  std::vector<int64_t> closing_;  // finished, to be freed with the next plan
  int64_t next_id_ = 0;
  bool warned_ = false;
  EngineStats stats_;
  std::vector<RankStats> rank_stats_;
  double gathered_ = -kStatsSeconds;  // when they were
};

}  // namespace

absl::StatusOr<std::unique_ptr<Engine>> Engine::Create(const Config& config,
                                                       Communicator* communicator) {
  Config resolved = config;
  // First, for loading takes long.
  std::unique_ptr<PrefixStore> store;
  if (!config.kv_cache_prefix_dir.empty() && config.kv_cache_prefix_caching == "true") {
    LONGSPAN_ASSIGN_OR_RETURN(store, PrefixStore::Open(config.kv_cache_prefix_dir, communicator));
  } else if (!config.kv_cache_prefix_dir.empty() && communicator->rank() == 0) {
    spdlog::warn("kv_cache.prefix_dir is not used, as kv_cache.prefix_caching is off");
  }
  // Rank 0 alone reads and writes text.
  absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = nullptr;
  if (communicator->rank() == 0) tokenizer = LoadTokenizer(config);
  LONGSPAN_RETURN_IF_ERROR(AgreeOnStatus(communicator, tokenizer.status()));
  LONGSPAN_ASSIGN_OR_RETURN(auto model, LoadModel(communicator, &resolved));
  const PrefixCache::Shape shape = {model->attention.layout, model->attention.kv.halo,
                                    resolved.esa.selection_block};
  CachedPrefixes cached{PrefixCache(shape), {}};
  if (store != nullptr) {
    LONGSPAN_ASSIGN_OR_RETURN(cached, store->Restore(resolved, *model, shape));
  }
  return std::make_unique<EngineImpl>(communicator, std::move(resolved), std::move(model),
                                      *std::move(tokenizer), shape, std::move(store),
                                      std::move(cached));
}

}  // namespace longspan
