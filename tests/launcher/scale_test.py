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


# An mpirun that answers with a line that was measured, as if its ranks had. Where `broken` is it
# starts nothing, and where `mute` is it does not say its version; `fail` has a number of ranks that end badly, `hang` one whose ranks wait for `go`: they tell their process id, and that
# they are told to stop, and then end, unless `deaf` is there; `calm` ones end as if nothing was.
FAKE_MPIRUN = r"""
import json, os, pathlib, signal, sys, time
words = sys.argv
if words[1:] == ["--version"]:
    os.path.exists("mute") and time.sleep(1000)
    sys.exit("no Open MPI")
if words[-1] == "--version":  # before the first point
    sys.exit("there is no such host" if os.path.exists("broken") else 0)
value = lambda flag: words[words.index(flag) + 1]
has = lambda file, text="": os.path.exists(file) and open(file).read().startswith(text)
ranks = int(value("-n"))
if has("fail", str(ranks)):
    print("rank 1 lost its way", file=sys.stderr)
    sys.exit(7)
if has("hang", str(ranks)):
    def stop(*_):
        pathlib.Path("told").touch()
        has("deaf") or has("calm") or sys.exit(3)
        has("calm") and pathlib.Path("go").touch()
    signal.signal(signal.SIGTERM, stop)
    pathlib.Path("new_pid").write_text(str(os.getpid()))
    os.rename("new_pid", "pid")
    while not has("go"):
        time.sleep(0.01)
point = json.loads(open("line").read())
point.update(ranks=ranks, context=int(value("--context")), batch=int(value("--batch")),
             method=value("--method"))
for key in "hosts", "phases":
    point[key] = point[key] * ranks
point["slots"] = [64] * ranks
point["memory"]["peak_bytes"] *= ranks
point["outputs"] *= point["batch"]
text = json.dumps(point) + "\n"
if "--output" in words:
    pathlib.Path(value("--output")).write_text(text)
else:
    sys.stdout.write(text)
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

    def run_command(self, command, code=0, preexec=None, folder=None, **environment):
        result = subprocess.run(command, capture_output=True, text=True, timeout=120,
                                cwd=folder or self.directory, env=os.environ | environment,
                                preexec_fn=preexec)
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

    # A study of one and three ranks, on two of the machine's processors, once for all that only
    # reads it.
    STUDY = ("--ranks", "1,3", "--context", "64", "--method", "esa,dense", "--output", "study")

    def study(self):
        stored = pathlib.Path(tempfile.gettempdir()) / f"longspan-scale-{os.getpid()}"
        if not stored.exists():
            processors = sorted(os.sched_getaffinity(0))[:2]
            self.run_command(self.command(*self.STUDY),
                             preexec=lambda: os.sched_setaffinity(0, processors))
            shutil.copytree(self.directory / "study", stored)
            type(self).addClassCleanup(shutil.rmtree, stored)
        study = self.directory / "study"
        if not study.exists():
            shutil.copytree(stored, study)
        return study

    # The command of FAKE_MPIRUN.
    def fake_mpirun(self):
        self.study()
        (self.directory / "line").write_text(
            next(line for line in self.lines() if json.loads(line)["ranks"] == 1))
        shutil.rmtree(self.directory / "study")
        fake = self.directory / "fake_mpirun"
        fake.write_text(f"#!{sys.executable} -S\n{FAKE_MPIRUN}")
        fake.chmod(0o755)
        return str(fake)

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
        self.study()
        self.assertEqual(len(self.lines()), 4)
        for row in self.rows():
            self.assertEqual(row["outputs"], "one rank" if row["ranks"] == "1" else "bits equal")

    def test_an_outputs_change_is_found(self):
        study = self.study()
        lines = self.lines()
        whole = (study / "points.jsonl").read_text()
        at = next(i for i, line in enumerate(lines) if json.loads(line)["ranks"] == 3)

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
        (study / "points.jsonl").write_text("\n".join(lines[:3]) + "\n" + lines[3][:100])
        result = self.scale(0, *self.STUDY)
        self.assertIn("study/points.jsonl:4: the last line breaks off and is left out",
                      result.stderr)
        self.assertEqual(self.lines()[:3], lines[:3])
        self.assertEqual(len(self.keys()), 4)
        self.assertEqual(len(set(self.keys())), 4)
        before = self.lines()
        # A last line that is whole counts, and is kept where others follow.
        (study / "points.jsonl").write_text("\n".join(before))
        result = self.scale(0, *self.STUDY, mpirun="false")
        self.assertNotIn("left out", result.stderr)
        (study / "points.jsonl").write_text("\n".join(before[:3]))
        self.scale(0, *self.STUDY)
        self.assertEqual(self.lines()[:3], before[:3])
        self.assertEqual(len(self.lines()), 4)
        before = self.lines()
        # Nothing is left to do, in whatever order.
        self.scale(0, *self.STUDY, "--ranks", "3,1", "--method", "dense,esa", mpirun="false")
        self.assertEqual(self.lines(), before)

    def test_another_studys_directory_is_left_alone(self):
        study = self.study()
        before = {path: path.read_bytes() for path in study.iterdir()}
        for message, *arguments in (
                ("`context` is [64] there and [65] here, and may only grow;", "--context", 65),
                ("`ranks` is [1,3] there and [1,2] here, and may only grow;", "--ranks", "1,2"),
                ("`decode` is 3 there and 4 here;", "--decode", 4),
                ("`esa.top_k` is 8 there and 9 here;", "--set", "esa.top_k=9")):
            result = self.scale(1, *self.STUDY, *arguments)
            self.assertIn(f"study holds another study: {message}", result.stderr)
        self.assertEqual(before, {path: path.read_bytes() for path in study.iterdir()})

    def test_what_no_study_json_speaks_of_is_left_alone(self):
        for name in "points.jsonl", "report.html", "point-7.json":
            folder = self.directory / f"of_{name}"
            folder.mkdir()
            (folder / name).write_text("precious")
            result = self.scale(1, *self.STUDY, "--output", folder, mpirun="true")
            self.assertIn(f"holds {name}, and no study.json that says of which study it is",
                          result.stderr)
            self.assertEqual([path.name for path in folder.iterdir()], [name])
        self.refuse(1, "--slurm run.yaml: is there, and no script of a study", "--ranks", "1",
                    "--context", "64", "--slurm", "run.yaml", mpirun="")
        self.assertEqual((self.directory / "run.yaml").read_text(), CONFIG)

    def test_a_study_grows(self):
        fake = self.fake_mpirun()
        start = ("--context", 64, "--output", "grown")
        self.scale(0, "--ranks", "1,2", *start, mpirun=fake)
        before = self.lines("grown")
        # With other software by then, and another command.
        line = json.loads((self.directory / "line").read_text())
        line["machine"]["software"] = "<others>"
        (self.directory / "line").write_text(json.dumps(line))
        result = self.scale(0, "--ranks", "4,2,1", *start, mpirun=f"{fake} --own")
        self.assertEqual(self.lines("grown")[:2], before)
        self.assertEqual([key[3] for key in self.keys("grown")], [1, 2, 4])
        self.assertRegex(result.stderr, "ranks are started with `.*` there and `.* --own` here")
        self.assertRegex(result.stderr, "4 ranks, .* was measured on .*<others>.*, and 1 rank, ")
        rows = {row["ranks"]: row for row in self.rows("grown")}
        self.assertEqual([rows[r]["prefill_speedup"] for r in "124"], ["1", "1", ""])
        self.assertIn("measured on another machine or software", rows["4"]["note"])
        page = (self.directory / "grown/report.html").read_text()
        self.assertIn("<td>4 †</td>", page)
        self.assertIn("(&lt;others&gt;)", page.split("<h2>")[0])
        self.assertIn("1 points, ", page.split("<h2>")[0])
        self.scale(1, "--ranks", "1,2", *start, mpirun=fake)  # a part of what it is by now

    def test_the_grid(self):
        """One-rank runs that are missing are added, and contexts grow with the ranks if weak."""
        fake = self.fake_mpirun()
        # The digests of batches are wrong.
        self.scale(1, "--ranks", "2,4", "--context", "64,96", "--batch", "1,2", "--method",
                   "streaming,esa", "--output", "strong", mpirun=fake)
        self.assertEqual(self.keys("strong"), [
            (method, context, batch, ranks) for method in ("esa", "streaming")
            for context in (64, 96) for batch in (1, 2) for ranks in (1, 2, 4)])
        self.scale(0, "--ranks", "1,2,4", "--context", 64, "--weak", "--output", "weak",
                   mpirun=fake)
        self.assertEqual(self.keys("weak"), [
            ("esa", 64, 1, 1), ("esa", 128, 1, 1), ("esa", 128, 1, 2), ("esa", 256, 1, 1),
            ("esa", 256, 1, 4)])
        self.assertIn("efficiency, % of one rank (weak scaling)",
                      (self.directory / "weak/report.html").read_text())
        # Twice the tokens in the same time: efficiency is whole.
        self.assertEqual([row["prefill_efficiency"] for row in self.rows("weak")],
                         ["1"] * 5)
        self.scale(0, "--ranks", "2", "--context", 64, "--noreference", "--output", "none",
                   mpirun=fake)
        self.assertEqual(self.keys("none"), [("esa", 64, 1, 2)])
        # They may come later, and then belong to it.
        for option in "--reference", "--noreference":
            self.scale(0, "--ranks", "2", "--context", 64, option, "--output", "none", mpirun=fake)
            self.assertEqual([key[3] for key in self.keys("none")], [2, 1])
            result = self.run_command([LONGSPAN, "scale", "report", "none"])
            self.assertIn("points        2 of 2, ", result.stderr)

    def test_points_that_share_cores_are_no_curve(self):
        study = self.study()
        for row in self.rows():
            shares = row["ranks"] == "3"
            self.assertEqual(row["note"], "correctness check, not a scaling curve" if shares else "")
            self.assertEqual(row["prefill_speedup"], "" if shares else "1")
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
        self.assertEqual(page.count("<tr>"), 1 + 4)

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

    RANKS = ("--ranks", "1,2,3", "--context", "64", "--output", "study")

    # A study that has measured one rank, and whose two ranks run until they are stopped or told to
    # go on. Its process and theirs.
    def hanging_study(self, fake, hangup=signal.SIG_DFL):
        (self.directory / "hang").write_text("2")
        for file in "pid", "told", "go":
            (self.directory / file).unlink(missing_ok=True)
        process = subprocess.Popen(self.command(*self.RANKS, mpirun=fake), cwd=self.directory,
                                   stderr=subprocess.PIPE, text=True,
                                   preexec_fn=lambda: signal.signal(signal.SIGHUP, hangup))
        self.addCleanup(process.stderr.close)
        self.wait_for("pid", process)
        return process, int((self.directory / "pid").read_text())

    def wait_for(self, file, process=None):
        while not (self.directory / file).exists():
            self.assertIsNone(process and process.poll())
            time.sleep(0.01)

    def test_a_killed_study_keeps_what_it_has(self):
        fake = self.fake_mpirun()
        # A terminal that is closed sends SIGHUP twice.
        for signals in ([signal.SIGINT], [signal.SIGQUIT], [signal.SIGHUP, signal.SIGHUP]):
            process, child = self.hanging_study(fake)
            for number in signals:
                process.send_signal(number)
            errors = process.communicate(timeout=60)[1]
            self.assertEqual(process.returncode, 1, errors)
            self.assertIn("stopped by a signal at 2 ranks, 64 tokens, batch 1, esa; kept: 1 point; "
                          "the same command goes on with the others", errors)
            self.assertFalse(pathlib.Path(f"/proc/{child}").exists(), "its point runs on")
            self.assertTrue((self.directory / "told").exists(), "it was not stopped in order")
            self.assertEqual([key[3] for key in self.keys()], [1])
        (self.directory / "hang").unlink()
        self.scale(0, *self.RANKS, mpirun=fake)
        self.assertEqual([key[3] for key in self.keys()], [1, 2, 3])

    def test_a_point_that_ends_well_counts_when_stopped(self):
        fake = self.fake_mpirun()
        (self.directory / "calm").touch()
        process, _ = self.hanging_study(fake)
        process.terminate()
        errors = process.communicate(timeout=60)[1]
        self.assertEqual(process.returncode, 1, errors)
        self.assertIn("stopped by a signal at 3 ranks, 64 tokens, batch 1, esa; kept: 2 points; "
                      "the same command goes on with the others", errors)
        self.assertNotIn("failed", errors)
        self.assertEqual([key[3] for key in self.keys()], [1, 2])

    def test_a_second_signal_does_not_wait(self):
        fake = self.fake_mpirun()
        (self.directory / "deaf").touch()
        process, child = self.hanging_study(fake)
        process.terminate()
        self.wait_for("told", process)
        process.terminate()
        self.assertIn("stopped by a signal", process.communicate(timeout=60)[1])
        self.assertEqual(process.returncode, 1)
        self.assertFalse(pathlib.Path(f"/proc/{child}").exists(), "its point runs on")

    def test_a_signal_ends_questions_before_the_first_point(self):
        stub = self.directory / "silent_mpirun"
        stub.write_text("#!/bin/sh\ntrap 'touch told; exit' TERM\ntouch asked\n"
                        "while :; do sleep 0.01; done\n")
        stub.chmod(0o755)
        process = subprocess.Popen(self.command(*self.RANKS, mpirun=str(stub)), cwd=self.directory,
                                   stderr=subprocess.PIPE, text=True)
        self.wait_for("asked", process)
        process.terminate()
        self.assertIn("stopped by a signal", process.communicate(timeout=60)[1])
        self.assertEqual(process.returncode, 1)
        self.assertTrue((self.directory / "told").exists(), "it was not stopped in order")
        self.assertFalse((self.directory / "study").exists(), "it began")

    def test_ranks_are_stopped_if_the_study_cannot_do_it(self):
        process, child = self.hanging_study(self.fake_mpirun())
        process.kill()
        process.communicate(timeout=60)
        self.wait_for("told")
        self.assertEqual([key[3] for key in self.keys()], [1])

    def test_nohup_is_heeded(self):
        process, _ = self.hanging_study(self.fake_mpirun(), signal.SIG_IGN)
        process.send_signal(signal.SIGHUP)
        (self.directory / "go").touch()
        errors = process.communicate(timeout=60)[1]
        self.assertEqual(process.returncode, 0, errors)
        self.assertEqual([key[3] for key in self.keys()], [1, 2, 3])

    def test_ranks_that_cannot_be_started_are_told_once(self):
        fake = self.fake_mpirun()
        (self.directory / "broken").touch()
        result = self.scale(1, *self.RANKS, mpirun=fake)
        self.assertIn("ranks cannot be started, so no point is begun", result.stderr)
        self.assertEqual(result.stderr.count("there is no such host"), 1)
        self.assertFalse((self.directory / "study").exists())

    def test_an_mpirun_that_does_not_answer_is_told(self):
        fake = self.fake_mpirun()
        (self.directory / "mute").touch()
        result = self.scale(0, *self.RANKS, mpirun=fake)
        self.assertIn(f"{fake} does not answer: slots and memory are not checked", result.stderr)

    def test_no_rank_is_started_for_another_study(self):
        fake = self.fake_mpirun()
        self.scale(0, *self.RANKS, mpirun=fake)
        (self.directory / "broken").touch()
        result = self.scale(1, *self.RANKS, "--ranks", "1,2,3,4", "--decode", 4, mpirun=fake)
        self.assertIn("holds another study: `decode` is 3 there and 4 here", result.stderr)
        # Ranks that do not start leave study.json as it was.
        before = (self.directory / "study/study.json").read_text()
        result = self.scale(1, *self.RANKS, "--ranks", "1,2,3,4", mpirun=fake)
        self.assertIn("ranks cannot be started", result.stderr)
        self.assertEqual((self.directory / "study/study.json").read_text(), before)

    def test_a_point_that_fails_is_told_and_tried_again(self):
        fake = self.fake_mpirun()
        (self.directory / "fail").write_text("2")
        result = self.scale(1, *self.RANKS, mpirun=fake)
        self.assertIn("rank 1 lost its way", result.stderr)
        self.assertIn("2 ranks, 64 tokens, batch 1, esa: failed: exit code 7", result.stderr)
        self.assertIn("1 point failed: the same command tries again", result.stderr)
        self.assertEqual([key[3] for key in self.keys()], [1, 3])
        (self.directory / "fail").unlink()
        self.scale(0, *self.RANKS, mpirun=fake)
        self.assertEqual([key[3] for key in self.keys()], [1, 3, 2])

    def test_a_damaged_line_is_named(self):
        study = self.study()
        lines = self.lines()
        lines[1] = lines[1].replace('"runs":', '"walks":')
        (study / "points.jsonl").write_text("\n".join(lines) + "\n")
        result = self.run_command([LONGSPAN, "scale", "report", "study"], 1)
        self.assertIn("study/points.jsonl:2: is no point of a study: key 'runs' not found: delete "
                      "this line, and", result.stderr)
        result = self.run_command([LONGSPAN, "scale", "report", "model"], 1)
        self.assertIn("model: holds no study", result.stderr)

    def test_the_slurm_script(self):
        script = self.directory / "study.sbatch"
        result = self.scale(0, "--ranks", "1,2", "--context", "64", "--set",
                            "ask.stop=it's", "--slurm", script, "--output", "study", mpirun="")
        self.assertIn("sbatch", result.stderr)
        subprocess.run(["bash", "-n", script], check=True)
        text = script.read_text()
        self.assertIn("#SBATCH --array=0-1\n", text)
        self.assertIn("#SBATCH --ntasks=2\n", text)
        # As a task of the array would run it, with stand-ins for Slurm's programs.
        bin_directory = self.directory / "bin"
        bin_directory.mkdir()
        (bin_directory / "srun").write_text(f"""#!/bin/bash
