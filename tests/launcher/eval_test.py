#!/usr/bin/env python3
"""`longspan eval` from outside: eval_test.py BINARY SOURCE_DIR MPIRUN... [-- unittest's].

The model is a random one of two layers, but for one run of the shipped model."""

import html.parser
import importlib.util
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

LONGSPAN = ""
SOURCE = pathlib.Path()
MPIRUN = []

CONFIG = """
model: model
max_model_len: 4096
esa: {initial_tokens: 4, local_tokens: 16, top_k: 8, selection_block: 8, compression: exact}
prefill: {chunk_tokens: 128}
max_num_seqs: 3
"""


class PageParser(html.parser.HTMLParser):
    """That every element is closed, and what the page refers to."""
    VOID = {"meta", "br", "link", "img"}

    def __init__(self):
        super().__init__()
        self.open, self.references, self.tags = [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        self.references += [value for key, value in attributes if key in ("src", "href")]

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()


class EvalTest(unittest.TestCase):
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

    def command(self, *arguments, ranks=0):
        start = [*MPIRUN, "-n", str(ranks)] if ranks else []
        return [*start, LONGSPAN, "eval", "--config", "run.yaml", *map(str, arguments)]

    def eval(self, code, *arguments, **options):
        result = subprocess.run(self.command(*arguments, **options), capture_output=True,
                                text=True, timeout=300, cwd=self.directory)
        self.assertEqual(result.returncode, code, result.stdout + result.stderr)
        return result

    def cases(self, output="out"):
        lines = (self.directory / output / "cases.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def answers(self, output="out"):
        return {(c["task"], c["method"], c["length"], c["depth"], c["index"]): c["answer"]
                for c in self.cases(output)}

    SMALL = ("--task", "passkey,key_value", "--length", "600,700", "--depth", "0,1",
             "--cases", "2", "--method", "esa_exact,dense")
    # One of a task and method.
    LEAST = ("--task", "passkey", "--length", "200", "--depth", "0.5", "--cases", "1",
             "--method", "esa_exact")

    def test_every_case_is_a_line(self):
        result = self.eval(0, *self.SMALL, "--output", "out")
        cases = self.cases()
        self.assertEqual(len(cases), 2 * 2 * 2 * 2 * 2)
        self.assertEqual(len(self.answers()), len(cases))
        for case in cases:
            self.assertEqual(case["prompt_tokens"], case["length"])
            self.assertEqual(len(case["expected"]), 1)
            self.assertIn(case["score"], (0, 1))
        summary = json.loads((self.directory / "out/summary.json").read_text())
        self.assertEqual((summary["cases"], summary["expected_cases"]), (32, 32))
        self.assertEqual(len(summary["cells"]), 2 * 2 * 2)
        self.assertEqual({cell["cases"] for cell in summary["cells"]}, {4})
        self.assertEqual(len(summary["cells_by_depth"]), 2 * 2 * 2 * 2)
        for cell in summary["cells"]:
            self.assertLess(cell["low"], cell["high"])
        self.assertEqual(summary["settings"]["length"], [600, 700])
        self.assertEqual(summary["methods"]["esa_exact"]["esa.top_k"], 8)
        self.assertEqual(result.stdout.count("passkey"), 4)
        # What was attended to: of ESA at most 4 + 16 + 8 and the block.
        shares = {(c["method"], c["length"]): c["attended_keys"] / c["dense_keys"]
                  for c in summary["costs"]}
        self.assertEqual(len(shares), 4)
        for length in 600, 700:
            self.assertLess(shares["esa_exact", length], (4 + 16 + 8 + 8) / (length / 2))
            self.assertEqual(shares["dense", length], 1)
        # The same from what is on disk.
        (self.directory / "out/report.html").unlink()
        report = subprocess.run([LONGSPAN, "eval", "report", "out", "--format", "markdown"],
                                capture_output=True, text=True, cwd=self.directory)
        self.assertEqual(report.returncode, 0, report.stderr)
        self.assertIn("| passkey | 600 | 700 |\n|---|---|---|\n| `esa_exact` |", report.stdout)
        self.assertEqual(report.stdout.count(", n 4) |"), 8)
        with open("/dev/full", "w") as full:
            report = subprocess.run([LONGSPAN, "eval", "report", "out"], stdout=full,
                                    stderr=subprocess.PIPE, text=True, cwd=self.directory)
        self.assertEqual(report.returncode, 1)
        self.assertIn("standard output: the results cannot be written", report.stderr)
        self.assertTrue((self.directory / "out/report.html").exists())

    def test_the_page_needs_nothing_else(self):
        (self.directory / "text.txt").write_text("One two three. " * 200)
        self.eval(0, *self.SMALL, "--task", "passkey,perplexity:text.txt", "--stride", "64",
                  "--output", "out")
        for case in self.cases():
            self.assertEqual(case.get("scored_tokens"),
                             64 if case["task"] == "perplexity/text" else None)
        text = (self.directory / "out/report.html").read_text()
        page = PageParser()
        page.feed(text)
        self.assertEqual((page.open, page.references), ([], []))
        # A map a method, curves by length, and perplexity by position at two lengths.
        self.assertEqual(page.tags.count("svg"), 2 + 1 + 2)
        self.assertNotIn("script", page.tags)
        sys.path.insert(0, str(SOURCE / "tests/runtime/server"))
        from browser import Browser, find_browser
        if find_browser() is None:
            self.skipTest("no browser is installed")
        browser = Browser(find_browser())
        self.addCleanup(browser.close)
        for width in 1280, 390:
            browser.view(width, 900)
            browser.open((self.directory / "out/report.html").as_uri())
            self.assertLessEqual(
                browser.run("document.documentElement.scrollWidth"), width, "wider than the view")
            self.assertEqual(browser.run("document.querySelectorAll('svg').length"), 5)
            pictures = os.environ.get("LONGSPAN_SCREENSHOTS")
            if pictures:
                browser.screenshot(os.path.join(pictures, f"eval-{width}.png"))
        self.assertEqual(browser.problems, [])

    def test_every_method_is_the_same_on_several_ranks(self):
        methods = ("dense,dense_ntk,dense_yarn,streaming,esa_exact,esa_low_rank,head_max,soft_vote,"
                   "group_vote,block")
        flags = (*self.LEAST, "--length", "300", "--method", methods)
        for setting in ("deterministic=true", "load_format=dummy", "esa.initial_tokens=16",
                        "esa.local_tokens=32", "esa.top_k=16", "esa.selection_block=16",
                        "esa.compressed_dim=16"):
            flags += "--set", setting
        self.eval(0, *flags, "--output", "one")
        self.eval(0, *flags, "--output", "three", "--selection_stats", "selected.json", ranks=3)
        answers = self.answers("one")
        self.assertEqual(len(answers), 10)
        self.assertEqual(answers, self.answers("three"))
        selected = json.loads((self.directory / "selected.json").read_text())
        self.assertEqual(set(selected), {"esa_exact", "esa_low_rank", "head_max", "soft_vote",
                                         "group_vote", "block"})
        for method, lengths in selected.items():
            self.assertEqual(list(lengths), ["300"])
            self.assertEqual(lengths["300"]["ranks"], 3)
            for layer in lengths["300"]["decode"]["layers"]:
                self.assertGreater(layer["selections"], 30, method)
        # A later run's statistics come to those that are there.
        self.eval(0, *self.LEAST, "--output", "later", "--selection_stats", "selected.json")
        later = json.loads((self.directory / "selected.json").read_text())
        self.assertEqual(set(later), set(selected))
        self.assertEqual(list(later["esa_exact"]), ["300", "200"])
        self.assertEqual(later["head_max"], selected["head_max"])
        summary = json.loads((self.directory / "one/summary.json").read_text())
        self.assertEqual(summary["methods"]["block"]["esa.unit_tokens"], 16)
        # 300 tokens and the answer, over 256.
        self.assertAlmostEqual(summary["methods"]["dense_yarn"]["rope.factor"], 337 / 256)
        # All but dense attention attend to as many tokens.
        attended = {c["method"]: c["attended_keys"] for c in summary["costs"]}
        sparse = [attended[method] for method in attended if not method.startswith("dense")]
        self.assertLess(max(sparse) / min(sparse), 1.01, attended)
        self.assertLess(max(sparse), attended["dense"])

    def test_a_run_goes_on_where_it_was_stopped(self):
        self.eval(0, *self.SMALL, "--output", "whole")
        process = subprocess.Popen(self.command(*self.SMALL, "--output", "out"),
                                   cwd=self.directory, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.PIPE, text=True)
        lines = self.directory / "out/cases.jsonl"
        while not lines.exists() or lines.read_text().count("\n") < 3:
            self.assertIsNone(process.poll(), "ended too soon")
            time.sleep(0.005)
        process.send_signal(signal.SIGTERM)
        errors = process.communicate(timeout=60)[1]
        self.assertEqual(process.returncode, 1, errors)
        self.assertIn("the same command goes on where this run ended", errors)
        before = lines.read_text()
        self.assertLess(before.count("\n"), 32)
        lines.write_text(before + '{"task":"pass')  # as a crash leaves it
        self.eval(0, *self.SMALL, "--output", "out")
        self.assertTrue(lines.read_text().startswith(before))
        self.assertEqual(self.answers(), self.answers("whole"))
        after = lines.read_text()
        (self.directory / "out/report.html").unlink()
        self.eval(0, *self.SMALL, "--output", "out")
        self.assertEqual(lines.read_text(), after)
        self.assertTrue((self.directory / "out/report.html").exists())

    def test_other_settings_need_another_directory(self):
        self.eval(0, *self.LEAST, "--output", "out")
        for flags, message in (
                (("--seed", "4"), "`seed` is 0 there and 4 here"),
                (("--cases", "3"), "`cases` is 1 there and 3 here"),
                (("--set", "esa.top_k=9"), "of esa_exact `esa.top_k` is 8 there and 9 here"),
                (("--set", "deterministic=true"), "`deterministic` is ")):
            result = self.eval(1, *self.LEAST, "--output", "out", *flags)
            self.assertIn("--output out holds another evaluation: " + message, result.stderr)
        # What changes no answer may change: where the model is, ranks, and further methods.
        (self.directory / "model").rename(self.directory / "moved")
        before = self.cases()
        self.eval(0, *self.LEAST, "--output", "out", "--set", "parallel.ranks=2", "--set",
                  "max_num_seqs=2", "--model", "moved", "--method", "streaming,esa_exact")
        self.assertEqual(self.cases()[:1], before)
        self.assertEqual([case["method"] for case in self.cases()], ["esa_exact", "streaming"])
        weights = self.directory / "moved/model.safetensors"
        changed = bytearray(weights.read_bytes())
        changed[-1] ^= 1
        weights.write_bytes(changed)
        result = self.eval(1, *self.LEAST, "--output", "out", "--model", "moved")
        self.assertIn("holds another evaluation: `model` is ", result.stderr)

    def test_what_does_not_fit_is_told_before_the_first_case(self):
        flags = (*self.LEAST, "--method", "streaming,esa_exact", "--output", "out")
        result = self.eval(1, *flags, "--set", "kv_cache.memory_fraction=0.0000001")
        self.assertIn("memory", result.stderr)
        self.assertEqual(self.cases(), [])
        # It is no evaluation yet, and may become another.
        self.eval(0, *flags, "--seed", "3")
        self.assertEqual(len(self.cases()), 2)

    def test_chats_are_asked_by_the_template(self):
        (self.directory / "model/chat_template.jinja").write_text(
            "{% for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}<answer>")
        self.eval(0, *self.LEAST, "--chat", "--output", "out")
        self.assertEqual(self.cases()[0]["prompt_tokens"], 200)
        result = self.eval(1, *self.LEAST, "--output", "out")
        self.assertIn("`chat` is true there and false here", result.stderr)

    def test_words_are_those_that_the_shipped_model_knows(self):
        spec = importlib.util.spec_from_file_location("needle_tasks",
                                                      SOURCE / "tools/needle_tasks.py")
        tool = importlib.util.module_from_spec(spec)
        sys.modules["needle_tasks"] = tool
        spec.loader.exec_module(tool)
        text = (SOURCE / "eval/words.h").read_text()
        tables = {name: re.findall('"([^"]*)"', body)
                  for name, body in re.findall(r"k(\w+)\[\] = \{(.*?)\};", text, re.DOTALL)}
        self.assertEqual(len(tables), 15)
        for name, words in tables.items():
            self.assertEqual(words, list(getattr(tool, name.upper())), name)

    def test_bad_input_is_named_before_anything_is_loaded(self):
        all_depths = ("--depth", "0.1,0.3,0.5,0.7,0.9")  # as if it were not given
        (self.directory / "model/model.safetensors").write_text("not loaded")
        (self.directory / "short.txt").write_text("Short.\n")
        (self.directory / "bad.jsonl").write_text('{"dataset": "hotpotqa"}\n')
        for code, message, flags in (
                (2, "--task is needed", ("--task", "")),
                (2, "there is no task `pass`", ("--task", "pass")),
                (2, "there is no method `esa`; there are dense,", ("--method", "esa")),
                (2, "--length must be from 1 to", ("--length", "many")),
                (2, "--depth must be numbers from 0 to 1", ("--depth", "2")),
                (2, "--cases must be from 1", ("--cases", "0")),
                (2, "--needles must be from 1 to 500", ("--needles", "501")),
                (2, "--seed must not be negative", ("--seed", "-1")),
                (1, "--asked 9: a prompt of key_value has only 8 facts",
                 ("--task", "key_value", "--asked", "9")),
                (1, "--asked 9: a prompt of passkey has one fact", ("--asked", "9")),
                (2, "--stride is of perplexity:FILE", ("--stride", "9")),
                (2, "--depth is of tasks that hide a fact at a depth",
                 ("--task", "counting_stars")),
                (2, "--prompts is of longbench:FILE and", ("--prompts", "bad.jsonl")),
                (2, "--haystack is of tasks that hide facts",
                 ("--task", "perplexity:short.txt", *all_depths, "--haystack", "short.txt")),
                (1, "; the file must be called as its data set is",
                 ("--task", "infinitebench:short.jsonl", *all_depths)),
                (1, "--selection_stats absent/file", ("--selection_stats", "absent/file")),
                (1, "--selection_stats run.yaml: is also --config",
                 ("--selection_stats", "run.yaml")),
                (1, "--selection_stats refused/cases.jsonl: is also --output",
                 ("--selection_stats", "refused/cases.jsonl")),
                (1, "--selection_stats short.txt: is there, and no statistics",
                 ("--selection_stats", "short.txt")),
                (1, "--selection_stats: no method of --method selects",
                 ("--method", "dense", "--selection_stats", "new.json")),
                (2, "--chat is of tasks that ask",
                 ("--task", "perplexity:short.txt", *all_depths, "--chat")),
                (1, "the model has no chat template", ("--chat",)),
                (1, "--method block: `esa.initial_tokens`, ", ("--method", "block")),
                (1, "--haystack short.txt is too short: it has 7 tokens, and the longest prompt "
                    "has 700", ("--haystack", "short.txt")),
                (1, "absent.txt", ("--haystack", "absent.txt")),
                (1, "--length 4096: with 37 tokens for an answer of passkey it exceeds "
                    "`max_model_len` 4096", ("--length", "600,4096")),
                (1, "--length 50: passkey: 50 tokens do not hold", ("--length", "50")),
                (1, "bad.jsonl:1: `context` must be a text", ("--task", "longbench:bad.jsonl", *all_depths)),
                (1, "short.txt has 7 tokens, too few", ("--task", "perplexity:short.txt", *all_depths)),
                (1, "there is no model/compressor.safetensors; `longspan calibrate`",
                 ("--method", "esa_low_rank")),
                (1, "`ask.prompt_template` has no {question}",
                 ("--set", "ask.prompt_template={document}"))):
            with self.subTest(message):
                result = self.eval(code, *self.SMALL, "--output", "refused", *flags)
                self.assertIn(message, result.stderr)
                self.assertFalse((self.directory / "refused").exists(), "it began")

    def test_the_shipped_model_answers(self):
        self.eval(0, "--config", SOURCE / "configs/needle.yaml", "--model",
                  SOURCE / "models/needle", "--task", "passkey,magic_number,needlebench",
                  "--asked", "1", "--length", "1400", "--depth", "0.3", "--cases", "1",
                  "--method", "esa_low_rank,streaming", "--output", "out")
        scores = {(c["task"], c["method"], c["index"]): c["score"] for c in self.cases()}
        self.assertEqual(len(scores), 6)
        for (task, method, index), score in scores.items():
            self.assertEqual(score, 1 if method == "esa_low_rank" else 0, (task, method, index))


if __name__ == "__main__":
    LONGSPAN, SOURCE = os.path.abspath(sys.argv[1]), pathlib.Path(sys.argv[2])
    rest = sys.argv[3:]
    split = rest.index("--") if "--" in rest else len(rest)
    MPIRUN = rest[:split]
    unittest.main(argv=sys.argv[:1] + rest[split + 1:])
