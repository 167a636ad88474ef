"""The server from outside, with sockets and http.client: what is right, what is wrong, what hangs.

protocol_test.py BINARY SOURCE_DIR [unittest arguments]
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from serving import Server  # noqa: E402

BINARY, SOURCE = sys.argv[1:3]
COMPLETIONS = "/v1/completions"
CHAT = "/v1/chat/completions"
HAY = "needle in hay. " * 20
GREEDY = {"temperature": 0, "ignore_eos": True}


def events(text):
    """The data of server-sent events; the last must be [DONE]."""
    data = [line[len("data: "):] for line in text.split("\n") if line.startswith("data: ")]
    assert data[-1] == "[DONE]", data[-3:]
    return [json.loads(d) for d in data[:-1]]


def head(path, length, *more):
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json",
             f"Content-Length: {length}", *more]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def read_all(sock):
    text = b""
    while piece := sock.recv(65536):
        text += piece
    return text.decode()


class ProtocolTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server(BINARY, SOURCE)

    @classmethod
    def tearDownClass(cls):
        cls.code = cls.server.stop()
        assert cls.code == 0, (cls.code, cls.server.log[-20:])

    def setUp(self):
        self.post, self.call = self.server.post, self.server.call

    def connect(self, timeout=30):
        sock = socket.create_connection(("127.0.0.1", self.server.port), timeout=timeout)
        self.addCleanup(sock.close)
        return sock

    def error(self, answer, status, *words):
        self.assertEqual(answer[0], status, answer[1])
        self.assertEqual({"message", "type", "param", "code"}, set(answer[1]["error"]))
        for word in words:
            self.assertIn(word, answer[1]["error"]["message"])
        return answer[1]["error"]

    # ---- What is right ----

    def test_probes_and_models(self):
        for path in ("/health", "/ready"):
            self.assertEqual(self.call("GET", path)[0], 200)
            self.assertEqual(self.call("HEAD", path)[0], 200)
        status, _, text = self.call("GET", "/v1/models")
        model = json.loads(text)["data"][0]
        self.assertEqual((status, model["id"], model["max_model_len"]), (200, "model", 4096))
        for path in ("/v1/models/model", "/v1/models/m%6Fdel"):
            status, _, text = self.call("GET", path)
            self.assertEqual((status, json.loads(text)), (200, model))
        for path, name in (("/v1/models/gpt-9", "gpt-9"), ("/v1/models/a%2Fb", "a/b"),
                           ("/v1/models/", ""), ("/v1/models/model%", "model%")):
            status, _, text = self.call("GET", path)
            error = self.error((status, json.loads(text)), 404, f"the model `{name}` does not")
            self.assertEqual((error["code"], error["param"]), ("model_not_found", "model"))

    def test_version(self):
        status, _, text = self.call("GET", "/version")
        program = subprocess.run([BINARY, "--version"], capture_output=True, text=True, check=True)
        self.assertEqual((status, json.loads(text)),
                         (200, {"version": program.stdout.split()[1]}))

    def test_completion(self):
        status, answer = self.post(COMPLETIONS, {"prompt": HAY, "max_tokens": 5, **GREEDY})
        self.assertEqual(status, 200)
        self.assertEqual(answer["object"], "text_completion")
        self.assertEqual(answer["model"], "model")
        self.assertEqual(answer["choices"][0]["finish_reason"], "length")
        del answer["usage"]["prompt_tokens_details"]
        self.assertEqual(answer["usage"], {"prompt_tokens": len(HAY), "completion_tokens": 5,
                                           "total_tokens": len(HAY) + 5})

    def test_stream_is_the_whole(self):
        for chat in (False, True):
            path = CHAT if chat else COMPLETIONS
            prompt = {"messages": [{"role": "user", "content": HAY}]} if chat else {"prompt": HAY}
            body = {**prompt, "max_tokens": 12, "logprobs": True if chat else 2, **GREEDY}
            if chat:
                body["top_logprobs"] = 2
            self.post(path, body)  # so that the cache has the prompt for both
            _, whole = self.post(path, body)
            status, headers, text = self.call(
                "POST", path, {**body, "stream": True, "stream_options": {"include_usage": True}})
            self.assertEqual(status, 200)
            self.assertTrue(headers["Content-Type"].startswith("text/event-stream"))
            chunks = events(text)
            self.assertEqual(chunks[-1]["choices"], [])
            self.assertEqual(chunks[-1]["usage"], whole["usage"])
            choices = [chunk["choices"][0] for chunk in chunks[:-1]]
            expected = whole["choices"][0]
            self.assertEqual([c["finish_reason"] for c in choices[:-1]],
                             [None] * (len(choices) - 1))
            self.assertEqual(choices[-1]["finish_reason"], expected["finish_reason"])
            logprobs = [c["logprobs"] for c in choices if c["logprobs"]]
            if chat:
                self.assertEqual({c["object"] for c in chunks}, {"chat.completion.chunk"})
                self.assertEqual(choices[0]["delta"]["role"], "assistant")
                self.assertEqual("".join(c["delta"].get("content", "") for c in choices),
                                 expected["message"]["content"])
                self.assertEqual([t for part in logprobs for t in part["content"]],
                                 expected["logprobs"]["content"])
            else:
                self.assertEqual("".join(c["text"] for c in choices), expected["text"])
                for key, values in expected["logprobs"].items():
                    self.assertEqual([v for part in logprobs for v in part[key]], values)

    def test_several_prompts_and_choices(self):
        body = {"prompt": ["ab", "cd"], "n": 2, "max_tokens": 8, "temperature": 1, "seed": 7,
                "ignore_eos": True}
        _, answer = self.post(COMPLETIONS, body)
        texts = [choice["text"] for choice in answer["choices"]]
        self.assertEqual([choice["index"] for choice in answer["choices"]], [0, 1, 2, 3])
        self.assertEqual(answer["usage"]["prompt_tokens"], 4)
        self.assertEqual(answer["usage"]["completion_tokens"], 32)
        self.assertEqual(len(set(texts)), 4)
        _, again = self.post(COMPLETIONS, body)
        self.assertEqual([choice["text"] for choice in again["choices"]], texts)
        _, single = self.post(COMPLETIONS, {**body, "prompt": "cd", "n": 1})
        self.assertEqual(single["choices"][0]["text"], texts[2])

    def test_requests_without_a_seed_differ(self):
        body = {"prompt": HAY, "max_tokens": 16, "temperature": 2, "ignore_eos": True}
        texts = {self.post(COMPLETIONS, body)[1]["choices"][0]["text"] for _ in range(3)}
        self.assertGreater(len(texts), 1)

    def test_a_chat_without_max_tokens(self):
        chat = {"messages": [{"role": "user", "content": "a"}], **GREEDY}
        self.assertEqual(self.post(CHAT, chat)[1]["usage"]["completion_tokens"], 70)

    def test_top_k_1_is_greedy(self):
        body = {"prompt": HAY, "max_tokens": 8, "ignore_eos": True}
        greedy = self.post(COMPLETIONS, {**body, "temperature": 0})[1]["choices"][0]["text"]
        drawn = self.post(COMPLETIONS, {**body, "temperature": 2, "top_k": 1, "seed": 3})
        self.assertEqual(drawn[1]["choices"][0]["text"], greedy)

    def test_echo_is_streamed_first(self):
        body = {"prompt": "abc", "max_tokens": 4, "echo": True, "stream": True, **GREEDY}
        text = "".join(e["choices"][0]["text"] for e in events(self.call("POST", COMPLETIONS,
                                                                         body)[2]))
        self.assertTrue(text.startswith("abc"))

    def test_tokens_there_and_back(self):
        _, tokens = self.post("/tokenize", {"prompt": "héllo", "return_token_strs": True})
        self.assertEqual(tokens["count"], 6)
        self.assertEqual(len(tokens["token_strs"]), 6)
        self.assertEqual(self.post("/detokenize", {"tokens": tokens["tokens"]}),
                         (200, {"prompt": "héllo"}))

    def test_progress_of_a_long_prompt_is_streamed(self):
        prompt = "another " + HAY
        body = {"prompt": prompt, "max_tokens": 1, "stream": True, **GREEDY}
        text = self.call("POST", COMPLETIONS, body)[2]
        self.assertIn(f": prefill 0 32/{len(prompt)}\n", text)

    def test_a_second_question_is_not_prefilled_again(self):
        document = "a tale of two needles. " * 100
        body = {"max_tokens": 8, "logprobs": 1, **GREEDY}
        first = self.post(COMPLETIONS, {**body, "prompt": document + "Who?"})[1]
        hits = self.server.metric("longspan:prefix_cache_hits_total")
        second = self.post(COMPLETIONS, {**body, "prompt": document + "Where?"})[1]
        cached = second["usage"]["prompt_tokens_details"]["cached_tokens"]
        self.assertEqual(cached, len(document) // 8 * 8)  # whole selection blocks
        self.assertEqual(self.server.metric("longspan:prefix_cache_hits_total"), hits + cached)
        again = self.post(COMPLETIONS, {**body, "prompt": document + "Who?"})[1]
        self.assertGreater(again["usage"]["prompt_tokens_details"]["cached_tokens"], 0)
        self.assertEqual(again["choices"], first["choices"])  # `deterministic` to the last bit

    def test_what_was_attended_to(self):
        prompt = "é" + HAY
        body = {"prompt": prompt, "max_tokens": 9, "attended": True, **GREEDY}
        whole = self.post(COMPLETIONS, body)[1]["choices"][0]["attended"]["bins"]
        self.assertEqual((whole[0]["begin"], whole[-1]["end"]), (0, len(prompt)))
        self.assertEqual([b["begin"] for b in whole[1:]], [b["end"] for b in whole[:-1]])
        # 8 tokens of the prompt in each of 2 layers for each decoded token but the first.
        self.assertEqual(sum(b["count"] for b in whole), 8 * 2 * 8)
        chunks = events(self.call("POST", COMPLETIONS, {**body, "stream": True})[2])
        self.assertEqual(chunks[-1]["choices"][0]["attended"]["bins"], whole)
        self.assertNotIn("attended", chunks[0]["choices"][0])

    def test_request_ids(self):
        _, headers, _ = self.call("GET", "/v1/models", headers={"X-Request-Id": "my-id.1"})
        self.assertEqual(headers["X-Request-Id"], "my-id.1")
        _, headers, _ = self.call("GET", "/v1/models", headers={"X-Request-Id": "a b"})
        self.assertNotEqual(headers["X-Request-Id"], "a b")
        self.assertTrue(self.server.wait_for(lambda: any(
            entry["request_id"] == "my-id.1" for entry in self.server.requests_logged())))

    def logged(self, request_id):
        """The log's line of a request, which may come after its answer."""
        def found():
            return [line for line in self.server.requests_logged()
                    if line["request_id"] == request_id]
        self.assertTrue(self.server.wait_for(found), request_id)
        return found()[0]

    def test_the_log(self):
        for stream in (False, True):
            body = {"prompt": HAY, "max_tokens": 3, "stream": stream, **GREEDY}
            self.call("POST", COMPLETIONS, body, {"X-Request-Id": f"log-{stream}"})
            line = self.logged(f"log-{stream}")
            self.assertRegex(line["time"], r"^20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")
            self.assertEqual((line["status"], line["stream"]), (200, stream))
            self.assertEqual((line["prompt_tokens"], line["completion_tokens"]), (len(HAY), 3))
            self.assertLess(0, line["time_to_first_token_s"])
            self.assertLess(line["time_to_first_token_s"], line["duration_s"])
            self.assertNotIn("error_status", line)
        self.call("GET", "/v1/models", headers={"X-Request-Id": "log-models"})
        self.assertFalse({"stream", "time_to_first_token_s"} & set(self.logged("log-models")))

    def test_a_connection_serves_many_requests(self):
        sock = self.connect()
        body = json.dumps({"prompt": "ab", "max_tokens": 1, **GREEDY}).encode()
        request = head(COMPLETIONS, len(body)) + body
        sock.sendall(request * 3)  # and all at once
        text = ""
        while text.count("HTTP/1.1 200 OK") < 3 or not text.endswith("}"):
            piece = sock.recv(65536).decode()
            self.assertTrue(piece, text)
            text += piece

    def test_expect_100_continue(self):
        sock = self.connect()
        body = json.dumps({"prompt": "ab", "max_tokens": 1, **GREEDY}).encode()
        sock.sendall(head(COMPLETIONS, len(body), "Expect: 100-continue", "Connection: close"))
        self.assertEqual(sock.recv(25), b"HTTP/1.1 100 Continue\r\n\r\n")
        sock.sendall(body)
        self.assertIn("HTTP/1.1 200 OK", read_all(sock))

    def test_http_1_0_streams_without_chunks(self):
        sock = self.connect()
        body = json.dumps({"prompt": "ab", "max_tokens": 2, "stream": True, **GREEDY}).encode()
        sock.sendall(head(COMPLETIONS, len(body)).replace(b"HTTP/1.1", b"HTTP/1.0") + body)
        text = read_all(sock)
        self.assertNotIn("chunked", text)
        events(text)

    def test_metrics(self):
        before = self.server.metric("longspan:generation_tokens_total")
        self.post(COMPLETIONS, {"prompt": "abc", "max_tokens": 7, **GREEDY})
        self.assertEqual(self.server.metric("longspan:generation_tokens_total"), before + 7)
        for name in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc",
                     "prompt_tokens_total", "request_success_total",
                     "time_to_first_token_seconds_count", "inter_token_latency_seconds_sum",
                     "e2e_request_latency_seconds_bucket", "request_queue_time_seconds_count",
                     "request_prefill_time_seconds_count", "request_decode_time_seconds_count"):
            self.assertIsNotNone(self.server.metric("longspan:" + name), name)

    # ---- What is wrong ----

    def test_wrong_bodies(self):
        a = {"prompt": "a"}
        kinds = ["`prompt` must be one text, one list of token ids, or a list of at most 64 texts"]
        for path, body, words in [
            (COMPLETIONS, "{", ["not valid JSON at byte 2 of the body"]),
            (COMPLETIONS, "", ["not valid JSON"]),
            (COMPLETIONS, "[]", ["the body must be a JSON object"]),
            (COMPLETIONS, "7", ["the body must be a JSON object"]),
            (COMPLETIONS, '{"prompt":"a"}}', ["not valid JSON"]),
            (COMPLETIONS, '{"prompt":"a"},"url":"x"', ["not valid JSON"]),
            (COMPLETIONS, b'{"prompt":"\xff"}', ["UTF-8"]),
            (COMPLETIONS, '{"prompt":"a","max_tokens":1e400}', ["out of range"]),
            (COMPLETIONS, '{"prompt":"a","max_tokens":99999999999999999999}', ["max_tokens"]),
            (COMPLETIONS, "[" * 100000, ["JSON"]),
            (COMPLETIONS, '{"prompt":' + "[" * 1000, ["JSON"]),
            (COMPLETIONS, {}, ["`prompt` is missing"]),
            (COMPLETIONS, {"prompt": ""}, ["no tokens"]),
            (COMPLETIONS, {"prompt": []}, ["no tokens"]),
            (COMPLETIONS, {"prompt": ["a", 1]}, ["prompt"]),
            (COMPLETIONS, {"prompt": [1, "a"]}, ["prompt"]),
            (COMPLETIONS, {"prompt": [["a"]]}, ["prompt"]),
            (COMPLETIONS, {"prompt": None}, kinds),
            (COMPLETIONS, {"prompt": [[1, 2], [3]]}, kinds),
            (COMPLETIONS, {"prompt": [1, None]}, kinds),
            (COMPLETIONS, {"prompt": [7, -1]}, ["`prompt` has -1, which is no token id"]),
            (COMPLETIONS, {"prompt": [1.5]}, ["`prompt` has 1.5, which is no token id"]),
            (COMPLETIONS, {"prompt": [100000]}, ["token id 100000 is not in the vocabulary"]),
            (COMPLETIONS, {"prompt": ["a"] * 65}, ["64"]),
            (COMPLETIONS, {"prompt": ["a"] * 33, "n": 2}, ["64"]),
            (COMPLETIONS, {"prompt": "a", "n": 0}, ["`n`"]),
            (COMPLETIONS, {"prompt": "a", "n": 2, "temperature": 0}, ["`n`"]),
            (COMPLETIONS, {**a, "max_tokens": -1}, ["max_tokens"]),
            (COMPLETIONS, {**a, "max_tokens": "7"}, ["max_tokens"]),
            (COMPLETIONS, {**a, "max_tokens": 4096}, ["max_model_len 4096"]),
            (COMPLETIONS, {"prompt": "a" * 4096}, ["has 4096 tokens", "max_model_len 4096"]),
            (COMPLETIONS, {"prompt": "a" * 5000}, ["more than 4096 tokens", "max_model_len 4096"]),
            (COMPLETIONS, {**a, "temperature": 3}, ["temperature"]),
            (COMPLETIONS, {**a, "top_p": 0}, ["top_p"]),
            (COMPLETIONS, {**a, "top_k": 1.5}, ["top_k"]),
            (COMPLETIONS, {**a, "stream": 1}, ["stream"]),
            (COMPLETIONS, {**a, "stream_options": {"include_usage": True}}, ["stream_options"]),
            (COMPLETIONS, {**a, "stream": True, "stream_options": 1}, ["stream_options"]),
            (COMPLETIONS, {**a, "stream": True, "stream_options": {"x": 1}}, ["unknown option"]),
            (COMPLETIONS, {**a, "stream": True, "echo": True, "logprobs": 1}, ["echo"]),
            (COMPLETIONS, {**a, "n": 2, "echo": True, "logprobs": 1}, ["echo"]),
            (COMPLETIONS, {**a, "stop": "x" * 2000}, ["stop"]),
            (COMPLETIONS, {**a, "messages": []}, ["messages"]),
            (COMPLETIONS, {**a, "temprature": 1}, ["unknown parameter `temprature`"]),
            (CHAT, {"messages": "a"}, ["messages"]),
            (CHAT, {"messages": []}, []),
            (CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, ["text"]),
            (CHAT, {"prompt": "a"}, []),
            ("/tokenize", {"text": "a"}, ["unknown parameter `text`"]),
            ("/tokenize", {"prompt": 1}, ["prompt"]),
            ("/detokenize", {"tokens": "a"}, ["tokens"]),
            ("/detokenize", {"tokens": [2**40]}, ["`tokens` must be ids from 0", "not %d" % 2**40]),
            ("/detokenize", {"tokens": [0, 1.5]}, ["not 1.5"]),
        ]:
            with self.subTest(path=path, body=str(body)[:80]):
                self.error(self.post(path, body), 400, *words)
        self.assertEqual(self.call("GET", "/health")[0], 200)

    def test_wrong_requests(self):
        self.error(self.post(COMPLETIONS, {"prompt": "a", "model": "gpt-9"}), 404, "gpt-9")
        self.error(self.post("/v2/completions", {}), 404)
        status, _, text = self.call("GET", COMPLETIONS)
        self.error((status, json.loads(text)), 405)
        status, _, text = self.call("POST", COMPLETIONS, "{}", {"Content-Type": "text/plain"})
        self.error((status, json.loads(text)), 415)
        self.error(self.post(COMPLETIONS, {"prompt": "a" * 300000}), 413, "200000 bytes")
        status, _, text = self.call("GET", "/" + "a" * 20000)
        self.assertEqual(status, 431, text)
        status, _, text = self.call("GET", "/health", headers={"X": "a" * 20000})
        self.assertEqual(status, 431, text)

    def test_what_is_not_http(self):
        for bad in (b"hello\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n",
                    b"POST /v1/completions HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
                    b"POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"):
            sock = self.connect()
            sock.sendall(bad)
            self.refused(sock, 400)
        for coding in (b"gzip", b"xchunked", b"chunked, identity"):
            sock = self.connect()
            sock.sendall(b"POST / HTTP/1.1\r\nTransfer-Encoding: " + coding
                         + b"\r\n\r\n0\r\n\r\n")
            self.refused(sock, 501)

    def refused(self, sock, status):
        """Reads an answer that has an error, an id, and a line of the log that says the same."""
        head, _, body = read_all(sock).partition("\r\n\r\n")
        self.assertTrue(head.startswith(f"HTTP/1.1 {status} "), head)
        line = self.logged(re.search(r"X-Request-Id: (\S+)", head)[1])
        self.assertEqual((line["status"], line["error"]),
                         (status, json.loads(body)["error"]["message"]))
        return line

    def test_what_the_connection_refuses_is_logged_and_counted(self):
        sock = self.connect()
        sock.sendall(head(COMPLETIONS, 300000, "X-Request-Id: too-large"))
        line = self.refused(sock, 413)
        self.assertEqual((line["request_id"], line["method"], line["path"]),
                         ("too-large", "POST", COMPLETIONS))
        sock = self.connect()
        sock.sendall(b"GET /v1/models HTTP/1.1\r\nX: " + b"a" * 20000)
        self.assertEqual(self.refused(sock, 431)["path"], "/v1/models")
        _, _, text = self.call("GET", "/metrics")
        self.assertRegex(text, r'http_responses_total{.*status="431"} [1-9]')
        self.assertRegex(text, r'http_responses_total{.*status="413"} [1-9]')

    def test_a_wrong_head_is_refused_before_its_body(self):
        for path, more, status in [("/nothing", (), 404), ("/v1/models", (), 405),
                                   (COMPLETIONS, ("Host: evil.example",), 400),
                                   (COMPLETIONS, ("Content-Length: 9",), 400)]:
            sock = self.connect()
            sock.sendall(head(path, 100000, *more, "Expect: 100-continue"))
            text = read_all(sock)
            self.assertTrue(text.startswith(f"HTTP/1.1 {status} "), (path, more, text))

    def test_a_body_that_never_comes(self):
        sock = self.connect()
        sock.sendall(head(COMPLETIONS, 1000) + b'{"prompt":')
        self.refused(sock, 408)

    def test_a_body_that_comes_slowly(self):
        sock = self.connect()
        sock.sendall(head(COMPLETIONS, 1000))
        with self.assertRaises(OSError):
            for _ in range(100):  # a byte at a time gains nothing
                sock.sendall(b" ")
                time.sleep(0.05)

    def test_a_client_that_leaves_frees_its_cache(self):
        aborted = self.server.metric("longspan:request_success_total")
        sock = self.connect()
        body = json.dumps({"prompt": HAY, "max_tokens": 3700, "stream": True, **GREEDY}).encode()
        sock.sendall(head(COMPLETIONS, len(body)) + body)
        while b"data: " not in sock.recv(4096):
            pass
        sock.close()
        self.assertTrue(self.server.wait_for(
            lambda: self.server.metric("longspan:num_requests_running") == 0))
        self.assertTrue(self.server.wait_for(
            lambda: self.server.metric("longspan:kv_cache_usage_perc") == 0))
        self.assertEqual(self.server.metric("longspan:request_success_total"), aborted + 1)

    def test_a_client_that_stops_sending_counts_as_gone(self):
        sock = self.connect()
        body = json.dumps({"prompt": "half", "max_tokens": 3700, **GREEDY}).encode()
        sock.sendall(head(COMPLETIONS, len(body), "X-Request-Id: half-closed") + body)
        sock.shutdown(socket.SHUT_WR)
        self.assertEqual(read_all(sock), "")
        self.assertTrue(self.server.wait_for(lambda: (499, "half-closed") in [
            (entry["status"], entry["request_id"]) for entry in self.server.requests_logged()]))

    def test_a_client_that_leaves_at_once(self):
        # While its prompt is made, or waits: it must not hold a place for nobody.
        aborted = self.server.metric("longspan:request_success_total")
        small = json.dumps({"prompt": HAY, "max_tokens": 3700, **GREEDY}).encode()
        for _ in range(6):
            sock = self.connect()
            sock.sendall(head(COMPLETIONS, len(small)) + small)
            sock.close()
        self.assertTrue(self.server.wait_for(
            lambda: self.server.metric("longspan:request_success_total") == aborted + 6))
        self.assertTrue(self.server.wait_for(
            lambda: self.server.metric("longspan:num_requests_running") == 0))

    def test_many_unknown_keys_take_no_time(self):
        body = json.dumps({f"key{i}": i for i in range(8000)})
        self.error(self.post("/tokenize", body), 400, "unknown parameter `key0`")
        nested = json.dumps({"prompt": {f"key{i}": i for i in range(8000)}})
        self.error(self.post("/tokenize", nested), 400)

    def test_other_sites_stay_out(self):
        for host in ("evil.example", "localhost.evil.example", "127.0.0.1.evil.example", ""):
            status, _, text = self.call("GET", "/v1/models", headers={"Host": host})
            self.error((status, json.loads(text)), 403, "localhost")
        for host in ("localhost", "localhost:1", "[::1]:8000"):
            self.assertEqual(self.call("GET", "/v1/models", headers={"Host": host})[0], 200)

    def test_a_full_queue(self):
        sockets = []
        body = json.dumps({"prompt": HAY, "max_tokens": 3700, "stream": True, **GREEDY}).encode()
        for _ in range(14):  # 4 run, 8 wait
            sock = self.connect()
            sock.sendall(head(COMPLETIONS, len(body)) + body)
            sockets.append(sock)
        statuses = [sock.recv(12).decode()[-3:] for sock in sockets]
        self.assertEqual(set(statuses), {"200", "429"})
        status, headers, text = self.call("POST", COMPLETIONS, {"prompt": "a"})
        self.error((status, json.loads(text)), 429, "of at most 12")
        self.assertGreaterEqual(int(headers["Retry-After"]), 1)
        for sock in sockets:
            sock.close()
        self.assertTrue(self.server.wait_for(
            lambda: self.post(COMPLETIONS, {"prompt": "a", "max_tokens": 1})[0] == 200))

    def test_more_than_ever_fits(self):
        body = {"prompt": "a", "max_tokens": 1, "temperature": 1, "n": 13}  # 4 run, 8 wait
        self.error(self.post(COMPLETIONS, body), 400, "13 sequences", "at most 12",
                   "max_num_seqs", "server.max_waiting")
        self.error(self.post(COMPLETIONS, {**body, "n": 1, "prompt": ["a"] * 13}), 400, "12")
        self.assertEqual(self.post(COMPLETIONS, {**body, "n": 12})[0], 200)

    def test_neutral_values_of_what_is_not_there(self):
        body = {"prompt": "a", "max_tokens": 1, "suffix": None, "logit_bias": {}, "best_of": 1,
                "repetition_penalty": 1.0, "min_p": 0.0, "presence_penalty": 0}
        self.assertEqual(self.post(COMPLETIONS, body)[0], 200)
        self.error(self.post(COMPLETIONS, {**body, "logit_bias": {"5": 1}}), 400,
                   "`logit_bias` must be {}")

    def test_idle_connections(self):
        idle = [self.connect() for _ in range(200)]
        self.assertEqual(self.call("GET", "/health")[0], 200)
        for sock in idle:
            sock.close()


