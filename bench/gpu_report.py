#!/usr/bin/env python3
"""The table of scripts/gpu_report.sh: what was measured on a GPU beside the targets and the peers.

    bench/gpu_report.py DIR [--note TEXT]...

DIR has what `longspan bench NAME --format json` said in NAME.json, for kernels, layer, decode and
prefill, what `bench/peers.py --format json` said in peers.json, and what ctest said in tests.xml;
what is not there is said to be missing. Targets come with the measurements:
launcher/bench_report.cc has them.
"""

import argparse
import collections
import json
import os
import re
import sys
import xml.etree.ElementTree

import peers

BENCHMARKS = ("kernels", "layer", "decode", "prefill")
# Name, batch and context of a row, which no two benchmarks share, and what the table calls it.
ROWS = (
    (("top-k", 1, 262144), "top-2,048 of 262,144 scores"),
    (("top-k", 1, 1048576), "top-2,048 of 1,048,576 scores"),
    (("top-k", 16, 262144), "top-2,048 of 16 x 262,144 scores"),
    (("decode attend", 1, 262144), "attention to gathered tokens, 256k"),
    (("decode attend", 1, 1048576), "attention to gathered tokens, 1M"),
    (("decode attention", 1, 262144), "decode attention of a layer, 256k"),
    (("decode attention, fp8 score keys", 1, 262144), "the same, fp8 compressed keys"),
    (("decode attention", 1, 1048576), "decode attention of a layer, 1M"),
    (("prefill attention", 1, 262144), "prefill attention of a layer, 4,096 at 256k"),
    (("decode, a layer", 1, 262144), "decode, a whole layer, 256k"),
    (("prefill, a layer", 1, 262144), "prefill, a whole layer, 4,096 at 256k"),
    (("decode", 1, 262144), "decode, whole model, 256k"),
    (("prefill", 1, 262144), "prompt of 262,144 tokens, whole model"),
)


def read_json(directory, name):
    path = os.path.join(directory, name + ".json")
    if not os.path.exists(path):
        return None
    with open(path) as file:
        try:
            return json.load(file)
        except ValueError as error:
            sys.exit(f"gpu_report.py: {path}: {error}")


def index(reports):
    """Rows of longspan by (name, batch, context)."""
    return {(row["name"], row["batch"], row["context"]): row
            for report in reports.values() if report for row in report["rows"]}


def fastest_peer(peer_report, key):
    rows = [row for row in peer_report["rows"] if tuple(row["against"]) == key]
    return min(rows, key=lambda row: row["seconds"], default=None)


def verdict(row):
    """Of a row of longspan: which of its targets it reaches."""
    must, aim, measured = row["must_us"], row["aim_us"], row["median_us"]
    if must is None:
        return ""
    if measured > must:
        return f"MISSED by {100 * (measured / must - 1):.0f}%"
    return "must reached" if measured > aim else "aim reached"


def text_of(microseconds):
    return "" if microseconds is None else peers.format_time(microseconds * 1e-6)


def table_lines(times, peer_report):
    titles = ("", "must", "aim", "measured", "", "fastest peer", "ratio", "")
    lines = [titles]
    for key, label in ROWS:
        row = times.get(key)
        if row is None:
            lines.append((label, "", "", "", "NOT MEASURED", "", "", ""))
            continue
        peer = fastest_peer(peer_report, key) if peer_report else None
        beside = ("", "", "")
        if peer:
            ratio = peer["seconds"] / (row["median_us"] * 1e-6)
            beside = (peers.format_time(peer["seconds"]), f"{ratio:.2f}x",
                      f"{peer['operation'].split(',')[0]}: {peer['peer']}")
        lines.append((label, text_of(row["must_us"]), text_of(row["aim_us"]),
                      text_of(row["median_us"]), verdict(row), *beside))
    return lines


def print_lines(lines):
    left = (0, 4, 7)  # names and words; numbers stand to the right
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    for line in lines:
        cells = [cell.ljust(width) if column in left else cell.rjust(width)
                 for column, (cell, width) in enumerate(zip(line, widths))]
        print("  ".join(cells).rstrip())


