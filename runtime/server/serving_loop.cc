#include "runtime/server/serving_loop.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runtime/clock.h"

namespace longspan {
namespace {

// Of a clock that never jumps.
absl::Time Now() { return absl::UnixEpoch() + absl::Seconds(MonotonicSeconds()); }

}  // namespace

absl::Status ServingLoop::Submit(std::vector<Generation> generations,
                                 absl::FunctionRef<void(std::vector<int64_t> ids)> accepted) {
  const auto count = static_cast<int64_t>(generations.size());
  const int64_t most = limits_.max_num_seqs + limits_.max_waiting;
  if (count > most) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the request asks for ", count, " sequences, its prompts times `n`; this ",
        "server takes at most ", most, ": ", limits_.max_num_seqs, " run (max_num_seqs) and ",
        limits_.max_waiting, " wait (server.max_waiting)"));
  }
  const std::lock_guard lock(mutex_);
  if (!accepting_) return absl::UnavailableError("the server is stopping");
  if (outstanding_ + count > most) {
    return absl::ResourceExhaustedError(absl::StrCat(
        outstanding_.load(), " sequences run or wait, of at most ", most, ": try again later"));
  }
  outstanding_ += count;
  const absl::Time now = Now();
  std::vector<int64_t> ids;
  for (Generation& generation : generations) {
    ids.push_back(next_id_);
    queued_.push_back({next_id_++, std::move(generation), now});
  }
  accepted(std::move(ids));
  changed_.notify_one();
  return absl::OkStatus();
}

void ServingLoop::Cancel(absl::Span<const int64_t> ids) {
  const std::lock_guard lock(mutex_);
  cancelled_.insert(cancelled_.end(), ids.begin(), ids.end());
  changed_.notify_one();
}

absl::Duration ServingLoop::RetryAfter() const {
  const double rounds = static_cast<double>(outstanding_) / limits_.max_num_seqs;
  return absl::Seconds(std::clamp(rounds * request_seconds_, 1.0, 60.0));
}

absl::Status ServingLoop::Run(Engine& engine, const std::function<bool()>& stop) {
  absl::Time end = absl::InfiniteFuture();
  while (true) {
    if (accepting_ && stop()) {
      const std::lock_guard lock(mutex_);
      accepting_ = false;
      end = Now() + limits_.drain_limit;
      spdlog::info("stopping: {} under way, for at most {} s", outstanding_.load(),
                   absl::ToInt64Seconds(limits_.drain_limit));
    }
    TakeQueued(engine, /*may_wait=*/accepting_ && !engine.HasWork());
    const absl::Time now = Now();
    if (now >= end) {
      End(engine, absl::CancelledError("the server stopped before the answer's end"),
          [](const Running&) { return true; });
    }
    EndLate(engine, now);
    if (engine.HasWork()) {
      absl::StatusOr<std::vector<RequestUpdate>> updates = engine.Step();
      if (!updates.ok()) {
        End(engine, updates.status(), [](const Running&) { return true; });
        RefuseQueued(updates.status());
        return updates.status();
      }
      for (RequestUpdate& update : *updates) Take(std::move(update));
    } else if (!accepting_) {
      return absl::OkStatus();
    }
    metrics_->SetEngine(engine.load(), engine.stats(), engine.rank_stats());
  }
}

void ServingLoop::RefuseQueued(const absl::Status& status) {
  std::vector<Queued> queued;
  {
    const std::lock_guard lock(mutex_);
    accepting_ = false;
    queued.swap(queued_);
  }
  for (const Queued& q : queued) q.generation.on_error(status);
}

void ServingLoop::TakeQueued(Engine& engine, bool may_wait) {
  std::vector<Queued> queued;
  std::vector<int64_t> cancelled;
  {
    std::unique_lock lock(mutex_);
    if (may_wait) {
      // A signal handler cannot wake this up: it looks again itself.
      changed_.wait_for(lock, std::chrono::milliseconds(100),
                        [this] { return !queued_.empty() || !cancelled_.empty(); });
    }
    queued.swap(queued_);
    cancelled.swap(cancelled_);
  }
  for (const int64_t id : cancelled) {
    if (std::erase_if(queued, [id](const Queued& q) { return q.id == id; }) > 0) {
      --outstanding_;
      metrics_->CountAborted();
    }
    const auto found = engine_ids_.find(id);
    if (found == engine_ids_.end()) continue;
    engine.Cancel(found->second);
    running_.erase(found->second);
    engine_ids_.erase(found);
    --outstanding_;
    metrics_->CountAborted();
  }
  for (Queued& q : queued) Start(engine, std::move(q));
}

void ServingLoop::Start(Engine& engine, Queued queued) {
  const absl::StatusOr<int64_t> engine_id =
      engine.SubmitChoice(std::move(queued.generation.request), queued.generation.choice);
  if (!engine_id.ok()) {
    --outstanding_;
    return queued.generation.on_error(engine_id.status());
  }
  engine_ids_[queued.id] = *engine_id;
  running_.emplace(*engine_id, Running{queued.id, std::move(queued.generation), queued.submitted});
}

void ServingLoop::Take(RequestUpdate update) {
  const auto found = running_.find(update.request);
  if (found == running_.end()) return;
  Running& running = found->second;
  const absl::Time now = Now();
  metrics_->CountPromptTokens(update.prefilled - running.prefilled);
  running.prefilled = update.prefilled;
  if (update.token) {
    metrics_->CountToken();
    if (running.tokens++ == 0) {
      metrics_->ObserveFirstToken(now - running.submitted);
    } else {
      metrics_->ObserveNextToken(now - running.last_token);
    }
    running.last_token = now;
  }
  if (!update.finished) return running.generation.on_update(std::move(update));
  const Running ended = std::move(running);
  engine_ids_.erase(ended.id);
  running_.erase(found);
  --outstanding_;
  metrics_->ObserveFinished(update, now - ended.submitted);
  const double seconds = update.completion.timings.prefill_s + update.completion.timings.decode_s;
  request_seconds_ = 0.9 * request_seconds_ + 0.1 * seconds;
  ended.generation.on_update(std::move(update));
}

void ServingLoop::EndLate(Engine& engine, absl::Time now) {
  const auto is_late = [&](const Running& running) {
    return now - running.submitted > limits_.timeout;
  };
  const bool any = std::any_of(running_.begin(), running_.end(),
                               [&](const auto& entry) { return is_late(entry.second); });
  if (!any) return;  // no text for nothing
  End(engine,
      absl::DeadlineExceededError(
          absl::StrCat("the request took longer than ", absl::FormatDuration(limits_.timeout))),
      is_late);
}

void ServingLoop::End(Engine& engine, const absl::Status& status,
                      const std::function<bool(const Running&)>& which) {
  std::vector<int64_t> ended;
  for (const auto& [id, running] : running_) {
    if (which(running)) ended.push_back(id);
  }
  for (const int64_t id : ended) {
    const Running running = std::move(running_.at(id));
    running_.erase(id);
    engine_ids_.erase(running.id);
    engine.Cancel(id);
    --outstanding_;
    metrics_->CountAborted();
    running.generation.on_error(status);
  }
}

}  // namespace longspan
