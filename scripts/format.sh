#!/usr/bin/env bash
# Formats all C++ sources; with --check only says which are not formatted, and fails if any.
set -euo pipefail
source "$(dirname "$0")/environment.sh"

case ${1:-} in
  "") mode=(-i) ;;
  --check) mode=(--dry-run --Werror) ;;
  *) echo "usage: scripts/format.sh [--check]" >&2 && exit 2 ;;
esac
# Other versions format differently.
formatter=$(command -v clang-format-14) ||
  { echo "clang-format-14 is missing: run scripts/install_dependencies.sh" >&2 && exit 1; }
git ls-files -z --cached --others --exclude-standard -- '*.cc' '*.h' '*.cu' '*.cuh' |
  xargs -0 "$formatter" "${mode[@]}" --
