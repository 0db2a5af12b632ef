# SPDX-License-Identifier: Apache-2.0
"""Every part of the slot `optimizer` on numpy arrays, which are updated in place."""
import collections.abc
import math

import numpy

from dropin._array import fill_tensor, pointer
from dropin._library import check, execution, ffi, lib

Report = collections.namedtuple("Report", "grad_norm clip_scale updated skipped finite")
Report.__doc__ = """What a step did: global norm before clipping and what clipping multiplied by (NaN and 1 without max_norm),
parameters with and without a gradient, and whether the norm was finite (if not, nothing was changed)."""

_NUMPY = {lib.DI_F32: "float32", lib.DI_F64: "float64", lib.DI_F16: "float16", lib.DI_I8: "int8", lib.DI_U8: "uint8",
          lib.DI_I16: "int16", lib.DI_I32: "int32", lib.DI_I64: "int64", lib.DI_BOOLEAN: "bool"}


def _value_text(name, value):
    if isinstance(value, (bool, numpy.bool_)):
        return "on" if value else "off"
    if isinstance(value, str):
        return f"[{value}]" if "," in value and not value.startswith("[") else value
    if isinstance(value, (int, numpy.integer)):
        return str(int(value))
    if isinstance(value, (float, numpy.floating)):
        return repr(float(value))
    raise TypeError(f"optimizer: {name} is a {type(value).__name__}; must be a number, a bool or a text")


def _text(overrides):
    return ",".join(f"{name}={_value_text(name, value)}" for name, value in overrides.items()).encode()