def print_peers(peer_report, times):
    rows = []
    for row in peer_report["rows"]:
        own = times.get(tuple(row["against"]))
        rows.append({**row, "longspan_seconds": own and own["median_us"] * 1e-6})
    peers.print_table(rows)
    for row in peer_report["refused"]:
        print(f"not possible: {row['operation']}, {row['peer']}: {row['error']}")


def outcome_of(case):
    """`passed`, `failed`, or why it was skipped. A run under mpirun passes if all it has skips."""
    output = case.findtext("system-out") or ""
    skipped = case.find("skipped")
    ran = skipped is None
    # A program that is missing stands there as skipped too.
    if not ran and not skipped.get("message", "").startswith("SKIP_"):
        return "failed"
    if ran and case.get("status") != "run":
        return "failed"
    if ran and "[  PASSED  ] 0 tests" not in output:
        return "passed"
    reasons = skip_reasons(case)
    return reasons[0] if reasons else "for no reason given"


def skip_reasons(case):
    """Why single tests of a case, which may be a run under mpirun of many, were skipped."""
    return [reason.strip()
            for reason in re.findall(r"Skipped\n(.+)", case.findtext("system-out") or "")]


def print_tests(path):
    """Counts, the names of what failed, and why others were skipped."""
    if not os.path.exists(path):
        return
    elements = list(xml.etree.ElementTree.parse(path).getroot().iter("testcase"))
    cases = [(case.get("name"), outcome_of(case)) for case in elements]
    counts = collections.Counter(outcome for _, outcome in cases)
    passed, failed = counts.pop("passed", 0), counts.pop("failed", 0)
    print(f"tests: {passed} passed, {failed} failed, {sum(counts.values())} skipped")
    for name, outcome in cases:
        if outcome == "failed":
            print(f"  FAILED: {name}")
    for reason, count in counts.most_common():
        print(f"  {count} skipped: {reason}")
    within = collections.Counter(reason for case, (_, outcome) in zip(elements, cases)
                                 if outcome == "passed" for reason in skip_reasons(case))
    for reason, count in within.most_common():
        print(f"  {count} skipped within runs that passed: {reason}")


def print_header(reports, peer_report):
    report = next(report for report in reports.values() if report)
    print(f"{report['version']} on {report['device']}, {report['software']}")
    print(f"copies {report['copy_gb_per_s']:.0f} GB/s, matrix products "
          f"{report['matmul_tflop_per_s']:.0f} TFLOP/s")
    if peer_report:
        versions = f"torch {peer_report['torch']}, CUDA {peer_report['cuda']}"
        if peer_report["transformers"]:
            versions += f", transformers {peer_report['transformers']}"
        print(f"peers: {versions}, {peer_report['device']}")


def print_summary(times):
    with_target = [(label, times[key]) for key, label in ROWS
                   if key in times and times[key]["must_us"] is not None]
    if not with_target:
        print("no targets: they are for one H200 and the shape of Llama 3 8B")
        return
    misses = [label for label, row in with_target if row["median_us"] > row["must_us"]]
    aims = sum(row["median_us"] <= row["aim_us"] for _, row in with_target)
    print(f"{len(with_target) - len(misses)} of {len(with_target)} musts reached, and {aims} aims")
    for label in misses:
        print(f"  MISSED: {label}")


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", metavar="DIR")
    parser.add_argument("--note", action="append", default=[], help="what the report is to say")
    args = parser.parse_args()
    reports = {name: read_json(args.directory, name) for name in BENCHMARKS}
    peer_report = read_json(args.directory, "peers")
    if not any(reports.values()):
        sys.exit(f"gpu_report.py: {args.directory}: nothing was measured")
    times = index(reports)
    print_header(reports, peer_report)
    print()
    print_lines(table_lines(times, peer_report))
    print()
    print_summary(times)
    print_tests(os.path.join(args.directory, "tests.xml"))
    for note in args.note:
        print(f"note: {note}")
    if peer_report:
        print("\nall peers")
        print_peers(peer_report, times)


if __name__ == "__main__":
    main()
