"""Starts `longspan serve` for a test: on a small random model whose tokens are bytes, or another."""

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time

CONFIG = """
model: model
max_model_len: {max_model_len}
max_num_seqs: 4
deterministic: true
parallel: {{ranks: {ranks}}}
server: {{port: 0, max_waiting: 8, default_max_tokens: 70, max_body_bytes: 200000, body_timeout_s: 1}}
"""
SMALL = """
esa: {initial_tokens: 4, local_tokens: 16, top_k: 8, selection_block: 8, compression: exact}
prefill: {chunk_tokens: 32}
"""
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
STARTED = re.compile(r"http://127\.0\.0\.1:(\d+) answers for .*; kill (\d+) stops it")


class Server:
    """A running server. `command` comes before the program's name, as mpirun does; `kill` is os.kill
    where that runs. `model`: the directory of another model than the small one, with settings of its
    own."""

    def __init__(self, binary, source, settings=(), command=(), ranks=2, max_model_len=4096,
                 environment=None, model=None, kill=os.kill):
        self.directory = tempfile.mkdtemp()
        config = CONFIG.format(ranks=ranks, max_model_len=max_model_len)
        if model is None:
            self._make_small_model(source)
            config += SMALL
        else:
            os.symlink(model, os.path.join(self.directory, "model"))
        with open(os.path.join(self.directory, "run.yaml"), "w") as file:
            file.write(config)
        arguments = [*command, binary, "serve", "--config", "run.yaml"]
        for setting in settings:
            arguments += ["--set", setting]
        self.log = []
        self.kill = kill
        self.port = None
        self.rank0 = None  # its process id
        self.process = subprocess.Popen(arguments, cwd=self.directory, stderr=subprocess.PIPE,
                                        text=True, env={**os.environ, **(environment or {})})
        self.listening = threading.Event()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        if not self.listening.wait(60) or self.port is None:
            self.stop()
            raise RuntimeError("the server did not start:\n" + "".join(self.log))

    def _make_small_model(self, source):
        model = os.path.join(self.directory, "model")
        os.mkdir(model)
        data = os.path.join(source, "tests")
        for name in ("config.json", "model.safetensors"):
            shutil.copy(os.path.join(data, "runtime/testdata/models/llama_f16", name), model)
        shutil.copy(os.path.join(data, "launcher/testdata/byte_tokenizer.json"),
                    os.path.join(model, "tokenizer.json"))
        with open(os.path.join(model, "chat_template.jinja"), "w") as file:
            file.write(CHAT_TEMPLATE)

    def _read(self):
        for line in self.process.stderr:
            self.log.append(line)
            if match := STARTED.search(line):
                self.port, self.rank0 = int(match[1]), int(match[2])
                self.listening.set()
        self.listening.set()  # it has ended

    def stop(self, sign=signal.SIGTERM):
        """Tells rank 0 to stop, as the log says. Returns the exit code."""
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # the job may be ending already
                self.kill(self.rank0, sign) if self.rank0 else self.process.send_signal(sign)
        try:
            code = self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        self.reader.join(10)
        self.process.stderr.close()
        shutil.rmtree(self.directory, ignore_errors=True)
        return code

    def requests_logged(self):
        return [json.loads(line) for line in self.log if line.startswith('{"event":"request"')]

    def call(self, method, path, body=None, headers=None, timeout=60):
        """(status, headers, body as text)."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        if isinstance(body, (dict, list)):
            body = json.dumps(body)
        if body is not None:
            headers = {"Content-Type": "application/json", **(headers or {})}
        connection.request(method, path, body=body, headers=headers or {})
        response = connection.getresponse()
        text = response.read().decode()
        connection.close()
        return response.status, dict(response.getheaders()), text

    def post(self, path, body, **more):
        status, _, text = self.call("POST", path, body, **more)
        return status, json.loads(text)

    def stream(self, body):
        """(connection, what was read of it) on which an answer has begun."""
        data = json.dumps(body).encode()
        sock = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        sock.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
                     b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(data)
                     + data)
        text = b""
        while b"data: " not in text:
            piece = sock.recv(4096)
            if not piece:
                raise RuntimeError(f"no answer began: {text}")
            text += piece
        return sock, text

    def metric(self, name):
        """The sum over the labels of a metric."""
        _, _, text = self.call("GET", "/metrics")
        found = re.findall(rf"^{re.escape(name)}(?:{{.*}})? (\S+)$", text, re.MULTILINE)
        return sum(map(float, found)) if found else None

    def wait_for(self, condition, seconds=30):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if condition():
                return True
            time.sleep(0.05)
        return bool(condition())
