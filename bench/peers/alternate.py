# SPDX-License-Identifier: Apache-2.0
"""Alternated timing: every contender runs once a round, in turn, so that a disturbance hits all; the median of the rounds counts."""
import csv
import datetime
import os
import pathlib
import statistics
import subprocess
import sys
import time

import numpy

RESULTS = pathlib.Path(__file__).parent.parent / "results.csv"
COLUMNS = ["bench", "command", "date", "commit", "machine", "threads", "row", "column", "value"]


def alternate(contenders, rounds):
    """{name: function} → {name: median seconds}. One round to warm up is not counted."""
    seconds = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, function in contenders.items():
            began = time.perf_counter()
            function()
            if number:
                seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(times) for name, times in seconds.items()}


def warn_if_busy(threads):
    """One line where other processes were running at the start."""
    load = os.getloadavg()[0]
    if load > threads / 2:
        print(f"note: load average {load:.1f} on {threads} threads at the start: the machine is not ours alone")


def print_table(titles, rows):
    """Columns to the right, the first to the left."""
    text = [[str(cell) for cell in row] for row in (titles, *rows)]
    widths = [max(len(row[i]) for row in text) for i in range(len(titles))]
    for row in text:
        print("  ".join(cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths))))


def machine():
    """The processor's name, as the system tells it."""
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return os.uname().machine


def commit():
    """Short hash of what was measured; + where the tree had changes."""
    git = ["git", "-C", str(RESULTS.parent)]
    short = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    changed = subprocess.run([*git, "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True).stdout
    changed = [line for line in changed.splitlines() if not line.endswith("results.csv")]
    return short + ("+" if changed else "")


def record(bench, titles, rows, threads):
    """Puts a table in bench/results.csv, in the place of what it held of this benchmark. scripts/docs.sh copies it to the pages."""
    kept = []
    if RESULTS.exists():
        with RESULTS.open(newline="") as file:
            kept = [row for row in csv.DictReader(file) if row["bench"] != bench]
    command = " ".join(["bench/peers/" + pathlib.Path(sys.argv[0]).name, *(a for a in sys.argv[1:] if a != "--record")])
    head = [bench, command, datetime.date.today().isoformat(), commit(), machine(), threads]
    made = [dict(zip(COLUMNS, [*head, number, title, cell]))
            for number, row in enumerate(rows) for title, cell in zip(titles, row)]
    part = RESULTS.with_suffix(".part")
    with part.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted(kept + made, key=lambda row: row["bench"]))
    part.replace(RESULTS)


def aligned_zeros(bytes_wanted):
    """A numpy buffer of at least that many bytes whose address is a multiple of 64, and the buffer that owns it."""
    owner = numpy.zeros(bytes_wanted + 64, numpy.uint8)
    return (owner.ctypes.data + 63) & ~63, owner