class SettingsTest(unittest.TestCase):
    def start(self, *settings, **more):
        server = Server(BINARY, SOURCE, settings, **more)
        self.addCleanup(server.stop)
        return server

    def test_api_keys(self):
        server = self.start(environment={"LONGSPAN_API_KEY": "secret"})
        ask = {"prompt": "a", "max_tokens": 1}
        for header, status in (({}, 401), ({"Authorization": "Bearer wrong"}, 401),
                               ({"Authorization": "Bearer secre"}, 401),
                               ({"Authorization": "Bearer "}, 401),
                               ({"Authorization": "secret"}, 401),
                               ({"Authorization": "Bearer secret"}, 200)):
            self.assertEqual(server.post(COMPLETIONS, ask, headers=header)[0], status, header)
        for header, message in (({}, "an API key is needed"),
                                ({"Authorization": "secret"}, "an API key is needed"),
                                ({"Authorization": "Bearer wrong"}, "incorrect API key")):
            error = server.post(COMPLETIONS, ask, headers=header)[1]["error"]
            self.assertIn(message, error["message"])
            self.assertEqual(error["code"], "invalid_api_key")
        self.assertEqual(server.call("GET", "/v1/models")[0], 401)
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as sock:
            sock.sendall(head(COMPLETIONS, 150000))  # no body, and none is waited for
            self.assertTrue(read_all(sock).startswith("HTTP/1.1 401 "))
        for path in ("/health", "/ready", "/version", "/metrics"):
            self.assertEqual(server.call("GET", path)[0], 200)

    def test_a_deadline(self):
        server = self.start("server.request_timeout_s=1", max_model_len=200000)
        long = {"prompt": "ab", "max_tokens": 150000, **GREEDY}
        status, answer = server.post(COMPLETIONS, long)
        self.assertEqual(status, 504, answer)
        chunks = events(server.call("POST", COMPLETIONS, {**long, "stream": True})[2])
        self.assertIn("took longer", chunks[-1]["error"]["message"])
        self.assertTrue(server.wait_for(lambda: len(server.requests_logged()) == 2))
        self.assertEqual([(line["status"], line.get("error_status"))
                          for line in server.requests_logged()], [(504, None), (200, 504)])

    def test_too_many_connections(self):
        server = self.start("server.max_connections=20")
        socks = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(60)]
        self.assertEqual(server.call("GET", "/health")[0], 200)
        socks[0].settimeout(10)
        self.assertEqual(socks[0].recv(1), b"")  # idle longest: closed
        for sock in socks:
            sock.close()

    def test_stopping_ends_what_runs(self):
        server = self.start("server.drain_timeout_s=60")
        sock = socket.create_connection(("127.0.0.1", server.port), timeout=60)
        body = json.dumps({"prompt": HAY, "max_tokens": 200, "stream": True, **GREEDY}).encode()
        sock.sendall(head(COMPLETIONS, len(body), "Connection: close") + body)
        text = sock.recv(10).decode()
        self.assertEqual(server.stop(), 0)
        events(text + read_all(sock))
        sock.close()

    def test_stopping_is_told_at_once(self):
        server = self.start("server.drain_timeout_s=60", max_model_len=200000)
        sock, _ = server.stream({"prompt": "a", "max_tokens": 150000, **GREEDY, "stream": True})
        os.kill(server.rank0, signal.SIGTERM)
        self.assertTrue(server.wait_for(lambda: any(
            "stopping: 1 under way, for at most 60 s" in line for line in server.log)))
        status, _, text = server.call("GET", "/ready")
        self.assertEqual((status, json.loads(text)["error"]["message"]),
                         (503, "the server is stopping"))
        sock.close()  # it waits for nobody else
        self.assertEqual(server.process.wait(60), 0)

    def test_stopping_waits_only_so_long(self):
        server = self.start("server.drain_timeout_s=0", max_model_len=200000)
        sock = socket.create_connection(("127.0.0.1", server.port), timeout=60)
        body = json.dumps({"prompt": "a", "max_tokens": 150000, "stream": True, **GREEDY}).encode()
        sock.sendall(head(COMPLETIONS, len(body), "Connection: close") + body)
        text = sock.recv(10).decode()
        self.assertEqual(server.stop(), 0)
        text += read_all(sock)
        self.assertIn("the server stopped", text)
        sock.close()

    def test_a_port_that_is_taken(self):
        server = self.start()
        with self.assertRaisesRegex(RuntimeError, "cannot listen on .*choose another"):
            Server(BINARY, SOURCE, [f"server.port={server.port}"])

    def test_a_key_file_that_others_read(self):
        path = "/tmp/longspan_keys_%d" % os.getpid()
        with open(path, "w") as file:
            file.write("# keys\nk1\n")
        self.addCleanup(os.remove, path)
        os.chmod(path, 0o644)
        with self.assertRaisesRegex(RuntimeError, "others can read it"):
            Server(BINARY, SOURCE, [f"server.api_key_file={path}"])
        os.chmod(path, 0o600)
        server = self.start(f"server.api_key_file={path}")
        self.assertEqual(server.call("GET", "/v1/models",
                                     headers={"Authorization": "Bearer k1"})[0], 200)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1] + sys.argv[3:])
