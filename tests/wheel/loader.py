# SPDX-License-Identifier: Apache-2.0
"""loader.py OTHER-VERSION FOREIGN: every way in which the library can be wrong is one sentence at import, with path and reason. The
two arguments are shared libraries: one whose di_version is another, one that is not ours at all. Run on the installed wheel."""
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import dropin

package = pathlib.Path(dropin.__file__).parent
library = package / "lib" / "libdropin.so"


def message(path, where=None):
    """The last line that `import dropin` writes; it must be an ImportError and there must be no message but it."""
    environment = {**os.environ, "DROPIN_LIBRARY": str(path)} if path else dict(os.environ)
    if where:
        environment["PYTHONPATH"] = str(where)
    ran = subprocess.run([sys.executable, "-c", "import dropin"], env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 1, f"{path}: exit {ran.returncode}: {ran.stderr}"
    lines = [line for line in ran.stderr.splitlines() if not line.startswith((" ", "Traceback"))]
    assert len(lines) == 1 and lines[0].startswith("ImportError: dropin: "), ran.stderr
    return lines[0]


def expect(text, *words):
    for word in words:
        assert str(word) in text, f"{text!r} does not say {word!r}"
    print(text.removeprefix("ImportError: "))


with tempfile.TemporaryDirectory() as folder:
    folder = pathlib.Path(folder).resolve()
    beside = folder / "lib"
    shutil.copytree(package / "lib", beside)
    ours = library.read_bytes()
    expect(message(folder / "nowhere.so"), folder / "nowhere.so", "there is no library", "DROPIN_LIBRARY")

    for name, source in (("other.so", sys.argv[1]), ("foreign.so", sys.argv[2])):
        shutil.copy(source, beside / name)
    expect(message(beside / "other.so"), beside / "other.so", "version 0.0.1", f"needs {dropin.__version__}")
    expect(message(beside / "foreign.so"), beside / "foreign.so", "di_version")

    for bytes_left, reason in ((0, "file too short"), (40, "file too short"), (4096, "is damaged: 4096 bytes"),
                               (len(ours) // 2, "is damaged"), (len(ours) - 100, "is damaged")):
        (beside / "cut.so").write_bytes(ours[:bytes_left])
        expect(message(beside / "cut.so"), beside / "cut.so", reason)
    (beside / "text.so").write_text("not a library\n" * 100)
    expect(message(beside / "text.so"), beside / "text.so", "invalid ELF header")
    (beside / "machine.so").write_bytes(ours[:18] + b"\xb7\x00" + ours[20:])  # says that it is for another processor
    expect(message(beside / "machine.so"), beside / "machine.so", "cannot")

    alone = folder / "alone" / "libdropin.so"
    alone.parent.mkdir()
    shutil.copy(library, alone)
    expect(message(alone), alone, "no dropin.cdef")

    copy = folder / "site" / "dropin"
    shutil.copytree(package, copy)
    (copy / "lib" / "libdropin.so").unlink()
    expect(message(None, folder / "site"), copy / "lib" / "libdropin.so", "install the package again")
