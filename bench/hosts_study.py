#!/usr/bin/env python3
"""How much of the ring's exchange the ranks' attention hides, on links of several speeds.

Two hosts are made on this machine (tests/hosts/hosts.py: namespaces of Linux, with links whose rate
and delay are set), with a rank on each. On each link `longspan bench collectives` measures what the
ring's messages cost alone, and `longspan scale point` how long ranks wait for them while they
attend. It needs root and two cores. The ranks share a machine, so that these are checks of the
overlap and of the model of time, never speed-ups.

    bench/hosts_study.py --longspan build/cpu/launcher/longspan
    bench/hosts_study.py --longspan ... --link 1e9:0.0005 --link 1e8:0.0001 --job dense:8192 \\
        --rounds 5 --format json > study.json

A row is a job on a link; times are of one prompt, medians over the rounds:
  floor    what the ring's bytes and messages take at the link's set rate and delay: no exchange is
           shorter
  bench    the same at the rate and latency that the bench measured, the shortest of its runs
  attend   a rank's attention, behind which the exchange can hide (mean of the ranks)
  wait     in the ring for keys that had not arrived (mean of the ranks)
  late     the same on a link without limits: what is left is the other rank's lateness
  hidden   of the floor: at least 1 - wait/floor, at most 1 - (wait - late)/floor, for a rank may
           wait for the other and for the link at once
  model    the wait that follows from floor and attend if the exchange hides behind 7/8 of the
           attention: a message of eight is on its way while what the one before brought is attended
           to, and nothing is left to hide behind what the last one brings
"""

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys

REPOSITORY = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(REPOSITORY, "tests/hosts"))
import hosts  # noqa: E402

RANKS = 2
STEPS = 8  # kPromptRingSteps of sharding/ring_schedule.h
FREE = (None, 0.0)  # a link without limits
SMALL, LARGE, LARGEST = 4 << 10, 1 << 20, 16 << 20  # bytes of the bench's ring steps
CALL = "ring.step"
COLUMNS = (("job", "{}"), ("link", "{}"), ("bytes", "{:.1f} MB"), ("attend_s", "{:.3f}"),
           ("floor_s", "{:.3f}"), ("bench_s", "{:.3f}"), ("wait_s", "{:.3f}"), ("late_s", "{:.3f}"),
           ("hidden_least", "{:.0%}"), ("hidden_most", "{:.0%}"), ("model_wait_s", "{:.3f}"),
           ("model_hidden", "{:.0%}"))


def run(command):
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
    if done.returncode != 0:
        sys.exit(f"hosts_study.py: {shlex.join(command)}: exit code {done.returncode}\n{done.stderr}")
    return json.loads(done.stdout)


def measure_link(net, options):
    """Latency in seconds and rate in bytes a second of the ring's messages, with nothing beside."""
    report = run([*net.mpirun(options.mpirun, 1), options.longspan, "bench", "collectives",
                  "--config", options.config, "--repeat", "7", "--format", "json"])
    steps = {int(row["bytes"]): row["min_us"] / 1e6 for row in report["rows"]
             if row["name"] == "ring step"}
    return {"latency_s": steps[SMALL],
            "bytes_per_s": (LARGEST - LARGE) / (steps[LARGEST] - steps[LARGE])}


def measure_job(net, options, job):
    """What one prompt takes, with keys that move."""
    method, context = job
    point = run([*net.mpirun(options.mpirun, 1), options.longspan, "scale", "point",
                 "--config", options.config, "--method", method, "--context", str(context),
                 "--decode", "1", "--progress", "off",
                 "--set", f"prefill.chunk_tokens={context}",
                 "--set", f"parallel.stripe_tokens={options.stripe}"])
    ranks = [rank["prefill"] for rank in point["phases"]]
    calls = [rank["calls"].get(CALL) for rank in ranks]
    if not all(calls):
        sys.exit(f"hosts_study.py: {method}:{context}: keys do not move: use a shorter context")
    return {"attend_s": statistics.mean(rank["phases_s"]["attend"] for rank in ranks),
            "wait_s": statistics.mean(call["seconds_waited"] for call in calls),
            "bytes": max(call["bytes_sent"] for call in calls),
            "messages": calls[0]["calls"]}


