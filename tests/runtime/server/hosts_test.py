"""The server on several hosts: answers as one rank alone, and what happens when a host is cut off.

hosts_test.py BINARY SOURCE_DIR MPIRUN...
"""

import os
import sys
import time
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "../../hosts")]
import hosts  # noqa: E402
from serving import Server  # noqa: E402

BINARY, SOURCE, *MPIRUN = sys.argv[1:]
NEEDLE = os.path.join(SOURCE, "models/needle")
# As README.md and launcher/deploy say: with these mpirun gives up a host after four seconds.
KEEPALIVE = ["--mca", "oob_tcp_keepalive_time", "1", "--mca", "oob_tcp_keepalive_intvl", "1",
             "--mca", "oob_tcp_keepalive_probes", "3"]
SKIPPED = 77
LONG = {"prompt": "needle in hay. ", "max_tokens": 150000, "temperature": 0, "ignore_eos": True,
        "stream": True}


class HostsTest(unittest.TestCase):
    def start(self, command=(), ranks=1, **more):
        server = Server(BINARY, SOURCE, command=command, ranks=ranks, max_model_len=200000,
                        model=NEEDLE, **more)
        self.addCleanup(server.stop)
        return server

    def start_on(self, net, ranks_per_host, flags=KEEPALIVE):
        with net.network(0):
            return self.start(net.mpirun([*MPIRUN, *flags], ranks_per_host),
                              ranks_per_host * len(net.names),
                              kill=lambda pid, sign: net.kill(0, pid, sign))

    def answer(self, server):
        with open(os.path.join(NEEDLE, "demo/document.txt")) as file:
            document = file.read(9000)  # more than is attended to
        status, answer = server.post("/v1/completions", {
            "prompt": document, "max_tokens": 24, "temperature": 0, "ignore_eos": True,
            "logprobs": 1})
        self.assertEqual(status, 200)
        return answer["choices"]

    def test_an_answer_is_that_of_one_rank(self):
        alone = self.answer(self.start())
        for count, ranks_per_host in ((2, 2), (4, 1)):
            with self.subTest(hosts=count), hosts.create(count) as net:
                server = self.start_on(net, ranks_per_host)
                with net.network(0):
                    self.assertEqual(self.answer(server), alone)
                self.assertEqual(server.stop(), 0)
                self.assertIn("[rank 0] [info] stopped\n", server.log)

    def stream(self, server):
        sock, _ = server.stream(LONG)
        self.addCleanup(sock.close)
        return sock

    def end_of(self, sock):
        """The end of a stream, which has one at most ten seconds later."""
        sock.settimeout(10)
        text = b""
        try:
            while piece := sock.recv(65536):
                text = (text + piece)[-1000:]
        except ConnectionResetError:
            pass
        return text

    def lose(self, count, ranks_per_host, victim, lost_ranks):
        """What is said when the host is cut off while two clients read their answers."""
        with hosts.create(count) as net:
            server = self.start_on(net, ranks_per_host)
            with net.network(0):
                streams = [self.stream(server) for _ in range(2)]
            self.assertTrue(all(net.processes(host) for host in range(count)))
            cut = time.monotonic()
            net.cut(victim)
            for sock in streams:
                self.assertFalse(self.end_of(sock).endswith(b"\r\n0\r\n\r\n"))  # it is not whole
            # Ten seconds are what README.md promises.
            self.assertTrue(server.wait_for(lambda: server.process.poll() is not None,
                                            cut + 10 - time.monotonic()), server.log)
            print(f"cut to end: {time.monotonic() - cut:.2f} s", file=sys.stderr)
            self.assertNotEqual(server.process.returncode, 0)
            for host in range(count):  # nothing stays, on the host that is cut off neither
                self.assertTrue(server.wait_for(lambda: not net.processes(host), 5),
                                net.processes(host))
            server.reader.join(10)
            log = "".join(server.log)
            for rank in lost_ranks:
                self.assertRegex(log, rf"not heard of for 2s: .*rank {rank} on node\d")
        return log

    def test_a_host_of_several_ranks_is_cut_off(self):
        log = self.lose(2, 2, victim=1, lost_ranks=(2, 3))
        self.assertRegex(log, "rank 2 on node1")
        self.assertNotRegex(log, "would wait for a host")

    def test_one_of_four_hosts_is_cut_off(self):
        log = self.lose(4, 1, victim=2, lost_ranks=(2,))
        self.assertNotRegex(log, "not heard of .*rank [13]")

    def test_the_host_of_mpirun_and_rank_0_is_cut_off(self):
        self.lose(3, 1, victim=0, lost_ranks=(1, 2))

    def test_without_keepalive_all_but_mpirun_end(self):
        with hosts.create(2) as net:
            server = self.start_on(net, 1, flags=())
            self.assertIn("mpirun would wait for a host", "".join(server.log))
            with net.network(0):
                sock = self.stream(server)
            net.cut(1)
            self.assertFalse(self.end_of(sock).endswith(b"\r\n0\r\n\r\n"))
            self.assertTrue(server.wait_for(lambda: "longspan: rank 0 ends: rank 1 on node1 was "
                                            "not heard of for 6s\n" in server.log))
            self.assertTrue(server.wait_for(lambda: not net.processes(1)), net.processes(1))


if __name__ == "__main__":
    try:
        with hosts.create(1):
            pass
    except hosts.Unavailable as error:
        print(f"skipped: {error}")
        sys.exit(SKIPPED)
    unittest.main(argv=sys.argv[:1])
