#!/usr/bin/env python3
"""An OpenAI-compatible server without a model, of the standard library only.

    fake_openai_server.py [--ttft SECONDS] [--itl SECONDS] [--api_key KEY] [--no_usage] [--no_models]

Prints the port that it listens on. It streams as many tokens as a request may have, the first after
--ttft, the others --itl apart. A prompt may ask for something else, by what it begins with:

    fake:429, fake:500   that status, with a message
    fake:cut             the connection ends after two tokens
    fake:short           the stream ends properly after two tokens, but without [DONE]
    fake:error           an error event after two tokens
    fake:hang            nothing more after two tokens
    fake:mute            nothing at all
    fake:json            an answer that is no stream

GET /log has the requests so far: their bodies, their keys, and when each began.
"""

import argparse
import http.server
import json
import threading
import time


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format, *args):
        pass

    def respond(self, status, body):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def allowed(self):
        key = self.server.options.api_key
        if not key or self.headers.get("Authorization") == f"Bearer {key}":
            return True
        self.respond(401, {"error": {"message": "wrong key"}})
        return False

    def do_GET(self):
        if self.path == "/log":
            self.respond(200, self.server.requests)
        elif not self.allowed():
            pass
        elif self.path.endswith("/v1/models") and not self.server.options.no_models:
            self.respond(200, {"object": "list", "data": [{"id": "fake"}, {"id": "other"}]})
        else:
            self.respond(404, {"detail": "Not Found"})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append({"path": self.path, "time": time.monotonic(), "body": body})
        if not self.allowed():
            return
        if self.path.endswith("/v1/completions"):
            prompt = body["prompt"]
        elif self.path.endswith("/v1/chat/completions"):
            prompt = body["messages"][-1]["content"]
        else:
            self.respond(404, {"detail": "Not Found"})
            return
        try:
            self.answer(body, prompt if isinstance(prompt, str) else "ids " * len(prompt))
        except (BrokenPipeError, ConnectionResetError):
            pass

    def answer(self, body, prompt):
        way = prompt.split()[0].removeprefix("fake:") if prompt.startswith("fake:") else ""
        if way == "429":
            self.respond(429, {"error": {"message": "slow\ndown", "type": "rate_limit"}})
        elif way == "500":
            self.respond(500, b"the engine is dead\n")
        elif way == "json":
            self.respond(200, {"choices": [{"text": "all at once"}]})
        elif way == "mute":
            self.server.closing.wait()
        else:
            self.stream(body, len(prompt.split()), way)

    def chunk(self, text):
        data = text.encode()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def event(self, body, choice, **more):
        choices = [] if choice is None else [{"index": 0, "finish_reason": None, **choice}]
        self.chunk("data: " + json.dumps({"model": body["model"], "choices": choices, **more}) + "\n\n")

    def stream(self, body, prompt_tokens, way):
        options = self.server.options
        chat = "messages" in body
        tokens = body.get("max_tokens", body.get("max_completion_tokens", 16))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        if chat:  # says who speaks before there is anything to say
            self.event(body, {"delta": {"role": "assistant", "content": ""}})
        time.sleep(options.ttft)
        for i in range(tokens):
            if i == 2 and way in ("cut", "short", "error", "hang"):
                return self.spoil(way)
            if i > 0:
                time.sleep(options.itl)
            self.chunk(": still here\n\n")
            self.event(body, {"delta": {"content": f" w{i}"}} if chat else {"text": f" w{i}"})
        end = {"delta": {}} if chat else {"text": ""}
        self.event(body, {**end, "finish_reason": "length"})
        if not options.no_usage and body.get("stream_options", {}).get("include_usage"):
            usage = {"prompt_tokens": prompt_tokens, "completion_tokens": tokens}
            self.event(body, None, usage=usage)
        self.chunk("data: [DONE]\n\n")
        self.chunk("")

    def spoil(self, way):
        if way == "error":
            self.chunk('data: {"error": {"message": "out of memory", "code": 500}}\n\n')
        elif way == "hang":
            self.server.closing.wait()
        if way == "short":
            self.chunk("")
        self.close_connection = True


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--ttft", type=float, default=0)
    parser.add_argument("--itl", type=float, default=0)
    parser.add_argument("--api_key", default="")
    parser.add_argument("--no_usage", action="store_true")
    parser.add_argument("--no_models", action="store_true")
    server = Server(("127.0.0.1", 0), Handler)
    server.options = parser.parse_args()
    server.requests = []
    server.closing = threading.Event()
    print(server.server_address[1], flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
