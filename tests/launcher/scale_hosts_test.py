"""A point of a scaling study on several hosts: what it answers and sends depends on no link.

scale_hosts_test.py BINARY SOURCE_DIR MPIRUN...
"""

import json
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../hosts"))
import hosts  # noqa: E402

BINARY, SOURCE, *MPIRUN = sys.argv[1:]
SOURCE = pathlib.Path(SOURCE)
SKIPPED = 77
SPEEDS = ({"rate": 1e9, "delay": 0.0005}, {"rate": 1e8, "delay": 0.0001})
# A decoded token brings every rank more than MPI sends without asking the receiver.
CONFIG = """
model: model
max_model_len: 4096
esa: {initial_tokens: 16, local_tokens: 256, top_k: 64, selection_block: 128, compression: exact}
prefill: {chunk_tokens: 1024}
deterministic: true
"""
JOB = ["--config", "run.yaml", "--context", "2048", "--decode", "2", "--progress", "off"]


def calls(measured):
    """[rank][stage][name of a collective] how often it was called, and bytes that it sent."""
    return [{stage: {name: (call["calls"], call["bytes_sent"])
                     for name, call in rank[stage]["calls"].items()}
             for stage in ("prefill", "decode")} for rank in measured["phases"]]


class ScaleHostsTest(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = pathlib.Path(directory.name)
        data = SOURCE / "tests/runtime/testdata/models/llama_f16"
        (self.directory / "model").mkdir()
        for source, name in ((data / "config.json", "config.json"),
                             (data / "model.safetensors", "model.safetensors"),
                             (SOURCE / "tests/launcher/testdata/byte_tokenizer.json",
                              "tokenizer.json")):
            shutil.copy(source, self.directory / "model" / name)
        (self.directory / "run.yaml").write_text(CONFIG)

    def point(self, launch, method):
        return json.loads(self.run_on(launch, "scale", "point", *JOB, "--method", method).stdout)

    def run_on(self, launch, *arguments):
        done = subprocess.run([*launch, BINARY, *arguments], capture_output=True, text=True,
                              timeout=120, cwd=self.directory)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done

    def check(self, count, ranks_per_host, method):
        alone = self.point([], method)
        ranks = count * ranks_per_host
        # Its calls are the schedule's, as tests/runtime/layer_calls_test.cc says.
        together = self.point([*MPIRUN, "-n", str(ranks)], method)
        self.assertEqual(together["digest"], alone["digest"])
        for speed in SPEEDS:
            with self.subTest(**speed), hosts.create(count, **speed) as net:
                apart = self.point(net.mpirun(MPIRUN, ranks_per_host), method)
                self.assertEqual(apart["hosts"], [name for name in net.names
                                                  for _ in range(ranks_per_host)])
                self.assertEqual(apart["outputs"], alone["outputs"])
                self.assertEqual(apart["digest"], alone["digest"])
                self.assertEqual(calls(apart), calls(together))
                for rank in apart["phases"]:
                    self.assertGreater(rank["prefill"]["calls"]["ring.step"]["bytes_sent"], 0)

    def test_two_hosts_of_a_rank(self):
        self.check(2, 1, "dense")

    def test_two_hosts_of_two_ranks(self):
        self.check(2, 2, "esa")

    def test_four_hosts(self):
        self.check(4, 1, "esa")

    def test_a_study_over_a_hostfile(self):
        with hosts.create(2, **SPEEDS[0]) as net:
            (self.directory / "hosts").write_text("".join(f"{name} slots=1\n"
                                                          for name in net.names))
            agent = os.path.join(net.directory, "agent")
            self.run_on(net.on(0), "scale", *JOB, "--ranks", "1,2", "--output", "study",
                        "--hostfile", "hosts",
                        "--mpirun", shlex.join([*MPIRUN, "--mca", "plm_rsh_agent", agent]))
        with open(self.directory / "study/points.jsonl") as file:
            points = {point["ranks"]: point for point in map(json.loads, file)}
        self.assertEqual(points[1]["hosts"], ["node0"])
        self.assertEqual(points[2]["hosts"], ["node0", "node1"])
        self.assertEqual(points[2]["digest"], points[1]["digest"])


if __name__ == "__main__":
    try:
        with hosts.create(1):
            pass
    except hosts.Unavailable as error:
        print(f"skipped: {error}")
        sys.exit(SKIPPED)
    unittest.main(argv=sys.argv[:1])
