# shellcheck shell=bash
# Sourced by the other scripts: the repository root is the working directory, and what the build and
# mpirun read from the environment is set.
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

if [[ -z ${CMAKE_CXX_COMPILER_LAUNCHER:-} ]] && command -v ccache > /dev/null; then
  export CMAKE_CXX_COMPILER_LAUNCHER=ccache
fi
if ((EUID == 0)); then
  # Containers run as root; Open MPI asks for both.
  export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
fi
