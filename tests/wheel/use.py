# SPDX-License-Identifier: Apache-2.0
"""What a user does with the wheel: attention, 8-bit codes and an optimizer on numpy arrays. Run in an empty environment."""
import pathlib
import sys

import dropin
from dropin import _openmp

folder = pathlib.Path(dropin.__file__).parent
assert folder.is_relative_to(sys.prefix), f"{folder} is not in the environment {sys.prefix}"
assert "torch" not in sys.modules and "numpy" not in sys.modules, "import dropin imports torch or numpy"
assert (folder / "lib" / "dropin_declarations.py").is_file() and "cffi" not in sys.modules, "the declarations were parsed anew"
assert _openmp.mapped() == [str(folder / "lib" / "libgomp.so.1")], _openmp.mapped()
with open("/proc/self/maps", encoding="utf-8") as maps:
    cjson = {line.split(None, 5)[5].strip() for line in maps if "cjson" in line}
assert len(cjson) == 1 and cjson.pop().startswith(sys.prefix), "cJSON is not the wheel's own"

import numpy

random = numpy.random.default_rng(0)
q, k, v = (random.standard_normal((2, 9, 4, 16)).astype("float32") for _ in range(3))
out = dropin.softmax_attention(q, k, v, causal=True, threads=2)
logits = numpy.einsum("bihd,bjhd->bhij", q, k) / 4 + numpy.triu(numpy.full((9, 9), -numpy.inf), 1)
weights = numpy.exp(logits - logits.max(-1, keepdims=True))
expected = numpy.einsum("bhij,bjhd->bihd", weights / weights.sum(-1, keepdims=True), v)
assert abs(out - expected).max() < 1e-5

codes, scales = dropin.quantize(q)
assert abs(dropin.dequantize(codes, scales) - q).max() < 0.01 * abs(q).max()

weights = q.copy()
optimizer = dropin.optimizer("adamw8bit:lr=0.01,weight_decay=0,min_8bit_size=1024")
optimizer.add({"weights": weights})
optimizer.step([q])  # the first step of Adam moves every element by lr
assert abs(weights - (q - 0.01 * numpy.sign(q))).max() < 1e-5
assert optimizer.state_bytes < 2.1 * q.size and any(x.dtype == "uint8" for x in optimizer.state["weights"].values())

versions = f"numpy {numpy.__version__}, Python {sys.version.split()[0]}"
print(f"dropin {dropin.__version__}, {dropin.execution().threads} threads, {versions}")
