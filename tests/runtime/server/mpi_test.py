"""The server as MPI ranks: stopped in order, and robbed of a rank.

mpi_test.py BINARY SOURCE_DIR MPIRUN...
"""

import os
import re
import shutil
import signal
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from serving import Server  # noqa: E402

BINARY, SOURCE, *MPIRUN = sys.argv[1:]
COMPLETIONS = "/v1/completions"
LONG = {"prompt": "needle in hay. ", "max_tokens": 150000, "temperature": 0, "ignore_eos": True,
        "stream": True}


class MpiTest(unittest.TestCase):
    def start(self, *settings, ranks=3):
        server = Server(BINARY, SOURCE, settings, command=[*MPIRUN, "-n", str(ranks)], ranks=ranks,
                        max_model_len=200000)
        self.addCleanup(server.stop)
        return server

    def stream(self, server, body):
        sock, text = server.stream(body)
        self.addCleanup(sock.close)
        return sock, text

    def rest(self, sock, text):
        try:
            while piece := sock.recv(65536):
                text += piece
        except ConnectionResetError:
            pass
        return text.decode()

    def ranks(self, server):
        """Process ids of the ranks, in the order in which mpirun started them."""
        pid = server.process.pid
        with open(f"/proc/{pid}/task/{pid}/children") as children:
            return sorted(map(int, children.read().split()))

    def test_a_signal_to_all_ranks_stops_in_order(self):
        server = self.start("server.drain_timeout_s=60")
        sock, text = self.stream(server, {**LONG, "max_tokens": 300})
        for rank in self.ranks(server):  # as systemd tells all of a unit's processes
            os.kill(rank, signal.SIGUSR1)
        self.assertEqual(server.stop(), 0)
        self.assertTrue(self.rest(sock, text).rstrip().endswith("0"))  # the last chunk
        self.assertIn("[rank 0] [info] stopped\n", server.log)

    def test_a_restart_answers_again_with_the_saved_prefixes(self):
        directory = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, directory, True)
        document = {"prompt": "A document of some length. " * 100, "max_tokens": 20,
                    "temperature": 0, "ignore_eos": True}
        answers = []
        for ranks in (3, 3, 2):
            server = self.start(f"kv_cache.prefix_dir={directory}", ranks=ranks)
            status, answer = server.post(COMPLETIONS, document)
            self.assertEqual(status, 200)
            cached = answer["usage"]["prompt_tokens_details"]["cached_tokens"]
            answers.append((answer["choices"][0]["text"], cached))
            self.assertEqual(server.stop(), 0, server.log)
        prompt = answer["usage"]["prompt_tokens"]
        self.assertEqual(answers[0][1], 0)
        self.assertEqual({text for text, _ in answers}, {answers[0][0]})
        for _, cached in answers[1:]:
            self.assertGreater(cached, prompt - 9)  # but for a part of a block
        # A rank that dies takes nothing of them along.
        server = self.start(f"kv_cache.prefix_dir={directory}")
        sock, text = self.stream(server, LONG)
        os.kill(self.ranks(server)[1], signal.SIGKILL)
        self.rest(sock, text)
        self.assertNotEqual(server.stop(), 0)
        server = self.start(f"kv_cache.prefix_dir={directory}")
        _, answer = server.post(COMPLETIONS, document)
        self.assertEqual((answer["choices"][0]["text"],
                          answer["usage"]["prompt_tokens_details"]["cached_tokens"]), answers[1])
        self.assertEqual(server.stop(), 0, server.log)

    def test_metrics_of_every_rank(self):
        server = self.start()
        body = {"prompt": "needle in hay. " * 20, "max_tokens": 2, "temperature": 0}

        def all_have_waited():
            self.assertEqual(server.post(COMPLETIONS, body)[0], 200)
            _, _, text = server.call("GET", "/metrics")
            waits = re.findall(r'^longspan:(ring|merge)_wait_seconds_total{.*rank="(\d)".*} (\S+)$',
                               text, re.MULTILINE)
            self.assertEqual(sorted(wait[:2] for wait in waits),
                             [(name, rank) for name in ("merge", "ring") for rank in "012"])
            return all(float(seconds) > 0 for _, _, seconds in waits)

        # They are gathered with the first step, which selects nothing, and then once a second.
        self.assertTrue(server.wait_for(all_have_waited))
        attended, dense = (server.metric(f"longspan:{name}_keys_total") for name in
                           ("attended", "dense"))
        self.assertTrue(0 < attended < dense, (attended, dense))

    def lose(self, sign, said):
        server = self.start()
        sock, text = self.stream(server, LONG)
        victim = self.ranks(server)[1]
        os.kill(victim, sign)
        text = self.rest(sock, text)
        self.assertFalse(text.endswith("\r\n0\r\n\r\n"))  # clients see that it is not whole
        self.assertTrue(server.wait_for(lambda: server.process.poll() is not None, 30))
        self.assertNotEqual(server.process.returncode, 0)
        server.stop()
        self.assertTrue(re.search(rf"longspan: rank 0 ends: rank \d on \S+ {said}",
                                  "".join(server.log)), server.log)

    def test_a_rank_that_is_killed(self):
        self.lose(signal.SIGKILL, "has ended")

    def test_a_rank_that_hangs(self):
        self.lose(signal.SIGSTOP, "was not heard of for 6s")


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
