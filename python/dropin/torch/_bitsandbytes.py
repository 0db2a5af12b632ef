# SPDX-License-Identifier: Apache-2.0
"""Reads and writes the optimizer state of bitsandbytes, nested (0.49.2 on) and flat."""
import torch

NESTED = "__bnb_optimizer_quant_state__"


def flatten(entry):
    """The nested layout as the flat one."""
    if NESTED not in entry:
        return entry
    return {**{key: value for key, value in entry.items() if key != NESTED}, **entry[NESTED]}


def is_one(entry):
    """Is this entry in the names of bitsandbytes?"""
    return "state1" in entry


def read(optimizer, name, parameter, group, views, entry):
    raise NotImplementedError


def write(owner, index, parameter, group, entry):
    raise NotImplementedError


def encode_plain(optimizer, name, parameter, views, entry):
    return entry
