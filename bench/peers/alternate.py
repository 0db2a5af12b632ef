# SPDX-License-Identifier: Apache-2.0
"""Alternated timing: every contender runs once a round, in turn, so that a disturbance hits all; the median of the rounds counts."""
import os
import statistics
import time

import numpy


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


def share_of_machine(function):
    """CPU seconds over wall seconds times threads' worth: tells when the machine was not ours alone."""
    wall, cpu = time.perf_counter(), time.process_time()
    function()
    return (time.process_time() - cpu) / (time.perf_counter() - wall)


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


def aligned_zeros(bytes_wanted):
    """A numpy buffer of at least that many bytes whose address is a multiple of 64, and the buffer that owns it."""
    owner = numpy.zeros(bytes_wanted + 64, numpy.uint8)
    return (owner.ctypes.data + 63) & ~63, owner
