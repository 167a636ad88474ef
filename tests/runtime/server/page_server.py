"""A stand-in for `longspan serve`: the page from the source tree, and prepared answers."""

import http.server
import json
import os
import threading
import time

TYPES = {"index.html": "text/html; charset=utf-8", "page.css": "text/css; charset=utf-8",
         "page.js": "text/javascript; charset=utf-8"}
POLICY = ("default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
          "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
TEMPLATE = "Read this. {document}\nQuestion: {question}\n"
BINS = 200


def attended(prompt, needles):
    """Bins of code points, as the server counts. A bin where a needle begins has many."""
    size = max(1, len(prompt) // BINS)
    bins = []
    for begin in range(0, len(prompt), size):
        end = min(begin + size, len(prompt))
        bins.append({"begin": begin, "end": end, "count": begin * 7919 % 5})
    for strength, needle in zip((90, 60, 40), needles):
        at = prompt.find(needle)
        if at >= 0:
            bins[at // size]["count"] += strength
    return {"bins": bins}


class PageServer:
    """What a question says is how it is answered."""

    def __init__(self, source, needles=("64159", "Upelya", "brass")):
        self.needles = needles
        self.page = os.path.join(source, "runtime/server/page")
        self.key = None
        self.loading = 0  # how often the settings are refused
        self.takes_attended = True
        self.bodies = []
        self.left = threading.Event()  # a client has, in mid-stream
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                outer.get(self)

            def do_POST(self):
                outer.post(self)

            def log_message(self, *_):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def stop(self):
        self.http.shutdown()
        self.http.server_close()

    def send(self, call, status, body, content_type="application/json", **headers):
        call.send_response(status)
        call.send_header("Content-Type", content_type)
        for name, value in headers.items():
            call.send_header(name.replace("_", "-"), value)
        call.end_headers()
        call.wfile.write(body if isinstance(body, bytes) else json.dumps(body).encode())

    def fail(self, call, status, message, param=None, **headers):
        self.send(call, status, {"error": {"message": message, "param": param}}, **headers)

    def allows(self, call):
        if self.key is None or call.headers["Authorization"] == f"Bearer {self.key}":
            return True
        self.fail(call, 401, "an API key is needed")
        return False

    def get(self, call):
        name = call.path[1:] or "index.html"
        if name in TYPES:
            with open(os.path.join(self.page, name), "rb") as file:
                return self.send(call, 200, file.read(), TYPES[name],
                                 Content_Security_Policy=POLICY)
        if call.path != "/page/settings":
            return self.fail(call, 404, "there is nothing at " + call.path)
        if not self.allows(call):
            return None
        if self.loading > 0:
            self.loading -= 1
            return self.fail(call, 503, "the model is still being loaded", Retry_After="1")
        return self.send(call, 200, {"model": "needle", "max_model_len": 65536,
                                     "max_body_bytes": 64 << 20, "prompt_template": TEMPLATE,
                                     "stop": "\n"})

    def post(self, call):
        body = json.loads(call.rfile.read(int(call.headers["Content-Length"])))
        self.bodies.append(body)
        if not self.allows(call):
            return None
        prompt = body["prompt"]
        question = prompt.rsplit("Question: ", 1)[1]
        if "attended" in body and not self.takes_attended:
            return self.fail(call, 400, "unknown parameter `attended`", "attended")
        if "busy" in question:
            return self.fail(call, 429, "12 sequences run or wait, of at most 12: try again later",
                             Retry_After="7")
        if "far too long" in question:
            return self.fail(call, 400, "the prompt has more than 65536 tokens, and exceeds "
                             "max_model_len 65536")
        if "too long" in question:
            return self.fail(call, 400, "the prompt has 70000 tokens, and with max_tokens 256 "
                             "exceeds max_model_len 65536")
        if "loading" in question:
            return self.fail(call, 503, "the model is still being loaded", Retry_After="2")
        if "late" in question:
            return self.fail(call, 504, "the request took longer than 1h")
        return self.stream(call, body, question)

    def stream(self, call, body, question):
        call.send_response(200)
        call.send_header("Content-Type", "text/event-stream; charset=utf-8")
        call.end_headers()
        total = len(body["prompt"]) // 4
        slow = "slow" in question
        answer = "The pass key is 64159 \U0001f511, as the keeper of the gate wrote it down."
        pieces = [answer[i:i + 5] for i in range(0, len(answer), 5)]

        def event(data):
            return "data: " + json.dumps(data, ensure_ascii=False) + "\n\n"

        def chunk(text, finish=None, **more):
            return event({"choices": [{"index": 0, "text": text, "finish_reason": finish, **more}],
                          "usage": None})

        parts = [f": prefill 0 {total * i // 8}/{total}\n\n" for i in range(1, 8)]
        parts += [chunk(piece) for piece in pieces]
        if "error" in question:
            parts += [event({"error": {"message": "the server stopped before the answer's end"}}),
                      "data: [DONE]\n\n"]
        elif "gone" not in question:
            more = {}
            if body.get("attended"):
                more["attended"] = attended(body["prompt"], self.needles)
            parts.append(chunk("", "length" if "cut" in question else "stop", **more))
            parts.append(event({"choices": [], "usage": {
                "prompt_tokens": total, "completion_tokens": len(pieces)}}))
            parts.append("data: [DONE]\n\n")
        try:
            for part in parts:
                data = part.encode()
                step = 7 if len(data) < 1000 else 4096  # within characters and lines
                for i in range(0, len(data), step):
                    call.wfile.write(data[i:i + step])
                    call.wfile.flush()
                time.sleep(0.4 if slow else 0.02)
        except OSError:
            self.left.set()
