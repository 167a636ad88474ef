"""Hosts that are namespaces are apart as machines are, and leave nothing behind.

hosts_test.py MPIRUN...
"""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import unittest

import hosts

MPIRUN = sys.argv[1:]
SKIPPED = 77
# Runs something on a host, says what, and waits to be killed.
HOLDER = """
import subprocess, sys, time
sys.path.insert(0, {path!r})
import hosts
with hosts.create(2, delay=0.001) as net:
    sleep = subprocess.Popen([*net.on(1), "sleep", "1000"])
    while "sleep 1000" not in net.processes(1).values():
        time.sleep(0.01)
    print(net.command(sleep), net.directory, flush=True)
    sleep.wait()
"""


def output(net, host, *command):
    return subprocess.run([*net.on(host), *command], capture_output=True, text=True,
                          check=True).stdout


def connect(net, listener, connector):
    """Two ends of a connection between hosts."""
    with net.network(listener), socket.create_server((net.addresses[listener], 0)) as server:
        with net.network(connector):
            there = socket.create_connection(server.getsockname()[:2], timeout=20)
        here, _ = server.accept()
    for end in (here, there):
        end.settimeout(20)
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return here, there


class HostsTest(unittest.TestCase):
    def test_they_share_files_and_nothing_else(self):
        with hosts.create(2) as net:
            self.assertEqual(output(net, 1, "hostname"), "node1\n")
            self.assertEqual(output(net, 1, "pwd"), os.getcwd() + "\n")
            addresses = output(net, 1, "ip", "-brief", "address")
            self.assertIn("10.0.0.2/24", addresses)
            self.assertNotIn("10.0.0.1/24", addresses)
            output(net, 0, "sh", "-c", "echo > /dev/shm/mine; echo > $TMPDIR/mine")
            self.assertEqual(output(net, 0, "sh", "-c", "ls /dev/shm $TMPDIR").count("mine"), 2)
            self.assertNotIn("mine", output(net, 1, "sh", "-c", "ls /dev/shm $TMPDIR"))
            self.assertFalse(os.path.exists("/dev/shm/mine"))

    def test_mpirun_takes_them_for_machines(self):
        with hosts.create(3) as net:
            done = subprocess.run([*net.mpirun(MPIRUN, 2), "sh", "-c", "hostname; ls -d $TMPDIR"],
                                  capture_output=True, text=True)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertEqual(sorted(line for line in done.stdout.split() if "node" in line),
                             ["node0", "node0", "node1", "node1", "node2", "node2"])
            self.assertEqual(done.stdout.count(f"{net.directory}/tmp"), 6)

    def test_a_cut_is_silent_and_a_restored_link_goes_on(self):
        with hosts.create(3) as net:
            here, there = connect(net, 0, 1)
            other, another = connect(net, 0, 2)
            with here, there, other, another:
                net.cut(1)
                here.sendall(b"a")
                there.sendall(b"b")
                other.sendall(b"c")
                self.assertEqual(another.recv(1), b"c")
                for end in (here, there):
                    end.settimeout(0.5)
                    self.assertRaises(TimeoutError, end.recv, 1)  # and not an error of the socket
                    end.settimeout(20)
                net.restore(1)
                self.assertEqual((there.recv(1), here.recv(1)), (b"a", b"b"))

    def test_a_rate_is_not_exceeded(self):
        size = 1 << 20
        with hosts.create(2, rate=1e7) as net:
            here, there = connect(net, 0, 1)
            with here, there:
                for source, sink in ((here, there), (there, here)):
                    start = time.monotonic()
                    sender = threading.Thread(target=source.sendall, args=(bytes(size),))
                    sender.start()
                    left = size
                    while left > 0:
                        left -= len(sink.recv(left))
                    sender.join()
                    # But for what each of the two links lets pass at once.
                    self.assertGreater(time.monotonic() - start, (size - (256 << 10)) * 8 / 1e7)

    def test_a_delay_is_there_and_large_messages_pass_it(self):
        with hosts.create(2, delay=0.02) as net:
            here, there = connect(net, 0, 1)
            with here, there:
                start = time.monotonic()
                here.sendall(b"a")
                there.sendall(there.recv(1))
                self.assertEqual(here.recv(1), b"a")
                self.assertGreaterEqual(time.monotonic() - start, 0.04)
                data = os.urandom(5 << 20)
                sender = threading.Thread(target=here.sendall, args=(data,))
                sender.start()
                arrived = b""
                while len(arrived) < len(data):
                    arrived += there.recv(len(data))
                sender.join()
                self.assertEqual(arrived, data)

    def test_they_end_with_the_process_that_made_them(self):
        for sign in (signal.SIGTERM, signal.SIGKILL):
            with self.subTest(signal=sign):
                path = os.path.dirname(os.path.abspath(hosts.__file__))
                with subprocess.Popen([sys.executable, "-c", HOLDER.format(path=path)],
                                      stdout=subprocess.PIPE, text=True) as holder:
                    pid, directory = holder.stdout.readline().split()
                    self.assertTrue(os.path.exists(f"/proc/{pid}"))
                    holder.send_signal(sign)
                    holder.wait(20)
                    end = time.monotonic() + 20
                    while os.path.exists(f"/proc/{pid}") or os.path.exists(directory):
                        self.assertLess(time.monotonic(), end)
                        time.sleep(0.05)


if __name__ == "__main__":
    try:
        with hosts.create(1, rate=1e8, delay=0.001):
            pass
    except (hosts.Unavailable, RuntimeError) as error:
        print(f"skipped: {error}")
        sys.exit(SKIPPED)
    unittest.main(argv=sys.argv[:1])
