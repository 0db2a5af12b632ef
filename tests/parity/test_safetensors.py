# SPDX-License-Identifier: Apache-2.0
"""Files go both ways between ours and the official safetensors library."""
import dropin
import pytest
import safetensors
import safetensors.torch
import torch
from dropin import check, ffi, lib
from dropin._array import fill_tensor

TENSORS = {
    "a": torch.arange(6, dtype=torch.float32).reshape(2, 3),
    "scalar": torch.tensor(2.5, dtype=torch.float64),
    "empty": torch.empty(0, 4, dtype=torch.int64),
    "flag": torch.tensor([True, False, True]),
    "name with \u00e4 \"quotes\"": torch.tensor([1, -2, 3], dtype=torch.int32),
}


def test_ours_is_read_by_the_official_library(tmp_path):
    names = [ffi.new("char[]", name.encode()) for name in TENSORS]
    entries = ffi.new("di_named_tensor[]", len(TENSORS))
    for entry, name, tensor in zip(entries, names, TENSORS.values()):
        entry.name = name
        fill_tensor(entry.tensor, tensor)
    key, value = ffi.new("char[]", b"step"), ffi.new("char[]", b"17")
    pair = ffi.new("di_pair *", {"key": key, "value": value})
    path = str(tmp_path / "ours.safetensors")
    check(lib.di_safetensors_write(dropin.execution(), path.encode(), entries, len(TENSORS), pair, 1))
    read = safetensors.torch.load_file(path)
    assert set(read) == set(TENSORS)
    for name, tensor in TENSORS.items():
        assert read[name].dtype == tensor.dtype and torch.equal(read[name], tensor)
    with safetensors.safe_open(path, "pt") as file:
        assert file.metadata() == {"step": "17"}


def test_the_official_library_is_read_by_ours(tmp_path):
    path = str(tmp_path / "theirs.safetensors")
    safetensors.torch.save_file(TENSORS, path, metadata={"made by": "the official library"})
    file = ffi.new("di_safetensors **")
    check(lib.di_safetensors_open(dropin.execution(), path.encode(), file))
    assert lib.di_safetensors_count(file[0]) == len(TENSORS)
    assert ffi.string(lib.di_safetensors_metadata(file[0], b"made by")) == b"the official library"
    for name, tensor in TENSORS.items():
        found = ffi.new("di_tensor *")
        check(lib.di_safetensors_find(file[0], name.encode(), found))
        assert tuple(found.shape[i] for i in range(found.rank)) == tuple(tensor.shape)
        raw = bytes(ffi.buffer(found.data, tensor.nbytes)) if tensor.nbytes else b""
        assert raw == tensor.contiguous().numpy().tobytes()
    lib.di_safetensors_close(file[0])


def test_a_missing_tensor_is_named(tmp_path):
    path = str(tmp_path / "theirs.safetensors")
    safetensors.torch.save_file({"weight": torch.zeros(2)}, path)
    file = ffi.new("di_safetensors **")
    check(lib.di_safetensors_open(dropin.execution(), path.encode(), file))
    with pytest.raises(dropin.DropinError, match="weight"):
        check(lib.di_safetensors_find(file[0], b"wieght", ffi.new("di_tensor *")))
    lib.di_safetensors_close(file[0])
