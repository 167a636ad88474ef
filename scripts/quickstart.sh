#!/usr/bin/env bash
# Installs what is missing, builds `longspan`, and answers the questions of models/needle/demo over
# its document on 4 MPI ranks. Exits non-zero if the run failed; wrong answers are for you to judge.
set -euo pipefail
"$(dirname "$0")/install_dependencies.sh"
source "$(dirname "$0")/environment.sh"

cmake --preset cpu > /dev/null
cmake --build --preset cpu --target longspan

demo=models/needle/demo
work=build/quickstart
rm -rf "$work" && mkdir -p "$work"

# One batch request a question: the document and the question. The model begins with "Answer: ".
jq --compact-output --slurp --rawfile document "$demo/document.txt" 'to_entries[] | {
    custom_id: "question-\(.key + 1)", method: "POST", url: "/v1/completions",
    body: {prompt: "\($document)Question: \(.value.question)\n", max_tokens: 32,
           temperature: 0, stop: "\n"}
  }' "$demo/questions.jsonl" > "$work/requests.jsonl"

progress=lines
if [[ -t 2 ]]; then progress=bar; fi
# More ranks than cores, and not bound to any: the four share what there is.
mpirun -n 4 --oversubscribe --bind-to none build/cpu/launcher/longspan generate \
  --config configs/needle.yaml --progress "$progress" \
  --input "$work/requests.jsonl" --output "$work/answers.jsonl"

# The answers are in the order in which they were finished.
jq --raw-output --slurp --slurpfile answers "$work/answers.jsonl" '
  def pad($width): . + " " * ([$width - length, 0] | max);
  ($answers | map({(.custom_id): (.response.body.choices[0].text // "" | ltrimstr("Answer: "))}) | add)
    as $text
  | [to_entries[] | {question: .value.question, expected: .value.answer,
                     answer: $text["question-\(.key + 1)"]}]
  | (map(.question | length) | max) as $q
  | ([.[] | .answer, .expected | length] + [8] | max) as $a
  | ("", ("question" | pad($q)) + "  " + ("answer" | pad($a)) + "  expected"),
    (.[] | (.question | pad($q)) + "  " + (.answer | pad($a)) + "  " + .expected),
    "", "\(map(select(.answer == .expected)) | length) of \(length) answers are as expected."
  ' "$demo/questions.jsonl"
