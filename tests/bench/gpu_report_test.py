#!/usr/bin/env python3
"""bench/gpu_report.py on what was recorded, and scripts/gpu_report.sh with a GPU, a build and a
PyTorch that are not there, or only pretend to be."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

TESTS = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(TESTS))
RECORDED = os.path.join(TESTS, "testdata")
sys.path.insert(0, os.path.join(ROOT, "bench"))
sys.dont_write_bytecode = True
import gpu_report  # noqa: E402

# `longspan` of a finished build: says what was recorded, or fails. `layer` was not recorded.
LONGSPAN = f"""#!/bin/bash
if [[ $1 == --version ]]; then echo "CUDA          ${{FAKE_CUDA:-13.0}}" && exit; fi
[[ $3 == --context || $3 == --model ]] || exit 2
cp {RECORDED}/"$2".json "${{@: -1}}"
"""
NVIDIA_SMI = "#!/bin/bash\necho 'GPU 0: NVIDIA H200 (UUID: GPU-0)'\n"
# A ctest with one failure, and a Python without PyTorch.
CTEST = f"""#!/bin/bash
while [[ $1 != --output-junit ]]; do shift; done
cp {RECORDED}/tests.xml "$2" && exit 8
"""
PYTHON = "#!/bin/bash\necho 'Traceback:' >&2\necho 'no module named so' >&2\nexit 1\n"
# A Python with torch and transformers, whose peers.py says what was recorded.
PYTHON_WITH_PEERS = f"""#!/bin/bash
[[ $1 == -c ]] && exit
[[ "$*" == *"--longspan none"*"--transformers 32768,131072,262144"* ]] || exit 2
cat {RECORDED}/peers.json
"""


class Directory(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.directory)

    def path(self, *parts):
        return os.path.join(self.directory, *parts)

    def write(self, text, *parts):
        os.makedirs(os.path.dirname(self.path(*parts)), exist_ok=True)
        with open(self.path(*parts), "w") as file:
            file.write(text)
        os.chmod(self.path(*parts), 0o755)

    def record(self, *names):
        for name in names:
            shutil.copy(os.path.join(RECORDED, name), self.directory)


def cells_of(report, label):
    """Of the line that begins with the label, those after it."""
    lines = [line for line in report.splitlines() if line.startswith(label + "  ")]
    assert len(lines) == 1, (label, report)
    return re.split(r"\s{2,}", lines[0][len(label):].strip())


class TableTest(Directory):
    def report(self, *arguments):
        done = subprocess.run([sys.executable, os.path.join(ROOT, "bench/gpu_report.py"),
                               self.directory, *arguments], capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def test_everything_beside_its_target_and_its_fastest_peer(self):
        self.record("kernels.json", "decode.json", "prefill.json", "peers.json", "tests.xml")
        report = self.report("--note", "said so")
        self.assertIn("longspan 0.1.0 on NVIDIA H200, driver 580.65.06", report)
        self.assertIn("peers: torch 2.11.0, CUDA 13.0, transformers 5.0.0, NVIDIA H200", report)
        self.assertEqual(cells_of(report, "decode attention of a layer, 256k"),
                         ["40.00 us", "28.00 us", "51.80 us", "MISSED by 29%", "240.00 us", "4.63x",
                          "ESA attention of a token: torch"])
        self.assertEqual(cells_of(report, "top-2,048 of 262,144 scores"),
                         ["17.00 us", "9.00 us", "14.30 us", "must reached", "67.00 us", "4.69x",
                          "top-2048 of 1 x 262144: torch.topk"])
        self.assertEqual(cells_of(report, "top-2,048 of 16 x 262,144 scores"),
                         ["28.00 us", "20.00 us", "19.50 us", "aim reached"])
        # What is just reached is reached.
        self.assertEqual(cells_of(report, "attention to gathered tokens, 1M")[3], "must reached")
        self.assertEqual(cells_of(report, "prompt of 262,144 tokens, whole model")[:3],
                         ["14.000 s", "9.000 s", "9.800 s"])
        self.assertEqual(cells_of(report, "decode, a whole layer, 256k"), ["NOT MEASURED"])
        self.assertIn("7 of 11 musts reached, and 1 aims\n"
                      "  MISSED: attention to gathered tokens, 256k\n"
                      "  MISSED: decode attention of a layer, 256k\n"
                      "  MISSED: the same, fp8 compressed keys\n"
                      "  MISSED: decode, whole model, 256k\n", report)
        self.assertIn("tests: 2 passed, 2 failed, 2 skipped\n"
                      "  FAILED: EmbedCudaTest.TakesRowsOfTheTable\n"
                      "  FAILED: kernels_cuda_test_NOT_BUILT\n"
                      "  1 skipped: too little GPU memory\n"
                      "  1 skipped: fewer GPUs than ranks\n"
                      "  1 skipped within runs that passed: not about NCCL\n", report)
        self.assertIn("note: said so\n", report)
        self.assertRegex(report, r"SDPA flash, grouped queries +242.00 us graph +51.80 us +4.67x\n")
        self.assertRegex(report, r"StaticCache +50.00 ms eager\n")  # longspan was not measured
        self.assertIn("not possible: dense attention of a token, 262144, torch SDPA cuDNN, "
                      "enable_gqa: No available kernel.", report)

    def test_without_peers_and_targets(self):
        with open(os.path.join(RECORDED, "kernels.json")) as file:
            kernels = json.load(file)
        for row in kernels["rows"]:
            row["must_us"] = row["aim_us"] = None
        kernels["device"] = "NVIDIA H100"
        self.write(json.dumps(kernels), "kernels.json")
        report = self.report()
        self.assertEqual(cells_of(report, "decode attention of a layer, 256k"), ["51.80 us"])
        self.assertEqual(cells_of(report, "decode, whole model, 256k"), ["NOT MEASURED"])
        self.assertIn("no targets: they are for one H200", report)
        self.assertNotIn("peers", report.replace("fastest peer", ""))

    def test_nothing_measured_is_an_error(self):
        done = subprocess.run([sys.executable, os.path.join(ROOT, "bench/gpu_report.py"),
                               self.directory], capture_output=True, text=True)
        self.assertEqual(done.returncode, 1)
        self.assertIn("nothing was measured", done.stderr)

    def test_every_target_has_a_row(self):
        with open(os.path.join(ROOT, "launcher/bench_report.cc")) as file:
            targets = re.findall(r'^    \{"\w+", "([^"]+)", (\d+), ([\d\']+), ', file.read(), re.M)
        self.assertGreaterEqual(len(targets), 11)
        rows = {key for key, _ in gpu_report.ROWS}
        for name, batch, context in targets:
            self.assertIn((name, int(batch), int(context.replace("'", ""))), rows)


class ScriptTest(Directory):
    def run_script(self, *arguments, **environment):
        self.write(NVIDIA_SMI, "bin", "nvidia-smi")
        return subprocess.run(
            [os.path.join(ROOT, "scripts/gpu_report.sh"), *arguments], text=True,
            capture_output=True,
            env={**os.environ, "PATH": self.path("bin") + ":" + os.environ["PATH"], **environment})

    def build(self):
        self.write(LONGSPAN, "build", "launcher", "longspan")
        return ("--build", self.path("build"))

    def test_help(self):
        done = self.run_script("--help")
        self.assertEqual(done.returncode, 0)
        for option in ("--build", "--skip-tests", "--skip-peers", "--output", "--python"):
            self.assertIn(option, done.stdout)

    def test_refusals(self):
        for arguments, message in ((("--bogus",), "unknown argument --bogus"),
                                   (("--build",), "--build needs a value"),
                                   (("--build", self.path()), "has no launcher/longspan")):
            done = self.run_script(*arguments)
            self.assertEqual(done.returncode, 1)
            self.assertIn(message, done.stderr)
        done = self.run_script(*self.build(), FAKE_CUDA="no")
        self.assertEqual(done.returncode, 1)
        self.assertIn("was built without CUDA", done.stderr)

    @unittest.skipIf(any(re.fullmatch(r"nvidia\d+", name) for name in os.listdir("/dev")), "a GPU")
    def test_says_that_there_is_no_gpu(self):
        self.write("#!/bin/bash\nexit 9\n", "other", "nvidia-smi")
        done = self.run_script(*self.build(), PATH=self.path("other") + ":" + os.environ["PATH"])
        self.assertEqual(done.returncode, 1)
        self.assertIn("no NVIDIA GPU", done.stderr)

    def test_goes_on_without_what_fails(self):
        self.write(CTEST, "bin", "ctest")
        self.write(PYTHON, "python")
        done = self.run_script(*self.build(), "--python", self.path("python"))
        self.assertEqual(done.returncode, 1)  # a test failed, and `layer` was not measured
        self.assertEqual(cells_of(done.stdout, "decode, whole model, 256k")[3], "MISSED by 12%")
        self.assertEqual(cells_of(done.stdout, "decode, a whole layer, 256k"), ["NOT MEASURED"])
        self.assertIn("tests: 2 passed, 2 failed, 2 skipped", done.stdout)
        for note in ("tests failed: see above", "longspan bench layer failed: see above",
                     f"no peers: {self.path('python')} has no torch (no module named so)"):
            self.assertIn(f"note: {note}\n", done.stdout)
        with open(self.path("build", "gpu_report", "report.txt")) as file:
            self.assertIn(file.read(), done.stdout)

    def test_puts_peers_beside(self):
        # As if `layer` had been recorded.
        layer = '[[ $2 == layer ]] && set -- bench kernels "${@:3}"\n'
        self.write(LONGSPAN.replace("cp ", layer + "cp "), "build", "launcher", "longspan")
        self.write(PYTHON_WITH_PEERS, "python")
        done = self.run_script("--build", self.path("build"), "--python", self.path("python"),
                               "--skip-tests", "--output", self.path("out"))
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("note: no tests were run (--skip-tests)\n", done.stdout)
        self.assertIn("240.00 us", cells_of(done.stdout, "decode attention of a layer, 256k"))
        self.assertTrue(os.path.exists(self.path("out", "report.txt")))


if __name__ == "__main__":
    unittest.main()