class Optimizer:
    """optimizer("adamw8bit:lr=1e-3"): a part or a usual name with its options, which `dropin list` and `dropin help` show.

    add(arrays) takes float32 or float64 arrays, C-contiguous, whose memory step(gradients) then updates. The state lies in the
    library; `state` shows it. seed: of stochastic rounding and random projections. threads: None takes what the machine offers.
    """

    def __init__(self, text, *, threads=None, seed=0):
        self.text = text
        self._exec = execution(threads, seed=seed)
        made = ffi.new("di_optimizer_instance **")
        check(lib.di_optimizer_create(self._exec, text.encode(), made))
        self._parameters = kept = []  # di_parameter structs: the instance points at them, to its end
        self._instance = ffi.gc(made[0], lambda instance: (lib.di_optimizer_destroy(instance), kept.clear()))
        self._arrays = {}  # name → array: our hold on its memory
        self._groups = 0

    def add(self, arrays, names=None, **overrides):
        """Adds a group: a mapping of names to arrays, or a sequence with `names` or p0, p1 …; `overrides` are options that
        differ in this group (lr=1e-4, weight_decay=0). Returns the group's number. On failure nothing is added."""
        if isinstance(arrays, collections.abc.Mapping):
            if names is not None:
                raise ValueError("optimizer: names are given twice; a mapping of arrays has them already")
            names, arrays = list(arrays), list(arrays.values())
        else:
            arrays = [arrays] if isinstance(arrays, numpy.ndarray) else list(arrays)
            names = [f"p{len(self._arrays) + i}" for i in range(len(arrays))] if names is None else list(names)
        if len(names) != len(arrays):
            raise ValueError(f"optimizer: {len(arrays)} arrays and {len(names)} names; must be one each")
        parameters = [self._parameter(name, array) for name, array in zip(names, arrays)]
        group = self._groups
        check(lib.di_optimizer_add(self._instance, _text(overrides) or ffi.NULL,
                                   ffi.new("di_parameter *[]", parameters), len(parameters)))
        self._parameters += parameters
        self._arrays.update(zip(names, arrays))
        self._groups += 1
        return group

    @staticmethod
    def _parameter(name, array):
        if not isinstance(array, numpy.ndarray):
            raise TypeError(f"optimizer: parameter {name} is a {type(array).__name__}; must be a numpy array, "
                            "which is updated in place")
        if not array.flags.writeable or not array.flags.c_contiguous:
            raise ValueError(f"optimizer: parameter {name} is {'read-only' if array.flags.c_contiguous else 'not C-contiguous'}; "
                             "it must be updated in place")
        if array.ndim > lib.DI_MAX_RANK:
            raise ValueError(f"optimizer: parameter {name} has {array.ndim} dimensions; must be at most {lib.DI_MAX_RANK}")
        made = ffi.new("di_parameter *")
        made.size = ffi.sizeof("di_parameter")
        if len(name.encode()) >= ffi.sizeof(made.name):
            raise ValueError(f"optimizer: the name {name[:40]}… has {len(name.encode())} bytes; "
                             f"must be below {ffi.sizeof(made.name)}")
        made.name = name.encode()
        fill_tensor(made.value, array)
        return made

    def change(self, group, **options):
        """Changes options of a group from the next step on. DropinError where they ask for other state."""
        check(lib.di_optimizer_change(self._instance, group, _text(options)))

    def step(self, gradients, *, lr=None, max_norm=0.0, grad_scale=1.0):
        """One update. gradients: a sequence in the order of addition, or a mapping by name; None, or a name that is not there, is a
        parameter without one. They are multiplied by grad_scale, then clipped to the global 2-norm max_norm (0: not; inf: only
        measured). lr replaces the options' own. Returns a Report."""
        ordered = self._ordered(gradients)
        held = [None if g is None else self._gradient(n, a, g) for (n, a), g in zip(self._arrays.items(), ordered)]
        check(lib.di_optimizer_bind(self._instance, 0, len(held), ffi.NULL, ffi.new("void *[]", [pointer(g) for g in held])))
        report = ffi.new("di_step_report *")
        report.size = ffi.sizeof("di_step_report")
        check(lib.di_optimizer_step(self._exec, self._instance, math.nan if lr is None else lr, grad_scale, max_norm, report))
        return Report(report.grad_norm, report.clip_scale, report.updated, report.skipped, bool(report.finite))

    def _ordered(self, gradients):
        if isinstance(gradients, collections.abc.Mapping):
            for name in gradients:
                if name not in self._arrays:
                    raise KeyError(f"optimizer: a gradient for {name!r}; there is no such parameter")
            return [gradients.get(name) for name in self._arrays]
        gradients = list(gradients)
        if len(gradients) != len(self._arrays):
            raise ValueError(f"optimizer: {len(gradients)} gradients for {len(self._arrays)} parameters; "
                             "must be one each, None for none")
        return gradients

    @staticmethod
    def _gradient(name, array, gradient):
        gradient = numpy.asarray(gradient)
        if gradient.shape != array.shape or gradient.dtype != array.dtype:
            raise ValueError(f"optimizer: the gradient of {name} is {list(gradient.shape)} {gradient.dtype}; "
                             f"must be {list(array.shape)} {array.dtype}")
        return numpy.ascontiguousarray(gradient)

    @property
    def state(self):
        """{parameter: {name: array}}, over the library's memory: what is written there counts from the next step on."""
        return {name: dict(self._state_of(index)) for index, name in enumerate(self._arrays)}

    def _state_of(self, parameter):
        state, index = ffi.new("di_state_tensor *"), 0
        while lib.di_optimizer_state(self._instance, parameter, index, ffi.NULL, state):
            yield ffi.string(state.name).decode(), self._view(state.tensor)
            index += 1

    def _view(self, tensor):
        """A numpy array over it, which keeps the instance alive. bf16 is shown as its bits."""
        instance, count = self._instance, int(lib.di_tensor_bytes(ffi.addressof(tensor)))
        dtype = numpy.dtype(_NUMPY.get(tensor.dtype, "uint16"))
        shape = tuple(tensor.shape[i] for i in range(tensor.rank))
        if count == 0:
            return numpy.empty(shape, dtype)
        memory = ffi.gc(ffi.cast("char *", tensor.data), lambda _: instance)
        return numpy.frombuffer(ffi.buffer(memory, count), dtype).reshape(shape)

    def load_state(self, state, steps=None):
        """Takes what `state` gave (of this text and these names), arrays or views; `steps` is that of the optimizer that gave
        it, by default the largest counter there. Where something does not fit nothing is changed, and the message names it."""
        own = self.state
        copies = []
        for name in {**own, **state}:
            if name not in own or name not in state:
                raise ValueError(f"optimizer: state of {name}: there is {'no such parameter' if name not in own else 'none'}")
            for key in {**own[name], **state[name]}:
                if key not in own[name] or key not in state[name]:
                    raise ValueError(f"optimizer: state of {name}: {key} is {'unknown' if key not in own[name] else 'missing'}")
                to, value = own[name][key], numpy.asarray(state[name][key])
                if to.shape != value.shape or to.dtype != value.dtype:
                    raise ValueError(f"optimizer: state of {name}: {key} is {list(value.shape)} {value.dtype}; "
                                     f"must be {list(to.shape)} {to.dtype}")
                copies.append((to, value))
        for to, value in copies:
            to[...] = value
        if steps is None:
            steps = max((int(values["step"][0]) for values in own.values()), default=0)
        lib.di_optimizer_set_steps(self._instance, steps)

    @property
    def steps(self):
        """Steps so far that changed something."""
        return int(lib.di_optimizer_steps(self._instance))

    @property
    def state_bytes(self):
        """Bytes of all state."""
        return int(lib.di_optimizer_state_bytes(self._instance))

    def __repr__(self):
        return (f"dropin.optimizer({self.text!r}: {len(self._arrays)} parameters, {self.steps} steps, "
                f"{self.state_bytes} bytes of state)")
