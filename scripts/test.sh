#!/usr/bin/env bash
# Installs what is missing, builds everything and runs all tests: scripts/test.sh [PRESET]
# (cpu, cuda, asan or tsan; default cpu). Tests of GPU kernels are skipped where there is no GPU.
set -euo pipefail
"$(dirname "$0")/install_dependencies.sh"
source "$(dirname "$0")/environment.sh"

preset=${1:-cpu}
cmake --preset "$preset"
cmake --build --preset "$preset"
exec ctest --preset "$preset" --parallel "$(nproc)"
