# SPDX-License-Identifier: Apache-2.0
"""The C library's optimizer over torch storage: parameters are added once, addresses are handed over once a step, state is shown as
torch tensors over the library's memory."""
import array
import functools

import numpy
import torch
from dropin._library import check, execution, ffi, lib

_DTYPES = {torch.float32: lib.DI_F32, torch.float64: lib.DI_F64, torch.bfloat16: lib.DI_BF16, torch.float16: lib.DI_F16}
_STORED = {lib.DI_F32: (numpy.float32, None), lib.DI_F64: (numpy.float64, None), lib.DI_BF16: (numpy.int16, torch.bfloat16),
           lib.DI_F16: (numpy.float16, None), lib.DI_I8: (numpy.int8, None), lib.DI_U8: (numpy.uint8, None),
           lib.DI_I16: (numpy.int16, None), lib.DI_I32: (numpy.int32, None), lib.DI_I64: (numpy.int64, None),
           lib.DI_BOOLEAN: (numpy.bool_, None)}
_nothing = numpy.zeros(8)  # stands for the memory of tensors without elements

_address = torch.Tensor.data_ptr
_dense = torch.Tensor.is_contiguous
_bytes = torch.Tensor.nbytes.__get__
_dtype = torch.Tensor.dtype.__get__
_grad = torch.Tensor.grad.__get__


def is_dtensor(tensor):
    """Is it a distributed tensor of which this process holds a part?"""
    return hasattr(tensor, "_local_tensor")


def local(tensor):
    """What of a tensor lies in this process."""
    return tensor._local_tensor if is_dtensor(tensor) else tensor


def describe(name, tensor):
    """ "blocks.0.weight ([4, 8] float32)" for messages."""
    return f"{name} ({list(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')})"


def check_parameter(owner, name, tensor):
    """What no optimizer here takes, by name."""
    held = local(tensor)
    if held.is_sparse or held.layout is not torch.strided:
        raise TypeError(f"{owner}: parameter {name} is sparse ({held.layout}); must be dense")
    if held.device.type != "cpu":
        raise TypeError(f"{owner}: parameter {name} is on {held.device}; must be on the CPU")
    if held.dtype not in _DTYPES:
        raise TypeError(f"{owner}: parameter {name} is {held.dtype}; must be torch.float32, torch.float64 or torch.bfloat16")


class _Memory:
    """Memory of the library as numpy sees it; keeps the instance alive that owns it."""

    def __init__(self, owner, address, shape, dtype):
        self.owner = owner
        self.__array_interface__ = {"data": (address, False), "shape": shape, "typestr": numpy.dtype(dtype).str, "version": 3}


def _release(records, instance):  # `records` lives as long as the library may look at it
    lib.di_optimizer_destroy(instance)


