#!/usr/bin/env bash
# The `longspan` program from outside: cli_test.sh BINARY SOURCE_DIR CASE [MPIRUN...].
# Its model is a random one of two layers; its tokens are bytes.
set -euo pipefail
longspan=$1 source=$2 case=${3%_mpi}
shift 3
mpirun=("$@")

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
mkdir model
cp "$source"/tests/runtime/testdata/models/llama_f16/{config.json,model.safetensors} model/
cp "$source/tests/launcher/testdata/byte_tokenizer.json" model/tokenizer.json
cat > run.yaml <<'YAML'
model: model
max_model_len: 4096
esa: {initial_tokens: 4, local_tokens: 16, top_k: 8, selection_block: 8, compression: exact}
prefill: {chunk_tokens: 32}
max_num_seqs: 3
deterministic: true
YAML

fail() { echo "FAILED: $*" >&2; exit 1; }
# expect CODE COMMAND...: its output is in ./stdout and ./stderr.
expect() {
  local want=$1 got=0
  shift
  "$@" > stdout 2> stderr || got=$?
  [ "$got" = "$want" ] || { cat stdout stderr >&2; fail "exit code $got, not $want: $*"; }
}
says() { grep -qF -- "$1" stderr || { cat stderr >&2; fail "stderr lacks: $1"; }; }
ask_line() {  # ID PROMPT MAX_TOKENS
  printf '{"custom_id":"%s","method":"POST","url":"/v1/completions",' "$1"
  printf '"body":{"prompt":"%s",' "$2"
  printf '"max_tokens":%d,"temperature":0,"ignore_eos":true}}\n' "$3"
}
prompt() { printf 'needle %d in hay. ' $(seq "$1" "$(($1 + $2))"); }
requests() {  # COUNT MAX_TOKENS
  local i
  for i in $(seq "$1"); do ask_line "r$i" "$(prompt "$i" "$((i % 7))")" "$2"; done
}
generate=(generate --config run.yaml --input in.jsonl)
# What does not differ between runs: id and text, sorted.
answers() {
  sed -E 's/.*("custom_id":[^,]*),.*"choices":(\[.*\]),"usage".*/\1 \2/; s/req_[0-9a-f]+//g' "$1" |
    sort
}
same_answers() { diff <(answers "$1") <(answers "$2") > /dev/null || fail "$1 and $2 differ"; }

