#ifndef LONGSPAN_TESTS_EVAL_EVAL_TESTING_H_
#define LONGSPAN_TESTS_EVAL_EVAL_TESTING_H_

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "eval/haystack.h"
#include "eval/prompt.h"
#include "runtime/dummy_model.h"
#include "runtime/tokenizer.h"

namespace longspan::testing {

// The shipped model's tokenizer, the one of models without weights (a token a byte), and one in the
// manner of SentencePiece.
inline std::vector<std::pair<std::string, std::unique_ptr<Tokenizer>>> EvalTokenizers() {
  const std::string source = LONGSPAN_SOURCE_DIR;
  std::vector<std::pair<std::string, std::unique_ptr<Tokenizer>>> tokenizers;
  tokenizers.emplace_back("needle", *Tokenizer::Load(source + "/models/needle"));
  tokenizers.emplace_back("dummy", *MakeDummyTokenizer(4096));
  tokenizers.emplace_back("llama2",
                          *Tokenizer::Load(source + "/tests/runtime/testdata/tokenizer/llama2"));
  return tokenizers;
}

// What prompts are made from, over the generated haystack, with the shipped model's prompt form.
struct EvalMaterial {
  explicit EvalMaterial(const Tokenizer& tokenizer)
      : haystack(*Haystack::Load("", tokenizer)),
        material{tokenizer, haystack, *MakePromptForm("{document}\nQuestion: {question}\n", "\n"),
                 {},        {},       0} {}

  Haystack haystack;
  PromptMaterial material;
};

}  // namespace longspan::testing

#endif  // LONGSPAN_TESTS_EVAL_EVAL_TESTING_H_