while [ "$1" != -n ]; do shift; done
exec {MPIRUN} "$@"
""")
        (bin_directory / "sbatch").write_text(
            '#!/bin/bash\n[ ! -e closed ] || exit 1\nprintf "%s\\n" "$@" >> submitted\n')
        for name in "srun", "sbatch":
            (bin_directory / name).chmod(0o755)

        def task(number):
            return self.run_command(
                ["bash", script], folder="/", SLURM_ARRAY_TASK_ID=str(number), SLURM_ARRAY_TASK_MIN="0",
                SLURM_ARRAY_JOB_ID="7", SLURM_JOB_ACCOUNT="own account",
                PATH=f"{bin_directory}:{os.environ['PATH']}")

        def write(path, points, **options):
            result = self.scale(0, "--ranks", "1,2", "--context", "64", "--set", "ask.stop=it's",
                                "--slurm", path, "--output", "study", **options)
            self.assertIn(points, result.stderr)

        task(1)
        result = self.run_command([LONGSPAN, "scale", "report", "study"])
        self.assertIn("points        1 of 2, ", result.stderr)
        self.assertIn("missing: 1 rank, 64 tokens, batch 1, esa\n", result.stderr)
        self.assertEqual([key[3] for key in self.keys()], [2])
        # Another script of what is left; an earlier one is still right.
        own = self.directory / "own.sbatch"
        write(own, "points        1 of 2; ", mpirun="mpirun --bind-to core")
        self.assertIn('  mpirun --bind-to core -n "$ranks" "$longspan"', own.read_text())
        self.assertIn("#SBATCH --array=0-0\n", own.read_text())
        # A cluster where a job may submit none.
        (self.directory / "closed").touch()
        self.assertIn(f"no job makes the report: run `{LONGSPAN} scale report study` when all",
                      task(0).stderr)
        self.assertTrue((self.directory / "study/point-esa-64-1-1.json").exists())
        (self.directory / "closed").unlink()
        task(0)
        task(1)
        submitted = (self.directory / "submitted").read_text()
        self.assertIn("--dependency=afterany:7\n--account=own account\n--wrap\n", submitted)
        self.assertEqual(submitted.count("scale report study"), 1)
        self.run_command([LONGSPAN, "scale", "report", "study"])
        self.assertEqual([key[3] for key in self.keys()], [2, 1])
        before = own.read_text()
        write(own, "all 2 points are there: no script is written", mpirun="")
        self.assertEqual(own.read_text(), before)
        rows = self.rows()
        self.assertEqual(len(rows), 2)
        self.assertEqual({row["outputs"] for row in rows}, {"one rank", "bits equal"})

    def test_bad_input_is_named_before_the_first_run(self):
        ranks = ("--ranks", "1,2", "--context", "64")
        self.refuse(2, "--ranks is needed")
        self.refuse(2, "--ranks must be numbers from 1 to 65536, separated by commas, not `0`",
                    "--ranks", "2,0")
        self.refuse(2, "--ranks names 2 twice", "--ranks", "2,1,2")
        for file in "absent", "model", "empty":
            (self.directory / "empty").touch()
            self.refuse(1, "--file: ", *ranks, "--file", file)
        for script in "absent/script", "model", "run.yaml":
            self.refuse(1, f"--slurm {script}: ", *ranks, "--slurm", script, mpirun="")
        self.assertEqual((self.directory / "run.yaml").read_text(), CONFIG)
        self.refuse(2, "there is no method `sparse`; there are esa, dense, streaming", *ranks,
                    "--method", "esa,sparse")
        self.refuse(2, "--batch must be numbers", *ranks, "--batch", "1,many")
        many = os.cpu_count() + 1
        self.refuse(1, f"{many} are more than the", "--ranks", many, "--context", "64",
                    mpirun="mpirun --allow-run-as-root")
        self.refuse(1, "--mpirun: absent: there is no such program in $PATH", *ranks,
                    mpirun="absent -x")
        self.refuse(1, "--mpirun: leave -n out", *ranks, mpirun="mpirun -n 2")
        self.refuse(1, "--mpirun: leave -n out", *ranks, "--slurm", "script", mpirun="srun -n 2")
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
        self.refuse(1, "cannot open absent", *ranks, "--file", "absent")
        self.refuse(2, "--file must name a file", *ranks, "--file", "-")
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
        # As many as it is told a machine has by default, and no more than it would run.
        self.refuse(1, "5 are more than the 4 slots", *ranks,
                    mpirun="mpirun --allow-run-as-root --mca orte_set_default_slots 4")
        study = ("--ranks", "1,5", "--context", "4090", "--output", "refused")
        (self.directory / "hosts").write_text("elsewhere\n")
        for options in "--mca orte_set_default_slots 5", "--hostfile hosts", "--oversubscribe":
            result = self.scale(1, *study, mpirun=f"mpirun --allow-run-as-root {options}")
            self.assertIn("more than `max_model_len`", result.stderr)  # as is looked at next
        slurm = {"SLURM_JOBID": "7", "SLURM_JOB_ID": "7", "SLURM_NODELIST": "n[1-2]",
                 "SLURM_TASKS_PER_NODE": "3,1", "SLURM_NNODES": "2"}
        result = self.run_command(
            self.command(*ranks, "--output", "refused",
                         mpirun="mpirun --allow-run-as-root"), 1, **slurm)
        self.assertIn(message, result.stderr)

    def test_memory_of_hosts_elsewhere_is_theirs(self):
        stub = self.directory / "mpirun_elsewhere"
        stub.write_text("""#!/bin/bash
