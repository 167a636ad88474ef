#!/usr/bin/env python3
"""`longspan eval` from outside: eval_test.py BINARY SOURCE_DIR MPIRUN... [-- unittest's].

The model is a random one of two layers, but for one run of the shipped model."""

import html.parser
import json
import os
import pathlib
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

    SMALL = ("--task", "passkey,magic_number", "--length", "600,1000", "--depth", "0,1",
             "--cases", "2", "--method", "esa_exact,dense")

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
        self.assertEqual(len(summary["cells"]), 2 * 2 * 2)
        self.assertEqual({cell["cases"] for cell in summary["cells"]}, {4})
        self.assertEqual(len(summary["cells_by_depth"]), 2 * 2 * 2 * 2)
        for cell in summary["cells"]:
            self.assertLess(cell["low"], cell["high"])
        self.assertEqual(summary["settings"]["length"], [600, 1000])
        self.assertEqual(result.stdout.count("passkey"), 4)

    def test_the_page_needs_nothing_else(self):
        (self.directory / "text.txt").write_text("One two three. " * 200)
        self.eval(0, *self.SMALL, "--task", "passkey,perplexity:text.txt", "--output", "out")
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

    def test_the_same_on_several_ranks(self):
        self.eval(0, *self.SMALL, "--output", "one", "--set", "deterministic=true")
        self.eval(0, *self.SMALL, "--output", "three", "--set", "deterministic=true", ranks=3)
        self.assertEqual(self.answers("one"), self.answers("three"))

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
        self.eval(0, *self.SMALL, "--length", "600", "--output", "out")
        for flags, message in (
                (("--seed", "4"), "`seed` is 0 there and 4 here"),
                (("--cases", "3"), "`cases` is 2 there and 3 here"),
                (("--set", "esa.top_k=9"), "`config` is ")):
            result = self.eval(1, *self.SMALL, "--length", "600", "--output", "out", *flags)
            self.assertIn("--output out holds another evaluation: " + message, result.stderr)
        # What changes no answer may change.
        self.eval(0, *self.SMALL, "--length", "600", "--output", "out", "--set",
                  "parallel.ranks=2", "--set", "max_num_seqs=2")

    def test_bad_input_is_named_before_anything_is_loaded(self):
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
                (1, "--asked 9: a prompt of magic_number has only 8 facts", ("--asked", "9")),
                (1, "--haystack short.txt is too short: it has 7 tokens, and the longest prompt "
                    "has 1000", ("--haystack", "short.txt")),
                (1, "absent.txt", ("--haystack", "absent.txt")),
                (1, "--length 4096: with 37 tokens for an answer of passkey it exceeds "
                    "`max_model_len` 4096", ("--length", "600,4096")),
                (1, "--length 50: passkey: 50 tokens do not hold", ("--length", "50")),
                (1, "bad.jsonl:1: `context` must be a text", ("--task", "longbench:bad.jsonl")),
                (1, "short.txt has 7 tokens, too few", ("--task", "perplexity:short.txt")),
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
                  "--asked", "1", "--length", "3000", "--depth", "0.5", "--cases", "2",
                  "--method", "esa_low_rank,streaming", "--output", "out")
        scores = {(c["task"], c["method"], c["index"]): c["score"] for c in self.cases()}
        for (task, method, index), score in scores.items():
            self.assertEqual(score, 1 if method == "esa_low_rank" else 0, (task, method, index))


if __name__ == "__main__":
    LONGSPAN, SOURCE = os.path.abspath(sys.argv[1]), pathlib.Path(sys.argv[2])
    rest = sys.argv[3:]
    split = rest.index("--") if "--" in rest else len(rest)
    MPIRUN = rest[:split]
    unittest.main(argv=sys.argv[:1] + rest[split + 1:])
