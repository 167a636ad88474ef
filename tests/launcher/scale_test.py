#!/usr/bin/env python3
"""`longspan scale` from outside: scale_test.py BINARY SOURCE_DIR MPIRUN... [-- unittest's].

The model is a random one of two layers, but for one study of the shipped model."""

import csv
import html.parser
import json
import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest
import xml.etree.ElementTree

LONGSPAN = ""
SOURCE = pathlib.Path()
MPIRUN = ""

CONFIG = """
model: model
max_model_len: 4096
esa: {initial_tokens: 4, local_tokens: 16, top_k: 8, selection_block: 8, compression: exact}
prefill: {chunk_tokens: 32}
max_num_seqs: 3
deterministic: true
"""


class PageParser(html.parser.HTMLParser):
    """That every element is closed, and what the page refers to."""
    VOID = {"meta", "br", "link", "img"}

    def __init__(self):
        super().__init__()
        self.open, self.references = [], []

    def handle_starttag(self, tag, attributes):
        if tag not in self.VOID:
            self.open.append(tag)
        self.references += [value for key, value in attributes if key in ("src", "href")]

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()


class ScaleTest(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = pathlib.Path(directory.name)
        model = self.directory / "model"
        model.mkdir()
        data = SOURCE / "tests/runtime/testdata/models/llama_f16"
        for name in "config.json", "model.safetensors":
            shutil.copy(data / name, model)
        shutil.copy(SOURCE / "tests/launcher/testdata/byte_tokenizer.json",
                    model / "tokenizer.json")
        (self.directory / "run.yaml").write_text(CONFIG)

    def command(self, *arguments, mpirun=None):
        start = ["--mpirun", mpirun or MPIRUN] if mpirun != "" else []
        return [LONGSPAN, "scale", "--config", "run.yaml", "--decode", "3", *start,
                *map(str, arguments)]

    def run_command(self, command, code=0, **environment):
        result = subprocess.run(command, capture_output=True, text=True, timeout=120,
                                cwd=self.directory, env=os.environ | environment)
        self.assertEqual(result.returncode, code, result.stdout + result.stderr)
        return result

    def scale(self, code, *arguments, **options):
        return self.run_command(self.command(*arguments, **options), code)

    def lines(self, study="study"):
        return (self.directory / study / "points.jsonl").read_text().splitlines()

    def keys(self, study="study"):
        points = map(json.loads, self.lines(study))
        return [(p["method"], p["context"], p["batch"], p["ranks"]) for p in points]

    def rows(self, study="study"):
        with (self.directory / study / "points.csv").open() as file:
            return list(csv.DictReader(file))

    def refuse(self, code, message, *arguments, **options):
        result = self.scale(code, *arguments, "--output", "refused", **options)
        self.assertIn(message, result.stderr)
        self.assertEqual(result.stdout, "")
        self.assertFalse((self.directory / "refused").exists(), "it began")

    # A study of one, two and three ranks, once for all that only reads it.
    def study(self):
        stored = pathlib.Path(tempfile.gettempdir()) / f"longspan-scale-{os.getpid()}"
        if not stored.exists():
            self.scale(0, "--ranks", "1,2,3", "--context", "64", "--method", "esa,dense",
                       "--output", "study")
            shutil.copytree(self.directory / "study", stored)
            type(self).addClassCleanup(shutil.rmtree, stored)
        study = self.directory / "study"
        if not study.exists():
            shutil.copytree(stored, study)
        return study

    def test_a_point_tells_of_every_rank(self):
        self.study()
        for line in self.lines():
            point = json.loads(line)
            self.assertEqual(len(point["phases"]), point["ranks"])
            self.assertEqual(len(point["decode_s"]), 3)
            self.assertEqual(len(point["outputs"][0]["tokens"]), 1 + 9 + 3)
            self.assertEqual(len(point["outputs"][0]["logprobs"]), 8)
            self.assertEqual(point["config"]["model"], "model")
            self.assertEqual(point["config"].get("attention", "esa"), point["method"])
            for rank in point["phases"]:
                for stage in rank["prefill"], rank["decode"]:
                    self.assertAlmostEqual(
                        sum(stage["phases_s"].values()), stage["wall_s"], places=6)
                self.assertEqual(rank["prefill"]["steps"], 2)
                calls = rank["prefill"]["calls"]
                if point["method"] == "esa":
                    # Each layer gathers 8-byte candidates of the blocks that select, to each other
                    # rank.
                    sent = calls["select.candidates"]["bytes_sent"]
                    self.assertEqual(sent % (8 * 8), 0)
                    self.assertEqual(sent > 0, point["ranks"] > 1)
                else:
                    self.assertNotIn("select.candidates", calls)

    def test_outputs_equal_those_of_one_rank(self):
        study = self.study()
        self.assertEqual(len(self.lines()), 6)
        for row in self.rows():
            self.assertEqual(row["outputs"], "one rank" if row["ranks"] == "1" else "bits equal")

    def test_an_outputs_change_is_found(self):
        study = self.study()
        lines = self.lines()
        whole = (study / "points.jsonl").read_text()
        at = next(i for i, line in enumerate(lines) if json.loads(line)["ranks"] == 2)

        def report_with(point, message):
            changed = lines[:at] + [json.dumps(point)] + lines[at + 1:]
            (study / "points.jsonl").write_text("\n".join(changed) + "\n")
            result = self.run_command([LONGSPAN, "scale", "report", "study"], 1)
            self.assertIn("1 with outputs that differ", result.stderr)
            self.assertIn(message, (study / "report.html").read_text())
            (study / "points.jsonl").write_text(whole)

        point = json.loads(lines[at])
        point["outputs"][0]["tokens"][4] += 1
        report_with(point, "the line was changed")
        other = next(json.loads(line) for line in lines
                     if json.loads(line)["method"] != point["method"])
        point["outputs"], point["digest"] = other["outputs"], other["digest"]
        report_with(point, "bits differ from the one-rank run")
        self.run_command([LONGSPAN, "scale", "report", "study"])

    def test_a_study_goes_on_where_it_ended(self):
        study = self.study()
        lines = self.lines()
        # As a crash within the last line leaves it.
        (study / "points.jsonl").write_text("\n".join(lines[:4]) + "\n" + lines[4][:100])
        arguments = ("--ranks", "1,2,3", "--context", "64", "--method", "esa,dense", "--output",
                     "study")
        self.scale(0, *arguments)
        self.assertEqual(self.lines()[:4], lines[:4])
        self.assertEqual(len(self.keys()), 6)
        self.assertEqual(len(set(self.keys())), 6)
        before = self.lines()
        self.scale(0, *arguments, mpirun="false --oversubscribe")  # nothing is left to do
        self.assertEqual(self.lines(), before)

    def test_another_studys_directory_is_left_alone(self):
        study = self.study()
        before = {path: path.read_bytes() for path in study.iterdir()}
        for message, *arguments in (
                ("`context` is [64] there and [65] here", "--context", 65),
                ("`ranks` is [1,2,3] there and [1,2] here", "--ranks", "1,2"),
                ("`config` is", "--set", "esa.top_k=9")):
            base = ["--ranks", "1,2,3", "--context", "64", "--method", "esa,dense"]
            result = self.scale(1, *base, *arguments, "--output", "study")
            self.assertIn(f"study holds another study: {message}", result.stderr)
        self.assertEqual(before, {path: path.read_bytes() for path in study.iterdir()})

    def test_the_grid(self):
        """One-rank runs that are missing are added, and contexts grow with the ranks if weak."""
        stub = self.directory / "fake_mpirun"
        # The point of a one-rank study, with the key that was asked for.
        self.scale(0, "--ranks", 1, "--context", 64, "--output", "one")
        (self.directory / "line").write_text(self.lines("one")[0])
        stub.write_text(f"""#!{sys.executable}
import json, sys
words = sys.argv
point = json.loads(open("line").read())
value = lambda flag: words[words.index(flag) + 1]
ranks = int(value("-n"))
point.update(ranks=ranks, context=int(value("--context")), batch=int(value("--batch")),
             method=value("--method"))
for key in "hosts", "phases":
    point[key] = point[key] * ranks
point["slots"] = [64] * ranks
point["memory"]["peak_bytes"] *= ranks
point["outputs"] *= point["batch"]
print(json.dumps(point))
""")
        stub.chmod(0o755)
        # The digests of batches are wrong.
        self.scale(1, "--ranks", "2,4", "--context", "64,96", "--batch", "1,2", "--method",
                   "streaming,esa", "--output", "strong", mpirun=f"{stub} --oversubscribe")
        self.assertEqual(self.keys("strong"), [
            (method, context, batch, ranks) for method in ("esa", "streaming")
            for context in (64, 96) for batch in (1, 2) for ranks in (1, 2, 4)])
        self.scale(0, "--ranks", "1,2,4", "--context", 64, "--weak", "--output", "weak",
                   mpirun=f"{stub} --oversubscribe")
        self.assertEqual(self.keys("weak"), [
            ("esa", 64, 1, 1), ("esa", 128, 1, 1), ("esa", 128, 1, 2), ("esa", 256, 1, 1),
            ("esa", 256, 1, 4)])
        self.assertIn("efficiency, % of one rank (weak scaling)",
                      (self.directory / "weak/report.html").read_text())
        # Twice the tokens in the same time: efficiency is whole.
        self.assertEqual([row["prefill_efficiency"] for row in self.rows("weak")],
                         ["1"] * 5)
        self.scale(0, "--ranks", "2", "--context", 64, "--noreference", "--output", "none",
                   mpirun=f"{stub} --oversubscribe")
        self.assertEqual(self.keys("none"), [("esa", 64, 1, 2)])

    def test_points_that_share_cores_are_no_curve(self):
        cores = os.sched_getaffinity(0)
        self.scale(0, "--ranks", f"1,{len(cores) + 1}", "--context", 64, "--output", "study")
        study = self.directory / "study"
        rows = self.rows()
        self.assertEqual([row["note"] for row in rows],
                         ["", "correctness check, not a scaling curve"])
        self.assertEqual(rows[1]["prefill_speedup"], "")
        self.assertEqual(rows[0]["prefill_speedup"], "1")
        page = (study / "report.html").read_text()
        self.assertIn("correctness check, not a scaling curve", page)
        self.assertNotIn("speed-up over one rank", page)

    def test_the_report_is_well_formed(self):
        study = self.study()
        # Speed-up is plotted where every rank has a core, whatever this machine has.
        points = [json.loads(line) for line in self.lines()]
        for point in points:
            point["slots"] = [64] * point["ranks"]
            point["machine"]["device"] = "<script>&\"'"
        (study / "points.jsonl").write_text("".join(json.dumps(p) + "\n" for p in points))
        self.run_command([LONGSPAN, "scale", "report", "study"])
        page = (study / "report.html").read_text()
        parser = PageParser()
        parser.feed(page)
        parser.close()
        self.assertEqual(parser.open, [])
        self.assertEqual(parser.references, [])
        self.assertNotIn("<script", page)
        self.assertIn("&lt;script&gt;&amp;&quot;&#39;", page)
        figures = ["<svg" + part.split("</svg>")[0] + "</svg>" for part in page.split("<svg")[1:]]
        self.assertEqual(len(figures), 5)  # two speed-ups, two of phases, the roofline
        for figure in figures:
            xml.etree.ElementTree.fromstring(figure)
            self.assertNotIn("nan", figure)
            self.assertNotIn("inf", figure)
        self.assertEqual(page.count("<tr>"), 1 + 6)

    def test_phases_that_were_not_measured_are_absent(self):
        study = self.study()
        points = [json.loads(line) for line in self.lines()]
        for point in points:
            for rank in point["phases"]:
                for stage in rank.values():
                    stage["phases_s"] = dict.fromkeys(stage["phases_s"])
        (study / "points.jsonl").write_text("".join(json.dumps(p) + "\n" for p in points))
        self.run_command([LONGSPAN, "scale", "report", "study"])
        for row in self.rows():
            self.assertEqual(row["prefill_attend_s"], "")
            self.assertEqual(row["prefill_imbalance"], "")
        self.assertIn("Not measured", (study / "report.html").read_text())

    def test_a_killed_study_keeps_what_it_has(self):
        stub = self.directory / "slow_mpirun"
        # Two points are run, and the third never ends.
        stub.write_text(f"""#!/bin/bash
case "$*" in *--do-not-launch*) exec {MPIRUN} "$@" ;; esac
echo started >> starts
if [ "$(wc -l < starts)" -gt 2 ]; then echo $$ > pid; trap 'echo told > told; kill $!; exit 3' TERM; sleep 300 & wait; fi
exec {MPIRUN} "$@"
""")
        stub.chmod(0o755)
        arguments = ("--ranks", "1,2,3", "--context", "64", "--output", "study")
        for number, code, message in ((signal.SIGINT, 1, "the same command goes on"),
                                      (signal.SIGHUP, 1, "the same command goes on"),
                                      (signal.SIGKILL, -9, "")):
            (self.directory / "starts").write_text("x\n" * (0 if number == signal.SIGINT else 2))
            process = subprocess.Popen(
                self.command(*arguments, mpirun=f"{stub} --oversubscribe"), cwd=self.directory,
                stderr=subprocess.PIPE, text=True)
            while not (self.directory / "pid").exists() or not (self.directory / "pid").read_text():
                self.assertIsNone(process.poll())
                time.sleep(0.02)
            process.send_signal(number)
            if number == signal.SIGHUP:  # twice, as a terminal that is closed sends it
                process.send_signal(number)
            errors = process.communicate(timeout=60)[1]
            self.assertEqual(process.returncode, code, errors)
            self.assertIn(message, errors)
            self.assertEqual(len(self.lines()), 2)
            child = int((self.directory / "pid").read_text())
            if message:
                self.assertFalse(pathlib.Path(f"/proc/{child}").exists(), "its point runs on")
                (self.directory / "told").unlink()  # it was stopped in order
            else:
                os.killpg(child, signal.SIGKILL)
            (self.directory / "pid").unlink()
        self.scale(0, *arguments)
        self.assertEqual(len(self.lines()), 3)

    def test_a_point_that_fails_is_told_and_tried_again(self):
        stub = self.directory / "failing_mpirun"
        stub.write_text(f"""#!/bin/bash
if [ "$2" = 2 ] || [ "$3" = 2 ]; then echo "rank 1 lost its way" >&2; exit 7; fi
exec {MPIRUN} "$@"
""")
        stub.chmod(0o755)
        arguments = ("--ranks", "1,2,3", "--context", "64", "--output", "study")
        result = self.scale(1, *arguments, mpirun=f"{stub} --oversubscribe")
        self.assertIn("rank 1 lost its way", result.stderr)
        self.assertIn("2 ranks, 64 tokens, batch 1, esa: failed: exit code 7", result.stderr)
        self.assertIn("1 points failed: the same command tries them again", result.stderr)
        self.assertEqual([key[3] for key in self.keys()], [1, 3])
        self.scale(0, *arguments)
        self.assertEqual([key[3] for key in self.keys()], [1, 3, 2])

    def test_a_damaged_line_is_named(self):
        study = self.study()
        lines = self.lines()
        lines[1] = lines[1].replace('"runs":', '"walks":')
        (study / "points.jsonl").write_text("\n".join(lines) + "\n")
        result = self.run_command([LONGSPAN, "scale", "report", "study"], 1)
        self.assertIn("study/points.jsonl:2: is no point of a study", result.stderr)
        result = self.run_command([LONGSPAN, "scale", "report", "model"], 1)
        self.assertIn("model: holds no study", result.stderr)

    def test_the_slurm_script(self):
        script = self.directory / "study.sbatch"
        result = self.scale(0, "--ranks", "1,2,3", "--context", "64,96", "--set",
                            "ask.stop=it's", "--slurm", script, "--output", "study", mpirun="")
        self.assertIn("sbatch", result.stderr)
        subprocess.run(["bash", "-n", script], check=True)
        text = script.read_text()
        self.assertIn("#SBATCH --array=0-5\n", text)
        self.assertIn("#SBATCH --ntasks=3\n", text)
        # As a task of the array would run it, with stand-ins for Slurm's programs.
        bin_directory = self.directory / "bin"
        bin_directory.mkdir()
        (bin_directory / "srun").write_text(f"""#!/bin/bash
while [ "$1" != -n ]; do shift; done
exec {MPIRUN} "$@"
""")
        (bin_directory / "sbatch").write_text('#!/bin/bash\nprintf "%s\\n" "$@" >> submitted\n')
        for name in "srun", "sbatch":
            (bin_directory / name).chmod(0o755)
        for task in range(6):
            self.run_command(["bash", script], SLURM_ARRAY_TASK_ID=str(task),
                             SLURM_ARRAY_TASK_MIN="0", SLURM_ARRAY_JOB_ID="7",
                             PATH=f"{bin_directory}:{os.environ['PATH']}")
        own = self.directory / "own.sbatch"
        self.scale(0, "--ranks", "1,2,3", "--context", "64,96", "--set", "ask.stop=it's",
                   "--slurm", own, "--output", "study", mpirun="mpirun --bind-to core")
        self.assertIn('  mpirun --bind-to core -n "$ranks" "$longspan"', own.read_text())
        submitted = (self.directory / "submitted").read_text()
        self.assertIn("--dependency=afterany:7", submitted)
        self.assertEqual(submitted.count("scale report study"), 1)
        self.run_command([LONGSPAN, "scale", "report", "study"])
        rows = self.rows()
        self.assertEqual(len(rows), 6)
        self.assertEqual({row["outputs"] for row in rows}, {"one rank", "bits equal"})

    def test_bad_input_is_named_before_the_first_run(self):
        ranks = ("--ranks", "1,2", "--context", "64")
        self.refuse(2, "--ranks is needed")
        self.refuse(2, "--ranks must be numbers from 1 to 65536, separated by commas, not `0`",
                    "--ranks", "2,0")
        self.refuse(2, "there is no method `sparse`; there are esa, dense, streaming", *ranks,
                    "--method", "esa,sparse")
        self.refuse(2, "--batch must be numbers", *ranks, "--batch", "1,many")
        self.refuse(1, "64 are more than the", "--ranks", "64", "--context", "64",
                    mpirun="mpirun --allow-run-as-root")
        self.refuse(1, "--mpirun: absent: there is no such program in $PATH", *ranks,
                    mpirun="absent -x")
        self.refuse(1, "--mpirun: leave -n out", *ranks, mpirun="mpirun -n 2")
        self.refuse(2, "--hostfile does not go with --slurm", *ranks, "--slurm", "script",
                    "--hostfile", "hosts")
        self.refuse(1, "sequence gets 5013 tokens, more than `max_model_len` (4096)", "--ranks",
                    "1", "--context", "5000")
        self.refuse(1, "9 sequences are more than `max_num_seqs` (3)", *ranks, "--batch", "9")
        self.refuse(1, "does not fit", "--ranks", "1", "--context", "4000000000", "--set",
                    "max_model_len=4200000000")
        self.refuse(1, "absent is not a directory", *ranks, "--model", "absent")
        self.refuse(1, "unknown key `esa.topk`", *ranks, "--set", "esa.topk=1")
        self.refuse(1, "absent: ", *ranks, "--hostfile", "absent")
        hosts = self.directory / "hosts"
        for text, message in (
                ("node1 slots=2\nnode2 slots=many\n", "hosts:2: `slots=many` is neither"),
                ("# none\n\n", "hosts: names no host"),
                ("node1, slots=4\n", "hosts:1: `node1,` is no name of a host"),
                ("a slots=1\nb slots=1 # two in all\n",
                 "3 are more than the 2 slots that mpirun has on 2 hosts")):
            hosts.write_text(text)
            self.refuse(1, message, "--ranks", "3", "--context", "64", "--hostfile", "hosts",
                        mpirun="mpirun --allow-run-as-root")
        (self.directory / "file").write_text("")
        result = self.scale(1, *ranks, "--output", "file/study")
        self.assertIn("--output file/study: cannot be made", result.stderr)
        result = self.scale(2, *ranks)
        self.assertIn("--output is needed", result.stderr)

    def test_slots_are_those_that_mpirun_has(self):
        ranks = ("--ranks", "1,5", "--context", "64")
        message = "5 are more than the 4 slots that mpirun has on 2 hosts"
        self.refuse(1, message, *ranks, mpirun="mpirun --allow-run-as-root --host a:2,b:2")
        (self.directory / "hosts").write_text("a slots=4\n")
        self.refuse(1, "5 are more than the 4 slots that mpirun has on a:", *ranks,
                    mpirun="mpirun --allow-run-as-root --hostfile hosts")
        slurm = {"SLURM_JOBID": "7", "SLURM_JOB_ID": "7", "SLURM_NODELIST": "n[1-2]",
                 "SLURM_TASKS_PER_NODE": "3,1", "SLURM_NNODES": "2"}
        result = self.run_command(
            self.command(*ranks, "--output", "refused",
                         mpirun="mpirun --allow-run-as-root"), 1, **slurm)
        self.assertIn(message, result.stderr)

    def test_memory_of_hosts_elsewhere_is_theirs(self):
        stub = self.directory / "mpirun_elsewhere"
        stub.write_text("""#!/bin/bash
case "$*" in *--do-not-launch*) exec mpirun --allow-run-as-root "$@" ;; esac
exit 7
""")
        stub.chmod(0o755)
        job = ("--ranks", "2", "--no-reference", "--context", "4000000000",
               "--set", "max_model_len=4200000000")
        # On this machine it does not fit; that it does elsewhere is not for this one to say.
        self.refuse(1, "does not fit", *job, mpirun=f"{stub} --oversubscribe")
        for number, option in enumerate(("--host elsewhere:2", "--not-an-option")):
            result = self.scale(1, *job, "--output", f"study{number}", mpirun=f"{stub} {option}")
            self.assertIn("failed: exit code 7", result.stderr)
            self.assertNotIn("does not fit", result.stderr)

    def test_the_shipped_model(self):
        text = self.directory / "text.txt"
        text.write_text("The pass key is 31337. Remember it. " * 20)
        self.run_command(
            [LONGSPAN, "scale", "--config", str(SOURCE / "configs/needle.yaml"), "--model",
             str(SOURCE / "models/needle"), "--ranks", "1,2,3", "--context", "1536", "--decode",
             "2", "--file", "text.txt", "--mpirun", MPIRUN, "--output", "study"])
        rows = self.rows()
        self.assertEqual([row["ranks"] for row in rows], ["1", "2", "3"])
        for row in rows[1:]:
            self.assertIn(row["outputs"], ("bits equal", "tokens equal", "within rounding"))


if __name__ == "__main__":
    LONGSPAN, SOURCE = os.path.abspath(sys.argv[1]), pathlib.Path(sys.argv[2])
    rest = sys.argv[3:]
    split = rest.index("--") if "--" in rest else len(rest)
    MPIRUN = shlex.join(rest[:split])
    unittest.main(argv=sys.argv[:1] + rest[split + 1:])