case $case in
  usage)
    expect 0 "$longspan" --help
    grep -q 'longspan generate' stdout
    expect 0 "$longspan" --version
    grep -q '^communicators .*mpi' stdout
    expect 0 "$longspan" generate --help
    grep -q -- '--output' stdout
    expect 0 "$longspan" scale point --help
    ! grep -qE 'bench|eval' stdout || fail "it speaks of other commands"
    expect 2 "$longspan"
    expect 2 "$longspan" conquer; says 'unknown subcommand conquer'
    expect 2 "$longspan" generate; says '--input and --output are needed'
    expect 2 "$longspan" generate --max_tokens=5; says 'unknown flag --max_tokens'
    expect 2 "$longspan" ask --max-token=5 q; says 'unknown flag --max-token (did you mean --max_tokens?)'
    expect 2 "$longspan" ask --max_tokens=many q; says '--max_tokens: not a valid value: many'
    expect 2 "$longspan" ask --model; says '--model needs a value'
    expect 2 "$longspan" generate --input a --output b --set top_k; says 'must be key=value'
    expect 2 "$longspan" generate --input a --output b --verbosity loud; says '--verbosity'
    ;;
  doctor)
    requests 1 1 > in.jsonl
    low=(--set esa.compression=low_rank --set esa.compressed_dim=4)
    expect 0 "${mpirun[@]}" "$longspan" doctor --config run.yaml
    grep -q '^communicators .*mpi' stdout
    grep -q '^ok  cores' stdout && grep -q '^ok  memory' stdout && grep -q '^ok  GPUs' stdout
    grep -q '^ok  model  .*LlamaForCausalLM (Llama.* 2 layers of 48' stdout
    grep -q '^ok  tokenizer ' stdout
    grep -q '^ok  fit .*a request of 4096 tokens .*: weights .*activations .*cache ' stdout
    [ ${#mpirun[@]} = 0 ] || grep -q '^ok  ranks .*2 under mpirun, on 1 host' stdout
    [ "$(grep -c '  fit ' stdout)" = 1 ] || fail "told more than once"
    if [ ${#mpirun[@]} = 0 ]; then
      expect 0 "$longspan" doctor
      expect 1 "$longspan" doctor --config run.yaml "${low[@]}"
      grep -q '^!!  compressor .*run `longspan calibrate`' stdout
      expect 1 "$longspan" doctor --config run.yaml --set max_model_len=4000000000
      grep -q '^!!  fit .*does not fit: for max_model_len 4000000000 a rank needs [0-9]* bytes' stdout
      expect 1 "$longspan" doctor --config run.yaml --set prefill.chunk_tokens=33
      grep -q '^!!  config .*must be a multiple' stdout
      grep -q '^ok  model ' stdout  # for all that
      sed -i 's/LlamaForCausalLM/MambaForCausalLM/' model/config.json
      expect 1 "$longspan" doctor --model model
      grep -q '^!!  model .*"MambaForCausalLM".*; supported: LlamaForCausalLM, Mistral' stdout
      expect 1 "$longspan" doctor --model absent
      grep -q '^!!  config .*absent is not a directory' stdout
      expect 1 "$longspan" doctor --set esa.top_k=1
      grep -q '^!!  config .*--set needs --config or --model' stdout
    fi
    ;;
  refusals)  # told once, by one rank, before anything is loaded
    rm model/model.safetensors
    requests 2 4 > in.jsonl
    run=("${mpirun[@]}" "$longspan" "${generate[@]}" --output out.jsonl)
    refuse() {
      local message=$1
      shift
      expect 1 "${run[@]}" "$@"
      says "$message"
      [ "$(grep -c '^longspan: ' stderr)" = 1 ] || { cat stderr >&2; fail "told more than once"; }
      [ ! -s out.jsonl ] || fail "there is output"
    }
    refuse 'unknown key `esa.topk` (did you mean `esa.top_k`?)' --set esa.topk=5
    if [ ${#mpirun[@]} = 0 ]; then
      refuse '`prefill.chunk_tokens` (32) must be a multiple' --set esa.selection_block=24
      refuse '`parallel.stripe_tokens` (12) must be a multiple' --set parallel.stripe_tokens=12
      refuse 'has no CUDA' --set device=cuda
      refuse 'this build has no NCCL' --set parallel.communicator=nccl
      refuse 'absent is not a directory' --model absent
      refuse 'absent.jsonl: cannot open' --input absent.jsonl
    else
      refuse '`parallel.ranks` is 7 but the job has' --set parallel.ranks=7
      refuse '`parallel.communicator: threads` under mpirun' --set parallel.communicator=threads
    fi
    cat in.jsonl in.jsonl > twice.jsonl
    refuse 'custom_id "r1" is that of line 1' --input twice.jsonl
    refuse 'model.safetensors'
    rm out.jsonl
    echo precious > out.jsonl
    expect 1 "${run[@]}"; says 'is no line of a batch output'
    [ "$(cat out.jsonl)" = precious ] || fail "the file was overwritten"
    ;;
  answers)  # the same for every number of ranks; errors beside them
    { requests 9 6; echo '{bad'; ask_line huge "$(prompt 1 300)" 9 | sed 's/"prompt"/"hint"/'; } \
      > in.jsonl
    for ranks in 1 2 3; do
      expect 3 "$longspan" "${generate[@]}" --output "threads$ranks.jsonl" \
        --set parallel.ranks="$ranks"
      says '11: 9 answered, 2 with errors, 0 answered before'
      same_answers threads1.jsonl "threads$ranks.jsonl"
    done
    expect 3 "${mpirun[@]}" "$longspan" "${generate[@]}" --output mpi.jsonl
    grep -q '"line 10: not valid JSON' mpi.jsonl
    grep -q '"custom_id":"huge".*unknown parameter `hint`.*"param":"hint"' mpi.jsonl
    same_answers threads1.jsonl mpi.jsonl

    requests 9 6 > in.jsonl
    expect 0 "$longspan" "${generate[@]}" --output threads1.jsonl
    says '9, nothing left to do'
    expect 0 "${mpirun[@]}" "$longspan" "${generate[@]}" --output - --input - < in.jsonl
    cp stdout piped.jsonl
    grep '"status_code":200' mpi.jsonl > good.jsonl
    same_answers good.jsonl piped.jsonl

    # Prompts that begin alike, with and without what is cached of them.
    for i in $(seq 9); do ask_line "r$i" "$(prompt 1 "$((i * 3 % 7 + 1))")" 6; done > in.jsonl
    expect 0 "$longspan" "${generate[@]}" --output cold.jsonl
    expect 0 "${mpirun[@]}" "$longspan" "${generate[@]}" --output warm.jsonl \
      --set kv_cache.prefix_caching=true
    same_answers cold.jsonl warm.jsonl
    ;;
  chats)  # the same as the text that the template makes of them
    printf '%s' '{"chat_template": "{% for m in messages %}{% if m.role == \"tool\" %}' \
      '{{ raise_exception(\"no tools\") }}{% endif %}<{{ m.role }}>{{ m.content }}{% endfor %}' \
      '{% if add_generation_prompt %}<assistant>{% endif %}"}' > model/tokenizer_config.json
    chat_line() {  # ID MESSAGES MORE
      printf '{"custom_id":"%s","method":"POST","url":"/v1/chat/completions",' "$1"
      printf '"body":{"messages":[%s],"temperature":0,"ignore_eos":true%s}}\n' "$2" "$3"
    }
    hello='{"role":"user","content":"hello"}'
    { ask_line text '<user>hello<assistant>' 6
      chat_line chat "$hello" ',"max_tokens":6,"logprobs":true,"top_logprobs":1'
      chat_line open "$hello" ',"max_tokens":6,"add_generation_prompt":false'
      ask_line plain '<user>hello' 6
      chat_line refused '{"role":"tool","content":"x"}' ''
      chat_line long "$hello" '' ; } > in.jsonl
    expect 3 "${mpirun[@]}" "$longspan" "${generate[@]}" --output out.jsonl --set max_model_len=64
    says '6: 5 answered, 1 with errors'
    text_of() { grep "\"custom_id\":\"$1\"" out.jsonl |
      jq -r '.response.body.choices[0] | .text // .message.content'; }
    [ "$(text_of chat)" = "$(text_of text)" ] || fail "the chat's answer is another"
    [ "$(text_of open)" = "$(text_of plain)" ] || fail "the open chat's answer is another"
    grep -q '"custom_id":"chat".*"object":"chat.completion".*"top_logprobs":\[{' out.jsonl
    grep -q '"custom_id":"refused".*no tools.*"param":"messages"' out.jsonl
    grep -q '"custom_id":"long".*"prompt_tokens":22,"completion_tokens":42' out.jsonl
    expect 0 "$longspan" doctor --config run.yaml
    grep -q '^ok  chats .*supported' stdout

    rm model/model.safetensors  # from here on nothing gets as far as that
    refuse() {
      printf '%s' "$1" > model/tokenizer_config.json
      expect 1 "${mpirun[@]}" "$longspan" "${generate[@]}" --output other.jsonl
      says "$2"
      [ "$(grep -c '^longspan: ' stderr)" = 1 ] || fail "told more than once"
    }
    refuse '{}' 'no chat template'
    refuse '{"chat_template": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"}' 'deep'
    refuse '{"chat_template": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"}' \
      'steps'
    refuse '{"chat_template": "{{ messages | frobnicate }}"}' 'frobnicate'
    ;;
  calibrate)  # a compressor of one's own; then the same answers for every number of ranks
    prompt 1 900 > text.txt
    low=(--set esa.compression=low_rank --set esa.compressed_dim=4)
    expect 0 "${mpirun[@]}" "$longspan" calibrate --config run.yaml --input text.txt "${low[@]}"
    grep -q '^model/compressor.safetensors: 2 layers, 4 dimensions' stdout
    requests 6 8 > in.jsonl
    for ranks in 1 2 4; do
      expect 0 "$longspan" "${generate[@]}" --output "low$ranks.jsonl" "${low[@]}" \
        --set parallel.ranks="$ranks"
      same_answers low1.jsonl "low$ranks.jsonl"
    done
    expect 0 "${mpirun[@]}" "$longspan" "${generate[@]}" --output mpi.jsonl "${low[@]}"
    same_answers low1.jsonl mpi.jsonl

    # What each layer selects, told from any number of ranks.
    expect 0 "${mpirun[@]}" "$longspan" "${generate[@]}" --output stats.jsonl "${low[@]}" \
      --selection_stats stats.json
    same_answers low1.jsonl stats.jsonl
    grep -q '"overlap_of_layers": 0' stats.json
    grep -Eq '"recall": (0\.[0-9]*[1-9]|1)' stats.json
    # It replaces neither prompts nor answers, and is refused where there is nothing to select.
    cp in.jsonl prompts
    expect 1 "$longspan" "${generate[@]}" --output new.jsonl "${low[@]}" --selection_stats in.jsonl
    says 'is also --input'
    expect 1 "$longspan" "${generate[@]}" --output new.jsonl "${low[@]}" --selection_stats new.jsonl
    says 'is also --output'
    cmp prompts in.jsonl
    expect 1 "$longspan" "${generate[@]}" --output new.jsonl --selection_stats new.json \
      --set attention=streaming
    says 'selects nothing'
    expect 0 "$longspan" "${generate[@]}" --output low1.jsonl "${low[@]}" --selection_stats new.json
    says 'no --selection_stats written'
    [ ! -e new.json ] || fail "statistics of no run"
    [ ! -e new.jsonl ] || fail "answers of a refused run"

    # Ways of fitting: by name, compared, and with a d' for each layer.
    cp model/compressor.safetensors closed_form
    expect 0 "${mpirun[@]}" "$longspan" calibrate --config run.yaml --input text.txt \
      --compare closed_form,pca,sgd,sgd_mlp --dims 2,4 --sgd_epochs 1 --format csv
    [ "$(wc -l < stdout)" = 17 ] || fail "expected 4 methods x 2 dimensions x 2 layers"
    expect 0 "$longspan" calibrate --config run.yaml --input text.txt --recall 0.99 \
      --budget_dim 3 --dims 2,4
    grep -Eq '^ mean +[23]\.[0-9] +[0-9.]+%, [0-9.]+% in layer [01], the lowest; [0-9]+ bytes' stdout
    says 'no compressor is written'
    cp text.txt text
    expect 1 "$longspan" calibrate --config run.yaml --input text.txt --compare pca --dims 2 \
      --output text.txt
    says 'is also --input'
    cmp text text.txt
    expect 1 "$longspan" calibrate --config run.yaml --input text.txt --compare pca --dims 2 \
      --output model/compressor.safetensors
    says 'name another file'
    cmp closed_form model/compressor.safetensors
    expect 2 "$longspan" calibrate --config run.yaml --input text.txt --method sgd_mlp
    says 'two-layer maps have no place'
    expect 2 "$longspan" calibrate --config run.yaml --input text.txt --compare magic
    says 'no method `magic`'
    expect 1 "$longspan" calibrate --config run.yaml --input text.txt --compare pca --dims 4096
    says 'the width of the concatenated keys'
    expect 0 "$longspan" calibrate --config run.yaml --input text.txt "${low[@]}" --method sgd \
      --sgd_epochs 1
    expect 1 "$longspan" generate --config run.yaml --input in.jsonl --output sgd.jsonl \
      --set esa.compression=low_rank --set esa.compressed_dim=2
    says 'does not order'
    cp closed_form model/compressor.safetensors

    # An error of rank 0 alone ends all; one that all have is told once.
    expect 1 "$longspan" generate --config run.yaml --input in.jsonl --output /dev/full \
      --set parallel.ranks=2
    says 'No space left'
    expect 1 "${mpirun[@]}" "$longspan" generate --config run.yaml --input in.jsonl \
      --output /dev/full
    says 'No space left'
    cp model/model.safetensors weights
    expect 1 "$longspan" calibrate --config run.yaml --input text.txt "${low[@]}" \
      --output model/model.safetensors
    says 'is no compressor'
    cmp weights model/model.safetensors
    cp model/compressor.safetensors good
    head -c 50000 weights > model/model.safetensors
    expect 1 "${mpirun[@]}" "$longspan" calibrate --config run.yaml --input text.txt "${low[@]}"
    says 'longspan: model/model.safetensors'
    [ "$(grep -c '^longspan: ' stderr)" = 1 ] || fail "told more than once"
    cp weights model/model.safetensors
    echo hello > tiny.txt
    expect 1 "$longspan" calibrate --config run.yaml --input tiny.txt "${low[@]}"
    says 'too few'
    cmp good model/compressor.safetensors
    expect 1 "$longspan" generate --config run.yaml --input in.jsonl --output other.jsonl \
      --set esa.compression=low_rank --set esa.compressed_dim=8
    says 'compressed_dim'
    ;;
  dummy)  # of a model only its config.json
    mkdir shape
    cp model/config.json shape/
    requests 3 6 > in.jsonl
    shaped=("${generate[@]}" --model shape --set load_format=dummy
      --set esa.compression=low_rank --set esa.compressed_dim=8)
    expect 0 "$longspan" "${shaped[@]}" --output one.jsonl
    [ "$(grep -c '"completion_tokens":6' one.jsonl)" = 3 ]
    expect 0 "$longspan" "${shaped[@]}" --output three.jsonl --set parallel.ranks=3
    same_answers one.jsonl three.jsonl
    expect 1 "$longspan" "${generate[@]}" --model shape --output none.jsonl
    says 'shape'
    expect 1 "$longspan" calibrate --model shape --set load_format=dummy --input in.jsonl
    says 'nothing to calibrate'
    expect 0 "$longspan" doctor --model shape --set load_format=dummy --set esa.compressed_dim=8
    grep -q '^ok  fit ' stdout
    # Whether it fits depends on the machine.
    "$longspan" doctor --model "$source/configs/shapes/llama3-8b" --set load_format=dummy > stdout ||
      true
    grep -q '8030.3 million parameters, 16.1 GB' stdout
    ;;
  resume)
    requests 6 6 > in.jsonl
    expect 0 "$longspan" "${generate[@]}" --output whole.jsonl
    head -3 whole.jsonl > out.jsonl
    sed -n 4p whole.jsonl | head -c 70 >> out.jsonl
    expect 0 "$longspan" "${generate[@]}" --output out.jsonl
    says '6: 3 answered, 0 with errors, 3 answered before'
    same_answers whole.jsonl out.jsonl
    cmp <(head -3 whole.jsonl) <(head -3 out.jsonl)
    cp out.jsonl again.jsonl
    rm model/model.safetensors
    expect 0 "$longspan" "${generate[@]}" --output out.jsonl
    says 'nothing left to do'
    cmp out.jsonl again.jsonl
    ;;
  kill)  # kill -9 after every few answers, until a run gets through
    requests 24 200 > in.jsonl
    expect 0 "$longspan" "${generate[@]}" --output whole.jsonl
    touch before.jsonl out.jsonl
    kills=0 code=1
    for round in $(seq 200); do
      "${mpirun[@]}" "$longspan" "${generate[@]}" --output out.jsonl 2> stderr &
      pid=$!
      target=$(($(wc -l < before.jsonl) + round % 5))  # of 0: somewhere before the first answer
      while [ "$(wc -l < out.jsonl)" -lt $target ] && kill -0 $pid 2> kill_error; do :; done
      kill -9 $pid 2> kill_error || true
      code=0
      wait $pid 2> wait_error || code=$?
      # An answer, once given, is there for good.
      while read -r line; do
        grep -qF -- "$line" out.jsonl || fail "an answer was lost in round $round"
      done < <(grep '"error":null}$' before.jsonl)
      cp out.jsonl before.jsonl
      case $code in
        0) break ;;
        137) kills=$((kills + 1)) ;;
        # The ranks of a killed mpirun may outlive it for a moment.
        *) grep -q 'another run is writing' stderr || { cat stderr; fail "exit code $code"; } ;;
      esac
    done
    [ $code = 0 ] || fail "no run got through"
    echo "$kills runs were killed"
    [ $kills -ge 3 ] || fail "too few"
    same_answers whole.jsonl out.jsonl
    ;;
  stop)  # SIGTERM ends a run in order; meanwhile nobody else may write its output
    requests 40 400 > in.jsonl
    "$longspan" "${generate[@]}" --output out.jsonl 2> first_stderr &
    pid=$!
    until [ -s out.jsonl ]; do sleep 0.01; kill -0 $pid || fail "the run ended"; done
    expect 1 "$longspan" "${generate[@]}" --output out.jsonl; says 'another run is writing'
    kill -TERM $pid
    code=0
    wait $pid || code=$?
    [ $code = 1 ] || fail "exit code $code"
    grep -q 'stopped by a signal' first_stderr
    lines=$(wc -l < out.jsonl)
    [ "$lines" -gt 0 ] && [ "$lines" -lt 40 ] || fail "$lines answers"
    [ "$(tail -c 1 out.jsonl | od -An -c | tr -d ' ')" = '\n' ] || fail "a torn line"
    expect 0 "$longspan" "${generate[@]}" --output out.jsonl
    [ "$(answers out.jsonl | cut -d' ' -f1 | uniq | wc -l)" = 40 ] || fail "not 40 ids"
    ;;
  ask)
    prompt 1 20 > book.txt
    { cat book.txt; printf '\nwhere?'; } > prompt.txt
    ask_line q "$(sed ':a;N;$!ba;s/\n/\\n/g' prompt.txt)" 12 > in.jsonl
    expect 0 "$longspan" "${generate[@]}" --output out.jsonl
    expect 0 "${mpirun[@]}" "$longspan" ask --config run.yaml --file book.txt --max_tokens 12 \
      'where?'
    says 'peak memory'
    expected=$(sed -E 's/.*"text":"(([^"\\]|\\.)*)","finish_reason".*/\1/' out.jsonl)
    printf '%b\n' "${expected//\\\"/\"}" | cmp - stdout
    expect 1 "$longspan" ask --config run.yaml --file absent.txt 'where?'
    says 'absent.txt: cannot be read'
    expect 1 "$longspan" ask --config run.yaml --file book.txt --max_tokens 5000 'where?'
    says 'exceeds max_model_len'
    expect 1 "$longspan" ask --config run.yaml --file book.txt --prompt_template '{question}' 'q'
    says 'has no {document}'
    : > empty.txt
    expect 1 "$longspan" ask --config run.yaml --file empty.txt 'q'
    says 'empty.txt: has no text'

    # The shipped model knows how it is asked, and where its answers end.
    printf '%s\n' 'The sky is blue.' 'The magic number of the amber kettle is 481516.' \
      'The grass is green.' > facts.txt
    expect 0 "${mpirun[@]}" "$longspan" ask --model "$source/models/needle" --file facts.txt \
      'What is the magic number of the amber kettle?'
    [ "$(cat stdout)" = 'Answer: 481516' ] || fail "the answer was $(cat stdout)"
    ;;
  bench)  # numbers of any size, told once, in every format
    needle=("${mpirun[@]}" "$longspan" bench --model "$source/models/needle"
      --set max_model_len=4096 --set prefill.chunk_tokens=512 --progress off)
    bench() { expect 0 "${needle[@]}" "$@"; }
    bench decode --context 1024,600 --repeat 3 --format json
    jq -e '.benchmark == "decode" and (.rows | length) == 2 and .rows[1].context == 600 and
           all(.rows[]; .runs == 3 and .median_us >= .min_us and .min_us > 0 and .tokens_per_s > 0
               and .must_us == null) and .copy_gb_per_s > 0' stdout > jq_out
    bench decode --context 600 --batch 2 --repeat 2 --format csv
    [ "$(wc -l < stdout)" = 2 ] || fail "not one line and its header"
    grep -q '^benchmark,name,shape,batch,context,runs,median_us,' stdout
    grep -q '^decode,decode,2 x 1 token behind 600,2,600,2,[0-9.]*,[0-9.]*,,,[0-9]' stdout
    bench prefill --context 1024 --repeat 2
    grep -q '^longspan .* bench prefill; ' stdout
    grep -q '^prefill  1 x 1024 tokens  ' stdout
    [ "$(grep -c '^name ' stdout)" = 1 ] || fail "told more than once"
    bench prefill --context 600 --format json --output report.json
    [ ! -s stdout ] || fail "standard output has what belongs to the file"
    jq -e '.rows[0].name == "prefill"' report.json > jq_out
    bench layer --context 2048 --repeat 2 --format json
    jq -e '[.rows[].name] == ["decode, a layer", "prefill, a layer"]' stdout > jq_out
    alone=("${needle[@]}")
    [ ${#mpirun[@]} != 0 ] || needle+=(--set parallel.ranks=3)
    bench collectives --repeat 2 --format json
    jq -e '([.rows[].name] | index("decode: candidates") != null and index("chunk: maxima") != null
                             and index("decode: histogram") != null)
           and ([.rows[] | select(.name == "ring step").bytes] == [4096, 65536, 1048576, 16777216])
           and all(.rows[]; .runs == 2 and .median_us >= .min_us and .min_us > 0)' stdout > jq_out
    needle=("${alone[@]}")

    refuse() {  # CODE MESSAGE ARGUMENTS: told once
      local code=$1 message=$2
      shift 2
      expect "$code" "${needle[@]}" "$@"
      says "$message"
      [ "$(grep -c '^longspan' stderr)" = 1 ] || { cat stderr >&2; fail "told more than once"; }
      [ ! -s stdout ] || fail "there is output"
    }
    refuse 2 'takes what to measure: kernels, collectives, layer, decode, prefill, serve'
    refuse 2 'unknown benchmark dance; there are kernels, collectives, layer, decode, prefill, serve' dance
    refuse 2 'unexpected argument twice' decode twice
    refuse 2 '--context must be numbers from 1 to 4294967294, separated by commas, not `12x`' \
      decode --context 600,12x
    refuse 2 'separated by commas, not ``' decode --context 600,
    refuse 2 'separated by commas, not `0`' decode --context 0
    refuse 2 '--batch must be from 1 to 1000000, not 0' decode --batch 0
    refuse 2 '--repeat must be from 1 to 1000000, not -1' decode --repeat -1
    refuse 2 '--repeat: not a valid value: often' decode --repeat often
    refuse 2 '--format must be table, csv or json, not xml' decode --format xml
    refuse 1 'more than `max_model_len` (4096): add --set max_model_len=5035' \
      decode --context 5000
    refuse 1 '9 sequences are more than `max_num_seqs` (8)' decode --context 600 --batch 9
    refuse 1 '--output absent/report: cannot be written to' \
      decode --context 600 --output absent/report
    if [ ${#mpirun[@]} = 0 ]; then
      expect 1 "${needle[@]}" decode --context 600 --repeat 1 --output /dev/full
      says '/dev/full: the results cannot be written: No space left'
      refuse 1 'bench collectives needs ranks that talk: mpirun -n 2' collectives
      if "$longspan" --version | grep -q '^CUDA  *no'; then
        refuse 1 'this build has no CUDA; build the preset cuda' kernels
      fi
    else
      refuse 2 'kernels are measured on one GPU, without mpirun' kernels
      expect 2 "${mpirun[@]}" "$longspan" bench serve --url http://127.0.0.1:1
      says 'requests are sent by one process, without mpirun'
      [ "$(grep -c '^longspan' stderr)" = 1 ] || fail "told more than once"
    fi
    refuse 2 '`bench serve` takes its flags behind both words' serve
    ;;
  plan)  # from a config.json alone, in a build for any device
    mkdir shape
    cp "$source/configs/shapes/llama3-8b/config.json" shape/
    llama=("$longspan" plan --model shape --progress off)
    h200=(--hardware h200 --context 65536)
    expect 0 "${llama[@]}" "${h200[@]}" --gpus 8
    grep -q '^longspan .* plan; hardware h200, device cuda; predicted, nothing was run' stdout
    grep -q '^8 ranks, 65536 tokens, batch 1; chunk 4096, stripe 512' stdout
    grep -q '^memory of a rank .*, fits (estimated): weights 16.1 GB, .* cache 1.[0-9] GB' stdout
    grep -q '^candidate_merge ' stdout
    grep -q '^prefill.chunk_tokens  *4096 ' stdout
    expect 0 "${llama[@]}" "${h200[@]}" --ranks 1,2 --context 4096,65536 --format json
    jq -e '[.[] | [.ranks, .context]] == [[1, 4096], [1, 65536], [2, 4096], [2, 65536]] and
           all(.[]; .memory.fits and .time_to_first_token_s > 0 and .tokens_per_s > 0 and
               (.token.seconds - ([.token.phases_s[]] | add) | . > -1e-9 and . < 1e-3))' \
      stdout > jq_out
    expect 1 "${llama[@]}" "${h200[@]}" --gpus 1 --context 2000000
    grep -q '^memory of a rank .*, DOES NOT FIT' stdout
    grep -q '^longest that fits  *8[0-9]* tokens' stdout

    # The smallest machine, and what binds if there is none.
    expect 0 "${llama[@]}" "${h200[@]}" --context 2000000 --target-tpot 9 --format json
    jq -e '.[0].found.ranks as $found | $found > 1 and
           all(.[0].tries[]; .ranks >= $found or (.fits | not) or .token_s > 0.009)' stdout > jq_out
    expect 1 "${llama[@]}" "${h200[@]}" --context 8192 --target-ttft 0.001
    grep -q '^none up to .* meets the target; what binds is the time to first token' stdout
    sed 's/^memory_bytes.*/memory_bytes: 1000000000/' "$source/configs/hardware/h200.yaml" > tiny.yaml
    expect 1 "${llama[@]}" --hardware tiny.yaml --context 8192 --target-tpot 1000 --format json
    jq -e '.[0].limit | startswith("memory: ")' stdout > jq_out

    expect 0 "${llama[@]}" "${h200[@]}" --simulate --ranks 8,64
    grep -q '^SIMULATED' stdout
    grep -q '^64  *histogram ' stdout
    grep -q 'select.winners' stdout

    # A study that the model itself could have measured gives the profile back.
    expect 0 "$longspan" scale point --config run.yaml --context 256 --decode 4 --progress off \
      --output point.json
    "$longspan" scale point --config run.yaml --context 512 --decode 4 --progress off >> point.json
    expect 0 "$longspan" plan --fit point.json --hardware intel_xeon --holdout 512/1 \
      --output mine.yaml
    grep -q '^prompts, 1 rank, 512 tokens, batch 1, esa .* held out$' stdout
    grep -q '^held out  *median .*, largest .* within 15%' stdout
    grep -q '^# to point.json' mine.yaml
    expect 0 "$longspan" plan --config run.yaml --hardware ./mine.yaml --ranks 2 --context 512 \
      --format json
    jq -e '.[0].device == "cpu" and (.[0].memory.estimated | not)' stdout > jq_out

    refuse() {  # CODE MESSAGE ARGUMENTS
      local code=$1 message=$2
      shift 2
      expect "$code" "$longspan" plan "$@"
      says "$message"
      [ ! -s stdout ] || fail "there is output"
    }
    refuse 2 '--hardware: there is no profile `h300`: give a file, or one of a100, b200, h100, h200' \
      --model shape --gpus 1 --hardware h300
    refuse 2 '--gpus must be numbers from 1 to' --model shape --gpus 0 --hardware h200
    refuse 2 '--ranks and --gpus mean the same' --model shape --gpus 1 --ranks 1 --hardware h200
    refuse 2 '--ranks or --gpus is needed, as in --gpus 8, or a target' --model shape --hardware h200
    refuse 2 '--context must be numbers from 1 to 4294967294' --model shape --gpus 1 \
      --hardware h200 --context 4294967295
    refuse 2 '--target_ttft must be above 0' --model shape --hardware h200 --target_ttft 0
    refuse 2 'do not go together' --model shape --hardware h200 --target_ttft 1 --simulate
    refuse 2 '--format of plan must be table or json' --model shape --hardware h200 --gpus 1 \
      --format csv
    refuse 2 'unexpected argument twice' --model shape --hardware h200 --gpus 1 twice
    refuse 2 '--fit takes files' --hardware h200 --fit
    refuse 2 '--holdout must be a number from 2' --hardware h200 --fit x --holdout 1
    refuse 2 '--hardware is needed: give a file, or one of a100' --model shape --gpus 1
    cp point.json kept.json
    refuse 2 '--output ./point.json: is read, and would be lost' --hardware h200 --fit point.json \
      --output ./point.json
    refuse 2 '--output run.yaml: is read, and would be lost' --config run.yaml --gpus 1 \
      --hardware h200 --output run.yaml
    cp mine.yaml mine_kept.yaml
    cp shape/config.json shape_kept.json
    refuse 2 '--output mine.yaml: is read, and would be lost' --model shape --gpus 1 \
      --hardware ./mine.yaml --output mine.yaml
    refuse 2 '--output mine.yaml: is read, and would be lost' --hardware ./mine.yaml \
      --fit point.json --output mine.yaml
    for of_model in '--model shape' '--config run.yaml --set model=shape'; do
      refuse 2 '--output shape/config.json: is read, and would be lost' $of_model --gpus 1 \
        --hardware h200 --output shape/config.json
    done
    refuse 1 '--output model/config.json: is read, and would be lost' --hardware intel_xeon \
      --fit point.json --output model/config.json
    cp "$source"/configs/hardware/{h200,links}.yaml .
    refuse 2 '--output ./links.yaml: is read, and would be lost' --model shape --gpus 1 \
      --hardware ./h200.yaml --output ./links.yaml
    cmp links.yaml "$source/configs/hardware/links.yaml"
    cmp mine.yaml mine_kept.yaml
    cmp shape/config.json shape_kept.json
    cmp point.json kept.json
    refuse 1 'shape: is no file' --model shape --gpus 1 --hardware ./shape
    refuse 1 'at most 1024 GPUs, not 2048: use auto or histogram; --simulate looks beyond' \
      --model shape --gpus 2048 --hardware h200 --set parallel.selection_merge=all_gather
    refuse 1 '--config or --model is needed' --gpus 1 --hardware h200
    refuse 1 'absent.yaml: no such file' --model shape --gpus 1 --hardware absent.yaml
    sed 's/^call_s/cal_s/' mine.yaml > bad.yaml
    refuse 1 "bad.yaml:$(grep -n cal_s bad.yaml | cut -d : -f 1): unknown key \`cal_s\`" --model shape --gpus 1 --hardware bad.yaml
    refuse 1 '`prefill.chunk_tokens` (4096) must be a multiple' --model shape --gpus 1 \
      --hardware h200 --set esa.selection_block=24
    refuse 1 'add --set max_num_seqs=9' --model shape --gpus 1 --hardware h200 --batch 9
    sed -i 's/"num_attention_heads": 32/"num_attention_heads": 30/' shape/config.json
    refuse 1 'num_key_value_heads' --model shape --gpus 1 --hardware h200
    refuse 1 'run.yaml: is neither CSV nor JSON; expected lines of a study' --hardware h200 \
      --fit run.yaml
    refuse 1 'absent.jsonl' --hardware h200 --fit absent.jsonl
    ;;
  *) fail "unknown case $case" ;;
esac
