"""A wire with a length: what comes in at one interface goes out at the other SECONDS later.

delay.py SECONDS INTERFACE INTERFACE. Linux's netem does so too, but many kernels come without it.
"""

import collections
import contextlib
import ctypes
import os
import select
import socket
import sys
import time

ETH_P_ALL = 3
SOL_PACKET, PACKET_VNET_HDR, PACKET_IGNORE_OUTGOING = 263, 15, 23
SO_SNDBUFFORCE, SO_RCVBUFFORCE = 32, 33
PR_SET_TIMERSLACK = 29
MOST_BYTES = 1 << 17  # of a frame, with segments that are still one


def interface(name):
    end = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    # Frames keep the notes of what the sender's kernel left to do: to segment them, to sum them up.
    end.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
    end.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    end.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 26)
    end.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, 1 << 26)
    end.bind((name, ETH_P_ALL))
    end.setblocking(False)
    return end


def main():
    seconds = float(sys.argv[1])
    ends = [interface(name) for name in sys.argv[2:]]
    ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, 1)
    # Before programs that compute: their time is not the wire's.
    with contextlib.suppress(OSError):  # containers may forbid it
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    print("ready", os.getpid(), flush=True)
    frames = collections.deque()  # (when it is due, where it goes, what)
    while True:
        wait = max(0, frames[0][0] - time.monotonic()) if frames else None
        readable, _, _ = select.select(ends, [], [], wait)
        for end in readable:
            frames.append((time.monotonic() + seconds, ends[1 - ends.index(end)],
                           end.recv(MOST_BYTES)))
        while frames and frames[0][0] <= time.monotonic():
            _, end, frame = frames.popleft()
            try:
                end.send(frame)
            except OSError:  # the cable is out, or the queue full: the frame is lost
                pass


main()
