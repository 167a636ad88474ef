#!/usr/bin/env bash
# The launch files as far as they can be checked without a cluster: deploy_test.sh SOURCE_DIR BINARY
# Tools that are not here check nothing, and it says so.
set -euo pipefail
deploy=$1/launcher/deploy longspan=$2
fail() { echo "FAILED: $*" >&2; exit 1; }

# Every flag that they pass is one of serve's.
help=$("$longspan" serve --help)
for flag in $(grep -oh -e ' --\(config\|host\|port\)\b' -e '- --[a-z]*' "$deploy"/* | grep -o -e '--[a-z]*' | sort -u); do
  grep -q -e "$flag" <<< "$help" || fail "longspan serve has no $flag"
done
for file in "$deploy"/*; do
  grep -q 'longspan serve\|- serve' "$file" || fail "$file does not serve"
  grep -q 'USR1' "$file" || fail "$file does not drain"
done
bash -n "$deploy/serve.sbatch"
if command -v shellcheck > /dev/null; then
  shellcheck "$deploy/serve.sbatch"
else
  echo "no shellcheck: serve.sbatch was only parsed"
fi
if command -v systemd-analyze > /dev/null; then
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  # It wants the programs to be there.
  sed "s#^ExecStart=.*#ExecStart=/bin/true#; s#^User=.*#User=root#" "$deploy/longspan.service" \
    > "$work/longspan.service"
  systemd-analyze verify "$work/longspan.service"
else
  echo "no systemd-analyze: longspan.service was not checked"
fi
python3 - "$deploy/mpijob.yaml" << 'P'
import sys
try:
    import yaml
except ImportError:
    sys.exit(print("no PyYAML: mpijob.yaml was not checked"))
job, service = yaml.safe_load_all(open(sys.argv[1]))
assert (job["apiVersion"], job["kind"]) == ("kubeflow.org/v2beta1", "MPIJob")
roles = job["spec"]["mpiReplicaSpecs"]
command = roles["Launcher"]["template"]["spec"]["containers"][0]["command"]
slots = roles["Worker"]["replicas"] * job["spec"]["slotsPerWorker"]
assert int(command[command.index("-n") + 1]) == slots, "ranks and slots differ"
for role in ("Launcher", "Worker"):  # all pods are told to stop at once
    container = roles[role]["template"]["spec"]["containers"][0]
    assert "-USR1" in container["lifecycle"]["preStop"]["exec"]["command"][-1], role
    assert roles[role]["template"]["spec"]["terminationGracePeriodSeconds"] > 30, role
given = {command[i + 1]: command[i + 2] for i, word in enumerate(command) if word == "-mca"}
assert given == {  # as tests/runtime/server/hosts_test.py needs them
    "oob_tcp_keepalive_time": "1", "oob_tcp_keepalive_intvl": "1",
    "oob_tcp_keepalive_probes": "3"}, "mpirun would wait for a pod that is cut off"
assert service["kind"] == "Service" and service["spec"]["ports"][0]["port"] == 8000
P