case "$*" in
  --version | *--do-not-launch*) exec mpirun --allow-run-as-root "$@" ;;
  *longspan\ --version) exit ;;
esac
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

    def test_a_file_keeps_its_text(self):
        fake = self.fake_mpirun()
        start = ("--ranks", 1, "--context", 64, "--file", "text.txt", "--output", "study")
        (self.directory / "text.txt").write_text("One text. " * 20)
        self.scale(0, *start, mpirun=fake)
        self.scale(0, *start, mpirun="false")
        (self.directory / "text.txt").write_text("Other text. " * 20)
        result = self.scale(1, *start, mpirun=fake)
        self.assertIn("study holds another study: `file` has another text than there",
                      result.stderr)

    def test_the_shipped_model(self):
        text = self.directory / "text.txt"
        text.write_text("The pass key is 31337. Remember it. " * 20)
        result = self.run_command(
            [LONGSPAN, "scale", "--config", str(SOURCE / "configs/needle.yaml"), "--model",
             str(SOURCE / "models/needle"), "--ranks", "1,3", "--context", "1152", "--set",
             "prefill.chunk_tokens=1024", "--decode", "2", "--file", "text.txt", "--mpirun",
             MPIRUN, "--output", "study"])
        self.assertRegex(result.stderr, r"text.txt has \d+ tokens, .* up to 1152: they repeat it")
        rows = self.rows()
        self.assertEqual([row["ranks"] for row in rows], ["1", "3"])
        for row in rows[1:]:
            self.assertIn(row["outputs"], ("bits equal", "tokens equal", "within rounding"))


if __name__ == "__main__":
    LONGSPAN, SOURCE = os.path.abspath(sys.argv[1]), pathlib.Path(sys.argv[2])
    rest = sys.argv[3:]
    split = rest.index("--") if "--" in rest else len(rest)
    MPIRUN = shlex.join(rest[:split])
    unittest.main(argv=sys.argv[:1] + rest[split + 1:])
