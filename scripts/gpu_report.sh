#!/usr/bin/env bash
# Builds for NVIDIA GPUs, runs their tests, and prints what was measured beside the project's
# targets and what PyTorch and transformers take: scripts/gpu_report.sh --help
set -euo pipefail

usage() {
  cat << 'END'
usage: scripts/gpu_report.sh [--build DIR] [--skip-tests] [--skip-peers] [--output DIR]
                             [--python PROGRAM]

On a machine with an NVIDIA GPU: builds the preset cuda, runs all tests of GPUs, measures kernels, a
layer, decoded tokens and a prompt of a Llama 3 8B of random weights, then the same operations in
PyTorch and transformers, and prints a table of must, aim, measured and peers. Targets are for one
H200. It takes some 15 minutes after the build, 60 GB of GPU memory, and the GPU for itself.

  --build DIR        uses what is built in DIR, and builds nothing
  --skip-tests       runs no tests
  --skip-peers       measures longspan alone
  --output DIR       for JSON files, logs and report.txt (default: gpu_report in the build folder)
  --python PROGRAM   a Python that has torch and transformers; without them, peers are left out and
                     the report says so (default: python3)

Exit code 1: something is missing, a test failed, or a measurement could not be made. A missed
target is marked in the table, and no error.
END
}

fail() {
  printf 'gpu_report.sh: %s\n' "$@" >&2
  exit 1
}

build='' output='' python=python3 tests=1 peers=1
while (($# > 0)); do
  case $1 in
    --help) usage && exit 0 ;;
    --skip-tests) tests=0 ;;
    --skip-peers) peers=0 ;;
    --build | --output | --python)
      (($# > 1)) || fail "$1 needs a value: see --help"
      declare "${1#--}=$2"
      shift
      ;;
    *) fail "unknown argument $1: see --help" ;;
  esac
  shift
done
# Before the working directory changes.
[[ -z $build ]] || build=$(realpath -m "$build")
[[ -z $output ]] || output=$(realpath -m "$output")
[[ $python != */* ]] || python=$(realpath -s "$python")
# shellcheck source=scripts/environment.sh
source "$(dirname "$0")/environment.sh"

# ---- What is missing, all at once ----

missing=()
[[ $(nvidia-smi -L 2> /dev/null) == GPU\ * ]] || compgen -G '/dev/nvidia[0-9]*' > /dev/null ||
  missing+=("no NVIDIA GPU: neither nvidia-smi nor /dev has one")
command -v python3 > /dev/null || missing+=("no python3, which makes the table")
if [[ -n $build ]]; then
  [[ -x $build/launcher/longspan ]] ||
    missing+=("--build $build: has no launcher/longspan; leave --build out to build it")
elif ! command -v nvcc > /dev/null && [[ ! -x /usr/local/cuda/bin/nvcc ]]; then
  missing+=("no nvcc (CUDA 13): install it, or name a finished build with --build")
fi
((${#missing[@]} == 0)) || fail "${missing[@]}"

if [[ -z $build ]]; then
  build=$PWD/build/cuda
  cmake --preset cuda
  cmake --build --preset cuda --target longspan gpu_tests
fi
longspan=$build/launcher/longspan
if "$longspan" --version | grep '^CUDA  *no' > /dev/null; then
  fail "$longspan was built without CUDA: use a build of the preset cuda"
fi
output=${output:-$build/gpu_report}
mkdir -p "$output"
rm -f "$output"/{kernels,layer,decode,prefill,peers}.json "$output"/{tests.xml,report.txt}

status=0
notes=()
section() { printf '\n=== %s (%d s)\n' "$1" "$SECONDS"; }
note() {
  notes+=(--note "$1")
  echo "$1" >&2
}
failed() {
  status=1
  note "$1"
}

# ---- Tests ----

if ((tests)); then
  section tests
  OPENBLAS_NUM_THREADS=1 ctest --test-dir "$build" --label-regex '^gpu$' --no-tests=error \
    --parallel 4 --output-on-failure --output-junit "$output/tests.xml" \
    --test-output-size-passed 1000000 ||
    failed "tests failed: see above"
else
  note "no tests were run (--skip-tests)"
fi

# ---- Measurements, one at a time ----

measure() {
  section "longspan bench $1"
  "$longspan" bench "$@" --format json --output "$output/$1.json" && return
  rm -f "$output/$1.json"
  failed "longspan bench $1 failed: see above"
}
model=(--model configs/shapes/llama3-8b --set load_format=dummy --set device=cuda
  --set max_num_seqs=1)
measure kernels --context 262144,1048576
measure layer "${model[@]}" --context 262144
measure decode "${model[@]}" --context 32768,131072,262144
measure prefill "${model[@]}" --context 262144

# Whether Python has a module; otherwise `error` says why not.
has_module() { error=$("$python" -c "import $1" 2>&1) || { error=${error##*$'\n'} && return 1; }; }
measure_peers() {
  local error='' more=()
  if ! has_module torch; then
    note "no peers: $python has no torch ($error)"
    return
  fi
  if has_module transformers; then
    more=(--transformers "32768,131072,262144")
  else
    note "no whole model of peers: $python has no transformers ($error)"
  fi
  section peers
  "$python" bench/peers.py --longspan none --context 262144,1048576 "${more[@]}" --format json \
    > "$output/peers.json" && return
  rm -f "$output/peers.json"
  failed "bench/peers.py failed: see above"
}
if ((peers)); then
  measure_peers
else
  note "no peers were measured (--skip-peers)"
fi

section report
python3 bench/gpu_report.py "$output" "${notes[@]}" | tee "$output/report.txt" || status=1
exit "$status"
