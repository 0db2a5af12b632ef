# SPDX-License-Identifier: Apache-2.0
"""Parity tests compare with PyTorch; `make test` gives them the library by DROPIN_LIBRARY."""
import pytest
import torch


@pytest.fixture(autouse=True)
def two_threads():
    torch.set_num_threads(2)
    torch.manual_seed(0)
