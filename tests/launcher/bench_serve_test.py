#!/usr/bin/env python3
"""`longspan bench serve` against a server that is known: bench_serve_test.py BINARY [unittest's]."""

import contextlib
import csv
import io
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import urllib.request

SERVER = pathlib.Path(__file__).with_name("fake_openai_server.py")
LONGSPAN = ""


@contextlib.contextmanager
def fake_server(*arguments):
    process = subprocess.Popen(
        [sys.executable, str(SERVER), *arguments], stdout=subprocess.PIPE, text=True)
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.kill()
        process.communicate()


@contextlib.contextmanager
def raw_server(answer, read_all=True):
    """Answers each connection with these bytes, whether or not it has read the request."""
    def serve(connection):
        with connection:
            if read_all:
                head, _, body = connection.recv(1 << 16).partition(b"\r\n\r\n")
                left = int(re.search(rb"Content-Length: (\d+)", head)[1]) - len(body)
                while left > 0:
                    left -= len(connection.recv(left))
            connection.sendall(answer)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(1 << 16):
                pass

    def accept():
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=listener.accept()[:1], daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)


def unused_url():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{s.getsockname()[1]}"


def log_of(url):
    with urllib.request.urlopen(url + "/log") as response:
        return json.load(response)


class BenchServeTest(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = pathlib.Path(directory.name)

    def bench(self, code, *arguments, **environment):
        env = {k: v for k, v in os.environ.items() if k != "OPENAI_API_KEY"}
        result = subprocess.run(
            [LONGSPAN, "bench", "serve", "--progress", "off", *map(str, arguments)],
            capture_output=True, text=True, timeout=120, env=env | environment)
        self.assertEqual(result.returncode, code, result.stdout + result.stderr)
        return result

    def report(self, code, *arguments, **environment):
        return json.loads(self.bench(code, *arguments, "--format", "json", **environment).stdout)

    def dataset(self, *lines):
        path = self.directory / "data.jsonl"
        path.write_text("".join(
            (line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
        return path

    def refuse(self, code, message, *arguments):
        result = self.bench(code, *arguments)
        self.assertIn(message, result.stderr)
        self.assertEqual(result.stderr.count("longspan"), 2 if code == 2 else 1, result.stderr)
        self.assertEqual(result.stdout, "")

    def test_measures_what_the_server_does(self):
        for endpoint in "/v1/completions", "/v1/chat/completions":
            with self.subTest(endpoint), fake_server("--ttft", "0.1", "--itl", "0.02") as url:
                report = self.report(
                    0, "--url", url, "--endpoint", endpoint, "--num_prompts", 12, "--input_len",
                    30, "--output_len", 6, "--max_concurrency", 5, "--detail")
                self.assertEqual(report["url"], url + endpoint)
                self.assertEqual(report["model_id"], "fake")
                self.assertEqual((report["completed"], report["failed"]), (12, 0))
                self.assertEqual(report["total_input_tokens"], 12 * 30)
                self.assertEqual(report["total_output_tokens"], 12 * 6)
                self.assertEqual(report["max_concurrent_requests"], 5)
                self.assertEqual(report["without_usage"], 0)
                # Three rounds of five at once; the fake sleeps at least so long.
                for key, least in ("ttft", 100), ("tpot", 20), ("e2el", 200):
                    self.assertGreaterEqual(report[f"median_{key}_ms"], least * 0.95)
                    self.assertLess(report[f"median_{key}_ms"], least * 20)
                for key in "ttft", "tpot", "itl", "e2el":
                    values = [report[f"{s}_{key}_ms"] for s in ("median", "p90", "p95", "p99", "max")]
                    self.assertEqual(values, sorted(values))
                    self.assertLessEqual(report[f"mean_{key}_ms"], values[-1])
                self.assertLess(report["mean_ttft_ms"], report["mean_e2el_ms"])
                self.assertGreaterEqual(report["duration"], 0.6 * 0.95)
                self.assertAlmostEqual(
                    report["request_throughput"], 12 / report["duration"], places=6)
                self.assertAlmostEqual(
                    report["output_throughput"], 72 / report["duration"], places=6)
                self.assertEqual(len(report["requests"]), 12)
                for request in report["requests"]:
                    self.assertEqual(len(request["itl_ms"]), 5)
                    self.assertAlmostEqual(request["tpot_ms"], sum(request["itl_ms"]) / 5, places=6)
                    self.assertIsNone(request["error"])

    def test_formats_hold_the_same(self):
        path = self.directory / "report"
        with fake_server() as url:
            common = ("--url", url, "--num_prompts", 3, "--output_len", 4, "--output", path)
            self.assertEqual(self.bench(0, *common, "--format", "csv").stdout, "")
            rows = list(csv.DictReader(io.StringIO(path.read_text())))
            self.bench(0, *common, "--format", "json")
            report = json.loads(path.read_text())
            self.bench(0, *common)
            table = path.read_text()
        self.assertEqual(len(rows), 1)
        self.assertEqual(set(rows[0]), set(report))
        self.assertEqual(rows[0]["completed"], "3")
        self.assertEqual(rows[0]["request_rate"], report["request_rate"])
        self.assertEqual(rows[0]["max_concurrency"], "")
        self.assertIsNone(report["max_concurrency"])
        self.assertNotIn("requests", report)
        self.assertRegex(table, r"(?m)^successful requests +3$")
        self.assertRegex(table, r"(?m)^total output tokens +12$")
        self.assertRegex(table, r"(?m)^time to first token( +[0-9.]+){6}$")
        self.assertNotIn("failed:", table)

    def test_failures_are_counted_by_reason(self):
        ways = ["429", "500", "cut", "short", "error", "hang", "mute", "json", "429"]
        data = self.dataset({"prompt": "fine", "max_tokens": 3},
                            *({"prompt": f"fake:{way}"} for way in ways))
        with fake_server() as url:
            arguments = ("--url", url, "--dataset", data, "--timeout", 3)
            report = self.report(3, *arguments)
            table = self.bench(3, *arguments)
        self.assertEqual((report["completed"], report["failed"]), (1, 9))
        self.assertEqual(report["total_output_tokens"], 3)
        failures = {f["reason"]: (f["count"], f["message"]) for f in report["failures"]}
        self.assertEqual(failures, {
            "HTTP 429": (2, "slow down"),
            "HTTP 500": (1, "the engine is dead"),
            "stream cut before [DONE]": (2, "after 2 events"),
            "error event": (1, "out of memory"),
            "timeout": (2, failures["timeout"][1]),
            "not a stream of events": (1, "but `application/json`"),
        })
        self.assertEqual(failures["timeout"][1], "after 2 events, at 3 s")
        self.assertIn("2 HTTP 429 (slow down)", table.stdout)
        self.assertRegex(table.stdout, r"(?m)^failed requests +9$")

    def test_answers_by_other_rules(self):
        common = ("--served_model", "x", "--num_prompts", 2, "--timeout", 20)
        stream = b"HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + (
            b'data: {"choices": [{"text": "a"}]}\r\n\r\n')
        with raw_server(stream + b"data: [DONE]\r\n\r\n") as url:  # ends with the connection
            report = self.report(0, "--url", url, *common)
            self.assertEqual((report["completed"], report["total_output_tokens"]), (2, 2))
        with raw_server(stream) as url:
            self.assertEqual(self.report(3, "--url", url, *common)["failures"],
                             [{"reason": "stream cut before [DONE]", "count": 2,
                               "message": "after 1 events"}])
        refusal = b"HTTP/1.1 413 Too Large\r\nContent-Length: 8\r\n\r\ntoo long"
        with raw_server(refusal, read_all=False) as url:
            report = self.report(3, "--url", url, *common, "--input_len", 1000000)
            self.assertEqual(report["failures"],
                             [{"reason": "HTTP 413", "count": 2, "message": "too long"}])
        with raw_server(b"SSH-2.0-OpenSSH\r\n") as url:
            self.refuse(1, "no request was answered: 2 no HTTP answer (bad version)", "--url", url,
                        *common)

    def test_requests_are_as_asked_for(self):
        arguments = ("--num_prompts", 4, "--input_len", 20, "--shared_prefix_len", 12,
                     "--output_len", 2, "--seed", 7)
        logs = []
        for more in ("--ignore_eos", "--served_model", "mine"), ("--api_key", "k"), ():
            with fake_server(*(more if more[:1] == ("--api_key",) else ())) as url:
                self.bench(0, "--url", url, *arguments, *more)
                logs.append([request["body"] for request in log_of(url)])
        # All at once arrive in any order.
        prompts = [sorted(body["prompt"] for body in log) for log in logs]
        self.assertEqual(prompts[0], prompts[1])
        self.assertEqual(len(set(prompts[0])), 4)
        words = [prompt.split() for prompt in prompts[0]]
        self.assertEqual({len(w) for w in words}, {20})
        self.assertEqual(len({tuple(w[:12]) for w in words}), 1)
        self.assertEqual(logs[0][0], logs[0][0] | {
            "model": "mine", "max_tokens": 2, "temperature": 0, "stream": True, "ignore_eos": True,
            "stream_options": {"include_usage": True}})
        self.assertNotIn("ignore_eos", logs[2][0])
        self.assertEqual(logs[2][0]["model"], "fake")

    def test_keys(self):
        with fake_server("--api_key", "secret") as url:
            arguments = ("--url", url, "--num_prompts", 2, "--output_len", 1)
            self.assertIn("HTTP 401: wrong key; --api_key or $OPENAI_API_KEY",
                          self.bench(1, *arguments).stderr)
            self.bench(0, *arguments, OPENAI_API_KEY="secret")
            report = self.report(3, *arguments, "--served_model", "x", "--api_key", "y",
                                 OPENAI_API_KEY="secret")
            self.assertEqual(report["failures"],
                             [{"reason": "HTTP 401", "count": 2, "message": "wrong key"}])

    def test_datasets(self):
        data = self.dataset(
            {"messages": [{"role": "user", "content": "a b c"}], "temperature": 0.5, "model": "own"},
            "",
            {"prompt": "a b", "max_tokens": 5},
            {"custom_id": "1", "body": {"messages": [{"role": "user", "content": "a"}]}})
        with fake_server("--no_usage") as url:
            chat = ("--url", url, "--endpoint", "/v1/chat/completions", "--dataset", data,
                    "--max_concurrency", 1)
            report = self.report(0, *chat, "--num_prompts", 4)
            self.assertEqual(report["total_output_tokens"], 16 + 5 + 16 + 16)
            self.assertEqual((report["without_usage"], report["input_len"]), (4, None))
            bodies = [request["body"] for request in log_of(url)]
            self.assertEqual([body["model"] for body in bodies], ["own", "fake", "fake", "own"])
            self.assertEqual([body["temperature"] for body in bodies], [0.5, 0, 0, 0.5])
            self.assertEqual(bodies[1]["messages"], [{"role": "user", "content": "a b"}])
            report = self.report(0, *chat, "--output_len", 1, "--served_model", "x")
            self.assertEqual((report["completed"], report["total_output_tokens"]), (3, 3))
            body = log_of(url)[-2]["body"]
            self.assertEqual((body["model"], body["max_completion_tokens"]), ("x", 1))
            self.assertNotIn("max_tokens", body)

            before = len(log_of(url))
            for line, message in (
                    ("{bad", "is not a JSON object"),
                    ("[1]", "is not a JSON object"),
                    ('{"text": "x"}', "has no `prompt`"),
                    ('{"prompt": ""}', "`prompt` is empty"),
                    ('{"prompt": 5}', "`prompt` is neither a text nor token ids"),
                    ('{"body": 5}', "`body` is not a JSON object"),
                    ('{"messages": []}', "has `messages`: add --endpoint /v1/chat/completions")):
                data = self.dataset('{"prompt": "fine"}', line)
                self.refuse(1, f"{data}:2: {message}", "--url", url, "--dataset", data)
            self.refuse(1, "`prompt` is not a text", *chat[:-4], "--dataset",
                        self.dataset({"prompt": [1, 2]}))
            self.refuse(1, "has no lines", "--url", url, "--dataset", self.dataset())
            self.refuse(1, "absent: cannot be read", "--url", url, "--dataset",
                        self.directory / "absent")
            self.assertEqual(len(log_of(url)), before, "nothing was sent")
            self.report(0, "--url", url, "--dataset", self.dataset({"prompt": [1, 2]}))

    def test_a_rate_spreads_the_requests(self):
        with fake_server() as url:
            report = self.report(0, "--url", url, "--num_prompts", 20, "--output_len", 1,
                                 "--request_rate", 40)
            times = [request["time"] for request in log_of(url)]
        self.assertEqual(report["request_rate"], 40)
        self.assertGreater(max(times) - min(times), 0.1)
        self.assertGreater(report["duration"], 0.1)

    def test_a_stop_keeps_what_there_is(self):
        data = self.dataset({"prompt": "fine"}, {"prompt": "fake:hang"})
        with fake_server() as url:
            process = subprocess.Popen(
                [LONGSPAN, "bench", "serve", "--url", url, "--dataset", data, "--format", "json"],
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            while len(log_of(url)) < 2:
                time.sleep(0.05)
            time.sleep(0.5)
            process.send_signal(signal.SIGINT)
            stdout, stderr = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 1, stderr)
        self.assertIn("stopped by a signal with 1 requests not finished", stderr)
        report = json.loads(stdout)
        self.assertEqual((report["completed"], report["failed"], report["unfinished"]), (1, 0, 1))

    def test_what_cannot_run(self):
        url = unused_url()
        self.refuse(1, "Connection refused; start the server there", "--url", url)
        self.refuse(1, "no request was answered: 5 connection refused; start the server there",
                    "--url", url, "--served_model", "x", "--num_prompts", 5)
        self.refuse(1, "the host is unknown", "--url", "http://no.such.host.invalid:1")
        with fake_server("--no_models") as url:
            self.refuse(1, "HTTP 404: Not Found; --served_model names the model", "--url", url)
            self.refuse(1, "absent/report: cannot be written to", "--url", url, "--output",
                        self.directory / "absent/report")
            # A prefix, with the /v1 of a base URL or without.
            for prefix in "/v1", "/v1/", "/a/b", "/a/b/v1/":
                self.bench(0, "--url", url + prefix, "--served_model", "x", "--num_prompts", 1)
            self.assertEqual([request["path"] for request in log_of(url)],
                             ["/v1/completions"] * 2 + ["/a/b/v1/completions"] * 2)

    def test_usage(self):
        url = ("--url", "http://127.0.0.1:1")
        self.refuse(2, "--url is needed")
        self.refuse(2, "https is not spoken here", "--url", "https://127.0.0.1")
        self.refuse(2, "not an http:// URL", "--url", "127.0.0.1:8000")
        self.refuse(2, "its port is not a number from 1 to 65535", "--url", "http://a:70000")
        self.refuse(2, "unexpected argument more", *url, "more")
        self.refuse(2, "unknown flag --model", *url, "--model", "x")
        self.refuse(2, "--endpoint must be /v1/completions or", *url, "--endpoint", "/v1/embeddings")
        for rate in 0, -1, "nan":
            self.refuse(2, "--request_rate must be above 0, or inf", *url, "--request_rate", rate)
        self.refuse(2, "--num_prompts must be from 1", *url, "--num_prompts", 0)
        self.refuse(2, "--max_concurrency must be from 0", *url, "--max_concurrency", -1)
        self.refuse(2, "--shared_prefix_len must be from 0 to 9", *url, "--input_len", 9,
                    "--shared_prefix_len", 10)
        self.refuse(2, "are of random prompts, not of a --dataset", *url, "--input_len", 9,
                    "--dataset", "x")
        self.refuse(2, "--timeout must be above 0", *url, "--timeout", 0)
        self.refuse(2, "--api_key has characters", *url, "--api_key", "a\nb")
        self.refuse(2, "--format must be table, csv or json", *url, "--format", "xml")
        self.refuse(2, "--detail needs --format json", *url, "--detail")
        help_text = self.bench(0, "--help").stdout
        self.assertIn("--request_rate", help_text)
        self.assertNotIn("--repeat", help_text)


if __name__ == "__main__":
    LONGSPAN = sys.argv.pop(1)
    unittest.main()
