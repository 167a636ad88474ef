#!/usr/bin/env bash
# Installs the packages that the build, the tests and the quick start need, as far as they are
# missing; with --browser also Chromium, 290 MB, for the test of the server's page, which is skipped
# without. Runs on Debian 12; on Ubuntu 24.04 this script was not run.
set -euo pipefail

packages=(
  build-essential cmake ninja-build pkgconf ccache clang-format-14 jq python3
  libabsl-dev nlohmann-json3-dev libyaml-cpp-dev libspdlog-dev libpcre2-dev
  libutf8proc-dev libxxhash-dev prometheus-cpp-dev
  libopenblas-dev liblapacke-dev
  libopenmpi-dev openmpi-bin openssh-client  # mpirun wants an ssh even on one host
  libgtest-dev libgmock-dev libbenchmark-dev python3-venv iproute2
)
system=$(. /etc/os-release 2>/dev/null && echo "${ID:-unknown} ${VERSION_ID:-}" || echo unknown)
case $system in  # libboost-dev of Debian 12 is 1.74
  "debian 12")
    packages+=(libboost1.81-dev)
    [[ ${1:-} != --browser ]] || packages+=(chromium)
    ;;
  *) packages+=(libboost-dev) ;;
esac

# `not-installed` comes from packages that were removed or are only known of.
missing=()
for package in "${packages[@]}"; do
  status=$(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null || true)
  [[ $status == installed ]] || missing+=("$package")
done
if ((${#missing[@]} == 0)); then
  exit 0
fi

case $system in
  "debian 12" | "ubuntu 24.04") ;;
  *)
    echo "This is $system. On Debian 12 and Ubuntu 24.04 longspan needs these packages; install" >&2
    echo "what corresponds to them and run the CMake commands of README.md yourself:" >&2
    printf '  %s\n' "${packages[@]}" >&2
    exit 1
    ;;
esac

as_root=()
if ((EUID != 0)); then
  if ! command -v sudo > /dev/null; then
    echo "Missing: ${missing[*]}. Run as root: apt-get install ${missing[*]}" >&2
    exit 1
  fi
  as_root=(sudo)
fi
install=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive
  apt-get install --yes --no-install-recommends "${missing[@]}")

echo "Installing ${missing[*]}"
# The lists on this machine may be absent, or older than what the mirror still has.
if ! apt-cache show "${missing[@]}" > /dev/null 2>&1 || ! "${install[@]}"; then
  "${as_root[@]}" apt-get update
  "${install[@]}"
fi
