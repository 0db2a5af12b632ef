# SPDX-License-Identifier: Apache-2.0
"""The loader: declarations kept beside the library, the default context, processes that fork, exceptions that travel. (The messages of
a wrong library are tests/wheel/loader.py's.)"""
import os
import pathlib
import pickle
import shutil
import subprocess
import sys

import dropin
import pytest
from dropin import ffi, lib

LIBRARY = pathlib.Path(os.environ["DROPIN_LIBRARY"]).resolve()


def run(code, library=LIBRARY, **environment):
    """The output of a fresh process."""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False,
                         env={**os.environ, "DROPIN_LIBRARY": str(library), **environment})
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


def test_declarations_are_kept_and_made_anew(tmp_path):
    library, kept = tmp_path / "libdropin.so", tmp_path / "dropin_declarations.py"
    shutil.copy(LIBRARY, library)
    shutil.copy(LIBRARY.with_name("dropin.cdef"), tmp_path)
    parsed = "import sys, dropin; print('cffi' in sys.modules, dropin.lib.DI_EFORMAT, dropin.ffi.sizeof('di_exec'))"
    expected = f"{lib.DI_EFORMAT} {ffi.sizeof('di_exec')}"
    assert run(parsed, library) == f"True {expected}" and kept.is_file()
    assert run(parsed, library) == f"False {expected}"
    with open(tmp_path / "dropin.cdef", "a", encoding="utf-8") as file:  # another build's
        file.write("\ntypedef struct di_more { int32_t one; } di_more;\n")
    assert run(parsed + "; dropin.ffi.new('di_more *')", library) == f"True {expected}"
    assert run(parsed + "; dropin.ffi.new('di_more *')", library) == f"False {expected}"
    for broken in ("", "ffi = 1 +", "CRC = 0", "import nowhere"):
        kept.write_text(broken)
        assert run(parsed, library) == f"True {expected}"
    kept.unlink()
    tmp_path.chmod(0o500)  # nothing can be kept: parsed at each import (root may write all the same)
    try:
        assert run(parsed, library) == f"True {expected}"
    finally:
        tmp_path.chmod(0o700)


def test_execution_is_the_machines():
    asked = ffi.new("di_exec *")
    assert lib.di_exec_init(asked) == lib.DI_OK
    ours, other = dropin.execution(), dropin.execution(3, seed=4, step=5, train=True)
    assert (ours.size, ours.threads, ours.level, ours.seed, ours.flags) == (asked.size, asked.threads, asked.level, 0, 0)
    assert (other.threads, other.seed, other.step, other.flags) == (3, 4, 5, lib.DI_TRAIN)
    assert dropin.execution().threads == asked.threads and dropin.execution().seed == 0  # each its own


def test_the_level_is_asked_anew(monkeypatch):
    monkeypatch.setenv("DROPIN_CPU", "plain")
    assert dropin.execution().level == lib.DI_PLAIN
    monkeypatch.setenv("DROPIN_CPU", "base")
    assert dropin.execution().level == lib.DI_BASE
    monkeypatch.setenv("DROPIN_CPU", "bass")
    with pytest.raises(dropin.DropinError, match="DROPIN_CPU=bass"):
        dropin.execution()


def test_a_forked_child_computes():
    run("import os, numpy, dropin\n"
        "q = numpy.ones((4, 200, 4, 16), 'float32')\n"
        "ours = dropin.softmax_attention(q, q, q, threads=2)\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    os._exit(0 if (dropin.softmax_attention(q, q, q, threads=2) == ours).all() else 3)\n"
        "assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0\n"
        "assert (dropin.softmax_attention(q, q, q, threads=2) == ours).all()\n")


def test_a_forked_child_asks_for_its_own_threads():
    assert run("import os, dropin\n"
               "dropin.execution()\n"
               "one = sorted(os.sched_getaffinity(0))[:1]\n"
               "child = os.fork()\n"
               "if child == 0:\n"
               "    os.sched_setaffinity(0, one)\n"
               "    os._exit(dropin.execution().threads)\n"
               "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n") == "1"


def test_exceptions_travel():
    with pytest.raises(dropin.DropinError) as caught:
        dropin.check(lib.di_exec_init(ffi.NULL))
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.status) == (str(caught.value), lib.DI_EINVAL) == ("exec: exec is NULL", lib.DI_EINVAL)


def test_unknown_names():
    with pytest.raises(AttributeError, match="module 'dropin' has no attribute 'nothing'"):
        dropin.nothing
    with pytest.raises(AttributeError, match="module 'dropin' has no attribute 'no_attention'"):
        dropin.no_attention
    with pytest.raises(ImportError):
        from dropin import nowhere  # noqa: F401
    assert {"Attention", "optimizer", "quantize", "numpy", "torch"} <= set(dir(dropin))