class Instance:
    """di_optimizer_instance and the parameters added to it, in order."""

    def __init__(self, owner, text, threads, seed):
        self.owner, self.threads = owner, threads
        self.context = execution(1 if threads is None else threads, seed=seed)
        made = ffi.new("di_optimizer_instance **")
        check(lib.di_optimizer_create(self.context, text.encode(), made))
        self._records = []  # for each group, a C array
        self._flat = []  # of all, in order
        self.handle = ffi.gc(made[0], functools.partial(_release, self._records))
        self.record = lib.di_optimizer_instance_record(self.handle)
        self.parameters, self.names = [], []
        self._gradient_dtypes = []  # as the library was told of them
        self.groups = 0
        self.report = ffi.new("di_step_report *", {"size": ffi.sizeof("di_step_report")})
        self._wide = None  # what of them is not plain memory; None: to be found
        self.complete = False  # the last step had a gradient for each

    # ---- adding ---------------------------------------------------------------------------------------------------------

    def add(self, overrides, parameters, names):
        """One group of the library; its number."""
        records = ffi.new("di_parameter[]", len(parameters))
        for record, tensor, name in zip(records, parameters, names):
            held = local(tensor)
            if held.ndim > lib.DI_MAX_RANK:
                raise ValueError(f"{self.owner}: parameter {name} has {held.ndim} dimensions; at most {lib.DI_MAX_RANK}")
            record.size = ffi.sizeof("di_parameter")
            record.name = name.encode()[-127:]
            shape = tuple(held.shape)
            address = held.data_ptr() if held.numel() else _nothing.ctypes.data
            check(lib.di_tensor_make(ffi.addressof(record, "value"), ffi.cast("void *", address), _DTYPES[held.dtype], len(shape), shape))
        pointers = ffi.new("di_parameter *[]", [ffi.addressof(records, i) for i in range(len(parameters))])
        self._records.append(records)
        try:
            check(lib.di_optimizer_add(self.handle, overrides.encode(), pointers, len(parameters)))
        except Exception:
            self._records.pop()
            raise
        self._flat += [records[i] for i in range(len(parameters))]
        self.parameters += parameters
        self.names += names
        self._gradient_dtypes += [local(p).dtype for p in parameters]
        self.groups += 1
        self._wide = None
        return self.groups - 1

    def change(self, group, text):
        """Options of one of the library's groups."""
        check(lib.di_optimizer_change(self.handle, group, text.encode()))

    # ---- stepping -------------------------------------------------------------------------------------------------------

    def _describe_all(self):
        self._held = [local(p) for p in self.parameters]
        self._dtypes = [p.dtype for p in self._held]
        self._sizes = [p.nbytes for p in self._held]
        self._shapes = [p.shape for p in self._held]
        self._values = None
        self._half = any(p.element_size() == 2 for p in self._held)
        self._wide = self._gradient_dtypes != self._dtypes or any(
            is_dtensor(p) or not p.is_contiguous() or p.numel() == 0 for p in self.parameters)

    def _fast(self, gradients):
        """Addresses where everything is dense memory of the dtype and size that it had when it was added, else None.

        Autograd keeps shape and dtype of a gradient to those of its parameter; what remains is looked at with one pass over all
        for each property. Two dtypes of one size are both of two bytes.
        """
        held = self._held
        present, sizes, dtypes = gradients, self._sizes, self._dtypes
        self.complete = True
        try:
            addresses = list(map(_address, gradients))
        except TypeError:  # a parameter without gradient
            self.complete = False
            present = [g for g in gradients if g is not None]
            sizes = [s for s, g in zip(sizes, gradients) if g is not None]
            dtypes = [d for d, g in zip(dtypes, gradients) if g is not None]
            try:
                addresses = [0 if g is None else g.data_ptr() for g in gradients]
            except RuntimeError:
                return None
        except RuntimeError:  # no memory: sparse
            return None
        if not all(map(_dense, present)) or list(map(_bytes, present)) != sizes:
            return None
        if self._half and list(map(_dtype, present)) != dtypes:
            return None
        values = list(map(_address, held))
        if not all(map(_dense, held)) or list(map(_bytes, held)) != self._sizes:
            return None
        if values != self._values:
            if list(map(_dtype, held)) != self._dtypes:
                return None
            self._values = values
        return values, addresses

    def _check(self, index, held, gradient):
        name = self.names[index]
        if held.dtype != self._dtypes[index] or held.shape != self._shapes[index]:
            raise RuntimeError(f"{self.owner}: parameter {name} was {list(self._shapes[index])} {self._dtypes[index]} when it was added "
                               f"and is {list(held.shape)} {held.dtype} now; make a new optimizer")
        if gradient is None:
            return
        if gradient.layout is not torch.strided:
            raise RuntimeError(f"{self.owner}: the gradient of {name} is sparse ({gradient.layout}); must be dense")
        if gradient.shape != held.shape:
            raise RuntimeError(f"{self.owner}: the gradient of {name} is {list(gradient.shape)}; its value is {list(held.shape)}")
        if gradient.dtype not in _DTYPES:
            raise RuntimeError(f"{self.owner}: the gradient of {name} is {gradient.dtype}; its value is {held.dtype}")

    def _readable(self, index, gradient):
        """A gradient as the library takes it: dense, in a dtype that it was told of."""
        if gradient.dtype is torch.float16:
            gradient = gradient.float()
        if gradient.dtype != self._gradient_dtypes[index]:
            record = self._flat[index]
            record.grad = record.value
            record.grad.dtype = _DTYPES[gradient.dtype]
            self._gradient_dtypes[index] = gradient.dtype
            self._wide = None
        return gradient.contiguous()

    def _slow(self, gradients):
        """Addresses of whatever there is; strided tensors are copied for the call. (…, write back, keep alive)"""
        values, addresses, back, keep = [], [], [], []
        for index, (parameter, gradient) in enumerate(zip(self.parameters, gradients)):
            held = local(parameter)
            if gradient is not None:
                if is_dtensor(gradient) and tuple(gradient.placements) != tuple(parameter.placements):
                    gradient = gradient.redistribute(placements=parameter.placements)
                gradient = local(gradient)
            self._check(index, held, gradient)
            if gradient is not None:
                gradient = self._readable(index, gradient)
            value = held
            if not value.is_contiguous():
                value = held.contiguous()
                if gradient is not None:
                    back.append((held, value))
            keep += [value, gradient]
            values.append(value.data_ptr() if value.numel() else _nothing.ctypes.data)
            addresses.append(0 if gradient is None else gradient.data_ptr() if gradient.numel() else _nothing.ctypes.data)
        return values, addresses, back, keep

    @torch.no_grad()
    def step(self, gradients, grad_scale=1.0, max_norm=0.0):
        """One step with these gradients, one for each parameter, None where there is none."""
        if self._wide is None:
            self._describe_all()
        self.complete = False
        found = None if self._wide else self._fast(gradients)
        back = keep = ()  # what is in `keep` lives until the step is done
        if found is None:
            values, addresses, back, keep = self._slow(gradients)
        else:
            values, addresses = found
        self._bind_and_step(0, array.array("Q", values), array.array("Q", addresses), grad_scale, max_norm)
        for held, value in back:
            held.copy_(value)

    def _bind_and_step(self, first, values, addresses, grad_scale, max_norm):
        check(lib.di_optimizer_bind(self.handle, first, len(values), ffi.cast("void **", values.buffer_info()[0]),
                                    ffi.cast("void **", addresses.buffer_info()[0])))
        self.context.threads = torch.get_num_threads() if self.threads is None else self.threads
        check(lib.di_optimizer_step(self.context, self.handle, float("nan"), grad_scale, max_norm, self.report))

    @torch.no_grad()
    def step_one(self, index, gradient):
        """One step of parameter number `index` alone."""
        if self._wide is None:
            self._describe_all()
        held = self._held[index]
        self._check(index, held, gradient)
        gradient = self._readable(index, gradient)
        value = held.contiguous()
        values = array.array("Q", [value.data_ptr() if value.numel() else _nothing.ctypes.data])
        addresses = array.array("Q", [gradient.data_ptr() if gradient.numel() else _nothing.ctypes.data])
        self._bind_and_step(index, values, addresses, 1.0, 0.0)
        if value is not held:
            held.copy_(value)

    # ---- state ----------------------------------------------------------------------------------------------------------

    def state(self, index):
        """{name: tensor over the library's memory} of parameter number `index`, "step" first."""
        name, state, views = ffi.new("const char **"), ffi.new("di_state_tensor *"), {}
        while lib.di_optimizer_state(self.handle, index, len(views), name, state):
            tensor = state.tensor
            shape = tuple(tensor.shape[0:tensor.rank])
            stored, dtype = _STORED[tensor.dtype]
            if tensor.data and 0 not in shape:
                address = int(ffi.cast("uintptr_t", tensor.data))
                view = torch.from_numpy(numpy.asarray(_Memory(self.handle, address, shape, stored)))
            else:
                view = torch.from_numpy(numpy.empty(shape, stored))
            views[ffi.string(state.name).decode()] = view if dtype is None else view.view(dtype)
        views["step"] = views["step"].reshape(())
        return views

    def state_bytes(self):
        return lib.di_optimizer_state_bytes(self.handle)

    def steps(self):
        return lib.di_optimizer_steps(self.handle)

    def set_steps(self, steps):
        lib.di_optimizer_set_steps(self.handle, steps)


def gradients_of(parameters):
    """p.grad of each."""
    return list(map(_grad, parameters))