def row_of(job, link, measured, runs, free_runs):
    row = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
    rate, delay = link

    def exchange(latency_s, bytes_per_s):
        return row["messages"] * latency_s + row["bytes"] / bytes_per_s

    behind = row["attend_s"] * (STEPS - 1) / STEPS
    row["late_s"] = statistics.median(run["wait_s"] for run in free_runs)
    row |= {"job": "{} {}".format(*job), "link": f"{rate / 1e6:g} Mbit/s, {delay * 1e3:g} ms",
            "rounds": len(runs), "bench_s": exchange(**measured),
            "floor_s": exchange(delay, rate / 8)}
    row["model_wait_s"] = max(0.0, row["floor_s"] - behind)
    row["hidden_least"] = 1 - row["wait_s"] / row["floor_s"]
    row["hidden_most"] = 1 - max(0.0, row["wait_s"] - row["late_s"]) / row["floor_s"]
    row["model_hidden"] = 1 - row["model_wait_s"] / row["floor_s"]
    return row


def study(options):
    """Rounds go through all links and jobs, so that what else the machine does meets all alike."""
    links, runs = {}, {}
    for number in range(options.rounds):
        for link in [FREE, *options.link]:
            rate, delay = link
            with hosts.create(RANKS, rate=rate, delay=delay) as net:
                if link != FREE and link not in links:
                    links[link] = measure_link(net, options)
                for job in options.job:
                    limits = f"{rate:g} bit/s, {delay:g} s" if rate else "no limits"
                    print(f"round {number + 1} of {options.rounds}: {limits}, "
                          "{} {}".format(*job), file=sys.stderr)
                    runs.setdefault((job, link), []).append(measure_job(net, options, job))
    return {"links": [{"rate_bit_s": link[0], "delay_s": link[1], **measured}
                      for link, measured in links.items()],
            "rows": [row_of(job, link, links[link], of, runs[job, FREE])
                     for (job, link), of in runs.items() if link != FREE]}


def print_table(results):
    for link in results["links"]:
        print("link of {rate_bit_s:g} bit/s and {delay_s:g} s: measured {0:g} Mbit/s, "
              "{1:.2f} ms a message".format(link["bytes_per_s"] * 8e-6, link["latency_s"] * 1e3,
                                            **link))
    lines = [[name for name, _ in COLUMNS]]
    lines += [[form.format(row[name] / 1e6 if name == "bytes" else row[name])
               for name, form in COLUMNS] for row in results["rows"]]
    widths = [max(map(len, column)) for column in zip(*lines)]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip())


def link_of(text):
    rate, _, delay = text.partition(":")
    if float(rate) <= 0 or float(delay or 0) < 0:
        raise ValueError
    return float(rate), float(delay or 0)


def job_of(text):
    method, _, context = text.partition(":")
    if method not in ("dense", "esa"):
        raise ValueError
    return method, int(context)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--longspan", required=True, help="the program")
    parser.add_argument("--mpirun", type=shlex.split, default="mpirun --bind-to none",
                        help="starts ranks: a command and its flags, without -n")
    parser.add_argument("--config", default="configs/needle.yaml")
    parser.add_argument("--link", type=link_of, action="append", metavar="BIT_PER_S:SECONDS",
                        help="several may be given (1e9:0.0005 and 1e8:0.0001)")
    parser.add_argument("--job", type=job_of, action="append", metavar="METHOD:TOKENS",
                        help="dense or esa, and a prompt; several may be given")
    parser.add_argument("--stripe", type=int, default=256, help="parallel.stripe_tokens")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each point")
    parser.add_argument("--format", choices=("table", "json"), default="table")
    options = parser.parse_args()
    options.longspan = os.path.abspath(options.longspan)
    options.link = options.link or [(1e9, 0.0005), (1e8, 0.0001)]
    options.job = options.job or [("dense", 8192), ("esa", 8192)]
    try:
        results = study(options)
    except hosts.Unavailable as error:
        sys.exit(f"hosts_study.py: no hosts on this machine: {error}")
    if options.format == "json":
        json.dump(results, sys.stdout, indent=1)
        print()
    else:
        print_table(results)


if __name__ == "__main__":
    main()
