#!/usr/bin/env bash
# Installs what is missing, builds everything and runs all tests: scripts/test.sh [PRESET]
# (cpu, cuda, asan or tsan; default cpu). Tests of GPU kernels are skipped where there is no GPU.
set -euo pipefail
"$(dirname "$0")/install_dependencies.sh"
source "$(dirname "$0")/environment.sh"

preset=${1:-cpu}
# Other compilers than those that run this have other warnings: they stop no one else.
cmake --preset "$preset" -DCMAKE_COMPILE_WARNING_AS_ERROR=ON
cmake --build --preset "$preset"
exec ctest --preset "$preset" --parallel "$(nproc)"
