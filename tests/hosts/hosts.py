"""Several hosts on one machine: namespaces of Linux with virtual links, which can be slow, and cut.

    with hosts.create(4, rate=1e9, delay=0.0005) as net:
        subprocess.run(net.mpirun(["mpirun"], ranks_per_host=2) + ["longspan", "generate", ...])
        net.cut(3)

A host has its own network, name, shared memory and $TMPDIR, so that its link alone connects it to the
others, and mpirun takes it for a machine. Files are shared. It needs root. All of it is held by
processes that end with this one, however that ends: Linux then kills what runs on the hosts and
removes their links. So nothing of it has a name on the machine, and several may be there at a time.
"""

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile

DELAY = os.path.join(os.path.dirname(os.path.abspath(__file__)), "delay.py")
LIBC = ctypes.CDLL(None, use_errno=True)
APART = ["--mount", "--uts", "--ipc", "--net"]  # what each host has of its own

# Process 1 of the hosts and of the switch between them. Lives until its standard input ends. Nobody
# else waits for orphans.
SWITCH = """set -e
ip link add bridge type bridge
ip link set bridge up
echo ready $$
exec env --ignore-signal=CHLD sh -c 'while read -r _; do :; done; exec rm -rf {directory}'
"""
# Holds a host's namespaces, as long. $1: its name.
HOST = """set -e
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs {directory}/tmp
mount --bind {directory}/hosts /etc/hosts
hostname "$1"
ip link set lo up
echo ready $$
exec cat
"""
ON = """exec nsenter --target {pid} {apart} --pid -- \
env --chdir="$PWD" TMPDIR={directory}/tmp "$@"
"""
# mpirun calls it on a host, as it calls ssh elsewhere: `agent HOST COMMAND...`
AGENT = """#!/bin/sh
pid=$(cat {directory}/$1)
shift
exec nsenter --target "$pid" {apart} -- env TMPDIR={directory}/tmp sh -c "$*"
"""


class Unavailable(Exception):
    """This user or this machine can have no such hosts; says why."""


@contextlib.contextmanager
def create(count, rate=None, delay=0):
    """`count` hosts on one switch. `rate`: of each host's link, in bits a second, either way.
    `delay`: seconds from one host to another, to which some 50 microseconds of this machine come.
    """
    if os.geteuid() != 0:
        raise Unavailable("only root can have namespaces")
    for program in ("ip", "nsenter", "tc", "unshare"):
        if shutil.which(program) is None:
            raise Unavailable(f"there is no `{program}`")
    net = Hosts(count)
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        net._start(rate, delay)
        yield net
    finally:
        net._stop()
        signal.signal(signal.SIGTERM, before)


