#!/usr/bin/env bash
# Installs what is missing, builds everything and runs all tests: scripts/test.sh [PRESET]
# (cpu, cuda, asan or tsan; default cpu). Tests of GPU kernels are skipped where there is no GPU.
set -euo pipefail
"$(dirname "$0")/install_dependencies.sh"
source "$(dirname "$0")/environment.sh"

# For tests of the server.
if [[ ! -x build/venv/bin/python ]]; then
  python3 -m venv build/venv
fi
build/venv/bin/python -m pip install --quiet --disable-pip-version-check \
  --requirement tests/runtime/server/requirements.txt ||
  echo "scripts/test.sh: no OpenAI client could be installed: its test will be skipped" >&2

preset=${1:-cpu}
# Other compilers than those that run this have other warnings: they stop no one else.
cmake --preset "$preset" -DCMAKE_COMPILE_WARNING_AS_ERROR=ON
cmake --build --preset "$preset"
exec ctest --preset "$preset" --parallel "$(nproc)"
