#ifndef LONGSPAN_EVAL_RESULT_STORE_H_
#define LONGSPAN_EVAL_RESULT_STORE_H_

#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "eval/results.h"

namespace longspan {

// An evaluation on disk, which this process alone adds to: DIR/eval.json is its description,
// DIR/cases.jsonl has a line for each case that has ended, DIR/costs.jsonl one for each EvalCost.
class ResultStore {
 public:
  // Makes the directory, or takes up what is there; an incomplete last line, as a crash leaves it,
  // is dropped. Methods may be added to those that are there, and some of them left out.
  // FailedPrecondition: it has cases of other settings, and is left as it is, or another process
  // adds to it. DataLoss: a line is damaged, and which.
  static absl::StatusOr<std::unique_ptr<ResultStore>> Open(
      const std::string& directory, const nlohmann::ordered_json& description);
  // What is there, and may be added to meanwhile. NotFound: there is no evaluation.
  static absl::StatusOr<EvalData> Read(const std::string& directory);
  ~ResultStore();
  ResultStore(const ResultStore&) = delete;
  ResultStore& operator=(const ResultStore&) = delete;

  bool Has(const std::string& task, const std::string& method, const CaseId& id) const {
    return keys_.contains(KeyOf(task, method, id));
  }
  // On disk when these return.
  absl::Status Add(EvalResult result);
  absl::Status Add(EvalCost cost);
  const EvalData& data() const { return data_; }

 private:
  using Key = std::tuple<std::string, std::string, int64_t, double, int64_t>;
  static Key KeyOf(const std::string& task, const std::string& method, const CaseId& id) {
    return {task, method, id.length, id.depth.value_or(-1), id.index};
  }

  explicit ResultStore(std::string directory) : directory_(std::move(directory)) {}
  absl::Status TakeUp(const nlohmann::ordered_json& description);
  void Keep(EvalResult result);

  std::string directory_;
  int lock_ = -1, cases_ = -1, costs_ = -1;  // file descriptors
  EvalData data_;
  std::set<Key> keys_;  // of its results
};

}  // namespace longspan

#endif  // LONGSPAN_EVAL_RESULT_STORE_H_