class Hosts:
    """What create() gives. Hosts count from 0; node0 is the name of the first, 10.0.0.1 its address."""

    def __init__(self, count):
        self.names = [f"node{host}" for host in range(count)]
        self.addresses = [f"10.0.0.{host + 1}" for host in range(count)]
        self.directory = tempfile.mkdtemp(prefix="hosts-")
        self.holders = []  # what has been started
        self.switch = None  # process id
        self.pids = []  # [host] of what holds it

    def on(self, host):
        """What comes before a command, to run it there in the current directory."""
        return ["sh", "-c", ON.format(pid=self.pids[host], apart=" ".join(APART),
                                      directory=self.directory), "sh"]

    def mpirun(self, mpirun, ranks_per_host):
        """What comes before a program, to run it on all hosts. `mpirun`: the command and its flags."""
        slots = ",".join(f"{name}:{ranks_per_host}" for name in self.names)
        return [*self.on(0), *mpirun, "-n", str(ranks_per_host * len(self.names)), "--host", slots,
                "--mca", "plm_rsh_agent", os.path.join(self.directory, "agent")]

    def command(self, process):
        """The process id of the command of on() that `process` started, which signals are meant for."""
        return _child(process.pid)

    def kill(self, host, pid, sign):
        """The process that has this id on the host: hosts count them apart."""
        subprocess.run([*self.on(host), "kill", f"-{int(sign)}", str(pid)], check=False)

    @contextlib.contextmanager
    def network(self, host):
        """Sockets that this thread opens meanwhile are the host's."""
        with open("/proc/thread-self/ns/net") as own:
            with open(f"/proc/{self.pids[host]}/ns/net") as network:
                _enter(network)
            try:
                yield
            finally:
                _enter(own)

    def cut(self, host):
        """Pulls the cable out of the switch: packets vanish, and connections are not told."""
        self._on_switch("ip", "link", "set", f"port{host}", "down")

    def restore(self, host):
        self._on_switch("ip", "link", "set", f"port{host}", "up")

    def processes(self, host):
        """{process id: command line} of what runs there."""
        network = os.readlink(f"/proc/{self.pids[host]}/ns/net")
        found = {}
        for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
            with contextlib.suppress(OSError):  # it has ended
                if pid != self.pids[host] and os.readlink(f"/proc/{pid}/ns/net") == network:
                    with open(f"/proc/{pid}/cmdline") as line:
                        found[pid] = line.read().replace("\0", " ").strip()
        return found

    def _start(self, rate, delay):
        os.mkdir(os.path.join(self.directory, "tmp"))
        names = [f"{a} {n}\n" for a, n in zip(self.addresses, self.names)]
        self._write("hosts", "127.0.0.1 localhost\n" + "".join(names))
        agent = self._write("agent", AGENT.format(directory=self.directory, apart=" ".join(APART)))
        os.chmod(agent, 0o700)
        try:
            self.switch, _ = self._hold(["unshare", "--mount", "--net", "--pid", "--fork",
                                         "--mount-proc", "sh", "-c",
                                         SWITCH.format(directory=self.directory)])
        except RuntimeError as error:
            raise Unavailable(f"namespaces or a bridge are refused: {error}") from None
        inside = ["nsenter", "--target", str(self.switch), "--mount", "--net", "--pid"]
        for name in self.names:
            pid, pid_inside = self._hold([*inside, "unshare", *APART, "sh", "-c",
                                          HOST.format(directory=self.directory), "sh", name])
            self._write(name, pid_inside)
            self.pids.append(pid)
        for host in range(len(self.names)):
            self._link(host, rate, delay / 2)  # a packet passes two links

    def _write(self, name, text):
        path = os.path.join(self.directory, name)
        with open(path, "w") as file:
            file.write(text)
        return path

    def _hold(self, command):
        """Process ids, here and among the hosts, of what the command starts: it has said "ready"."""
        holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE, text=True)
        self.holders.append(holder)
        ready, _, pid_inside = holder.stdout.readline().partition(" ")
        if ready != "ready":
            raise RuntimeError(holder.stderr.read().strip())
        return _child(holder.pid), pid_inside

    def _link(self, host, rate, delay):
        """eth0 of the host to portN of the bridge: a cable, or two with a delay between them."""
        port = plug = f"port{host}"
        if delay:
            plug, socket = f"plug{host}", f"socket{host}"
            self._on_switch("ip", "link", "add", port, "type", "veth", "peer", socket)
            self._on_switch("ip", "link", "set", socket, "up")
        self._on_switch("ip", "link", "add", plug, "type", "veth",
                        "peer", "eth0", "netns", str(self.pids[host]))
        self._on_switch("ip", "link", "set", plug, "up")
        self._on_switch("ip", "link", "set", port, "master", "bridge", "up")
        _run(*self.on(host), "ip", "address", "add", f"{self.addresses[host]}/24", "dev", "eth0")
        _run(*self.on(host), "ip", "link", "set", "eth0", "up")
        if rate:
            burst = max(128 << 10, int(rate / 8 * 0.0005))  # bytes; less would slow fast links down
            limit = ["root", "tbf", "rate", f"{int(rate)}bit", "burst", f"{burst}b",
                     "latency", "50ms"]
            self._on_switch("tc", "qdisc", "add", "dev", port, *limit)
            _run(*self.on(host), "tc", "qdisc", "add", "dev", "eth0", *limit)
        if delay:
            self._hold(["nsenter", "--target", str(self.switch), "--net", "--pid", sys.executable,
                        DELAY, str(delay), plug, socket])

    def _on_switch(self, *command):
        # In its network alone: `ip` must know the hosts' process ids.
        _run("nsenter", "--target", str(self.switch), "--net", *command)

    def _stop(self):
        for holder in self.holders:
            holder.stdin.close()
        for holder in self.holders:
            holder.wait()
            holder.stdout.close()
            holder.stderr.close()
        shutil.rmtree(self.directory, ignore_errors=True)  # if it did not start


def _run(*command):
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")


def _child(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as children:
        return int(children.read().split()[0])


def _enter(namespace):
    if LIBC.setns(namespace.fileno(), 0) != 0:
        raise OSError(ctypes.get_errno(), "setns")
