# SPDX-License-Identifier: Apache-2.0
"""torch.optim.Optimizer classes for every part and every usual name of the slot `optimizer`, made at import from the option rows."""
import collections
import inspect
import itertools
import operator

import torch
from dropin import _options
from dropin._library import check, ffi, lib
from dropin.torch import _checkpoint, _rows
from dropin.torch._embedding import StableEmbedding
from dropin.torch._instance import Instance, check_parameter, gradients_of, is_dtensor

_HINTS = ("foreach", "fused")  # how torch computes; here it is always one call over all tensors
_SWITCHES = {"foreach": None, "fused": None, "capturable": False, "differentiable": False}
_FIXED = ("initial_accumulator_value",)  # read only when a parameter is added


class _Held:
    """What the library knows of one param_group: its option values, the library's groups made of it, the ids of its parameters."""

    def __init__(self):
        self.values, self.groups, self.ids = None, [], []


def _plain(value):
    if isinstance(value, torch.Tensor) or hasattr(value, "item"):
        return value.item()
    return tuple(map(_plain, value)) if isinstance(value, (list, tuple)) else value


class Optimizer(torch.optim.Optimizer):
    """The base of all classes here: values and gradients stay in torch storage, state lies in the library and is shown by `state`.

    Beside the options of its part, every class takes:
        threads: of the library; None follows torch.get_num_threads()
        seed: of stochastic rounding and random projections
        max_norm: clips the gradients to this global 2-norm within the step, as clip_grad_norm_ does; 0 does not
        per_layer: each parameter is updated as soon as backward has completed its gradient, which is then freed; step() does nothing
            more (not under DistributedDataParallel, whose reduction comes later)
        accumulation: with per_layer, the number of backward passes that make one update
    Sharded parameters (FSDP2) are updated shard by shard where the rule has no statistics over whole tensors; blocks of 8-bit state
    are then blocks of the shard.
    """

    part, text, options, switches = None, "", (), {}  # of the class
    _step_supports_amp_scaling = True  # torch.amp.GradScaler leaves unscaling to the step

    def __init__(self, params, *, threads, seed, max_norm, per_layer, accumulation, **defaults):
        name = type(self).__name__
        for key, value in list(defaults.items()):
            self._check_switch(key, value)
        if not (isinstance(max_norm, (int, float)) and max_norm >= 0):
            raise ValueError(f"{name}: max_norm={max_norm!r}; must be at least 0 (0: no clipping)")
        if not isinstance(accumulation, int) or accumulation < 1:
            raise ValueError(f"{name}: accumulation={accumulation!r}; must be a whole number of at least 1")
        if accumulation > 1 and not per_layer:
            raise ValueError(f"{name}: accumulation={accumulation} without per_layer; without it call step() when the gradient is there")
        if per_layer and max_norm:
            raise ValueError(f"{name}: max_norm={max_norm} with per_layer; the global norm is known only when every gradient is")
        self._settings = {"threads": threads, "seed": seed, "max_norm": max_norm, "per_layer": per_layer,
                          "accumulation": accumulation}
        self._start(defaults)
        super().__init__(params, defaults)

    def _start(self, defaults):
        text = f"{ffi.string(self.part.name).decode()}:{self._text(defaults, self.options)}"
        self._instance = Instance(type(self).__name__, text, self._settings["threads"], self._settings["seed"])
        self._groups = []
        self._place = {}  # id of a parameter → its number in the library
        self._counts, self._hooks = {}, []  # of per_layer
        self._tables = []  # parameters whose codes are still decoded with a table that was loaded

    # ---- options and groups -------------------------------------------------------------------------------------------

    def _check_switch(self, key, value):
        """Torch's keywords that no row stands for."""
        if key in self.switches and key not in _HINTS and value not in (None, self.switches[key]):
            raise ValueError(f"{type(self).__name__}: {key}={value!r} is not offered; must be {self.switches[key]!r}")

    def _text(self, group, options):
        return ",".join(_rows.to_text(type(self).__name__, option, group[option.name]) for option in options)

    def _values(self, group):
        return tuple(_plain(group[option.name]) for option in self.options)

    def add_param_group(self, param_group):
        """A group with options of its own, at any time."""
        name = type(self).__name__
        if isinstance(param_group, dict):
            known = [option.name for option in self.options]
            for key, value in param_group.items():
                self._check_switch(key, value)
                meant = None if key in ("params", "param_names", *known, *self.switches) else _options.nearest(key, known)
                if meant and meant not in key:  # lr_scale, initial_lr: what schedules and layer-wise rates keep there
                    raise ValueError(f"{name}: unknown option {key!r} in a parameter group; did you mean {meant!r}?")
            params = param_group["params"]
            params = [params] if isinstance(params, torch.Tensor) else params
            if not isinstance(params, set):  # torch refuses those
                param_group = {**param_group, "params": list(params)}
                self._refuse_duplicates(param_group["params"])
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        self._groups.append(_Held())
        try:
            self._admit(len(self._groups) - 1, [p for p in group["params"] if p.requires_grad])
        except Exception:
            self.param_groups.pop()
            self._groups.pop()
            raise
        self._groups[-1].values = self._values(group)
        self._groups[-1].ids = list(map(id, group["params"]))

    def _refuse_duplicates(self, params):
        seen = set()
        for index, given in enumerate(params):
            parameter = given[1] if isinstance(given, tuple) else given
            if id(parameter) in seen:
                label = given[0] if isinstance(given, tuple) else f"number {index}"
                raise ValueError(f"{type(self).__name__}: parameter {label} of the group is already there")
            seen.add(id(parameter))

    def _names(self, number):
        """{id of a parameter: its name in messages} of a group: of named_parameters(), or #index as in state_dict."""
        start = sum(len(group["params"]) for group in self.param_groups[:number])
        group = self.param_groups[number]
        names = group.get("param_names") or [f"#{start + index}" for index in range(len(group["params"]))]
        return {id(parameter): name for parameter, name in zip(group["params"], names)}

    def _admit(self, number, parameters):
        """Adds parameters of a group to the library."""
        group, held = self.param_groups[number], self._groups[number]
        wanted = [p for p in parameters if id(p) not in self._place]
        if not wanted:
            return
        if "backward=projected" in str(group.get("projector", "")):
            raise ValueError(f"{type(self).__name__}: projector={group['projector']}: backward=projected is for training on the library's "
                             "tape; torch's backward gives whole gradients")
        own = self._names(number)
        names = [own[id(p)] for p in wanted]
        for parameter, name in zip(wanted, names):
            check_parameter(type(self).__name__, name, parameter)
            if is_dtensor(parameter):
                self._refuse_sharded(group, name, parameter)
        first = len(self._instance.parameters)
        held.groups.append(self._instance.add(self._text(group, self.options), wanted, names))
        held.values = self._values(group)
        for index, parameter in enumerate(wanted, first):
            self._place[id(parameter)] = index
            self._show(index, parameter)
            if self._settings["per_layer"]:
                self._hooks.append(parameter.register_post_accumulate_grad_hook(self._hook(index, number)))

    def _show(self, index, parameter):
        """state[parameter]: tensors over the library's memory; of a sharded parameter, sharded as it is."""
        views = self._instance.state(index)
        if is_dtensor(parameter):
            views = {key: _checkpoint.sharded_like(parameter, view) for key, view in views.items()}
        if any(key.endswith("_table") for key in views):  # of loaded codes: it goes with the next step
            views = {key: view.clone() if key.endswith("_table") else view for key, view in views.items()}
            self._tables.append((index, parameter))
        self.state[parameter] = views
        return views

    def _convert(self, index, parameter, bits):
        """State of one parameter to 32 or 8 bits; the tensors over the old one are gone."""
        del self.state[parameter]
        check(lib.di_optimizer_convert(self._instance.handle, index, bits))
        return self._show(index, parameter)

    def _forget_tables(self):
        for index, parameter in self._tables.copy():
            self._tables.remove((index, parameter))
            self._show(index, parameter)

    def _refuse_sharded(self, group, name, parameter):
        owner, record = type(self).__name__, self._instance.record
        reason = None
        if self._settings["per_layer"]:
            reason = "per_layer updates before gradients are reduced"
        elif self._settings["max_norm"]:
            reason = "max_norm needs the norm over all shards; clip with torch.nn.utils.clip_grad_norm_"
        elif any(p.is_shard() for p in parameter.placements) or any(p.is_partial() for p in parameter.placements):
            if group.get("projector", "none") != "none":
                reason = f"projector={group['projector']} needs the whole matrix"
            elif record.whole:
                reason = "its rule needs the whole tensor"
            elif record.passes > 1:
                reason = "its rule needs norms of the whole tensor"
            elif group.get("percentile_clipping", 100) != 100:
                reason = f"percentile_clipping={group['percentile_clipping']} needs the norm of the whole gradient"
            elif group.get("nonfinite") == "skip_tensor":
                reason = "nonfinite=skip_tensor needs to see the whole gradient"
        if reason:
            raise ValueError(f"{owner}: parameter {name} is distributed ({parameter.placements}) and {reason}")

    def _sync(self):
        """What of the groups was changed since the last step goes to the library, or is refused by name."""
        if len(self._groups) != len(self.param_groups) or any(
                list(map(id, group["params"])) != held.ids for group, held in zip(self.param_groups, self._groups)):
            self._follow()
        for number, (group, held) in enumerate(zip(self.param_groups, self._groups)):
            if self._pick(group) != held.values:
                self._change(number, group, held)

    def _change(self, number, group, held):
        values = self._values(group)
        changed = [o for o, old, new in zip(self.options, held.values, values) if old != new]
        for option in changed:
            if option.kind == lib.DI_PART or option.name in _FIXED:
                raise ValueError(f"{type(self).__name__}: {option.name}={group[option.name]!r} in group {number}; "
                                 "it cannot change after the group was added")
        if changed:
            text, old = self._text(group, changed), ",".join(
                _rows.to_text(type(self).__name__, o, held.values[self.options.index(o)]) for o in changed)
            done = []
            try:
                for one in held.groups:
                    self._instance.change(one, text)
                    done.append(one)
            except Exception:
                for one in done:
                    self._instance.change(one, old)
                raise
        held.values = values

    # ---- steps ----------------------------------------------------------------------------------------------------------

    @torch._disable_dynamo  # as torch's own: a compiled training step calls it between its graphs
    def step(self, closure=None):
        """One update of every parameter that has a gradient. `closure` computes the loss anew and returns it."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if self._settings["per_layer"]:
            return loss
        scale, found = getattr(self, "grad_scale", None), getattr(self, "found_inf", None)  # of GradScaler
        if found is not None and found.item():
            return loss
        self._sync()
        if len(self._place) != sum(len(group["params"]) for group in self.param_groups):
            for number, group in enumerate(self.param_groups):
                self._admit(number, [p for p in group["params"] if p.grad is not None])
        parameters = self._instance.parameters
        gradients = gradients_of(parameters)
        self._instance.step(gradients, 1.0 if scale is None else 1.0 / scale.item(), self._settings["max_norm"])
        changed = parameters if self._instance.complete else [p for p, g in zip(parameters, gradients) if g is not None]
        torch.autograd.graph.increment_version(changed)
        if self._tables:
            self._forget_tables()
        return loss

    def _hook(self, index, number):
        def update(parameter):
            self._counts[index] = self._counts.get(index, 0) + 1
            if self._counts[index] < self._settings["accumulation"]:
                return
            self._counts[index] = 0
            held, group = self._groups[number], self.param_groups[number]
            if self._pick(group) != held.values:
                self._change(number, group, held)
            self._instance.step_one(index, parameter.grad)
            torch.autograd.graph.increment_version(parameter)
            if self._tables:
                self._forget_tables()
            parameter.grad = None

        return update

    # ---- state ----------------------------------------------------------------------------------------------------------

    @property
    def report(self):
        """The last step: grad_norm and clip_scale (where max_norm was given), updated and skipped parameters, finite."""
        report = self._instance.report
        return {name: getattr(report, name) for name, _ in ffi.typeof("di_step_report").fields if name != "size"}

    def state_bytes(self):
        """Bytes of all state, scales and counters included."""
        return self._instance.state_bytes()

    def state_dict(self):
        """Torch's format, plain tensors: {"state": {index: {name: tensor}}, "param_groups": [...]}. The tensors are copies."""
        return _checkpoint.write(self, super().state_dict())

    def load_state_dict(self, state_dict):
        """Takes what state_dict() gave, here, from the torch class of the same rule, or from bitsandbytes. Nothing is changed where
        something does not fit; the message names it."""
        _checkpoint.load(self, state_dict)

    def to_bitsandbytes(self):
        """The state dict as bitsandbytes 0.50 keeps it (8-bit state with blocks of 256; 32-bit state as it is)."""
        return _checkpoint.to_bitsandbytes(self)

    def __getstate__(self):
        state = {p: {key: value.clone() for key, value in views.items()} for p, views in self.state.items()}
        return {"defaults": self.defaults, "param_groups": self.param_groups, "state": state, "_settings": self._settings,
                "_steps": self._instance.steps(), "_order": list(self._instance.parameters)}

    def __setstate__(self, state):
        state = dict(state)
        kept, steps, order = state.pop("state"), state.pop("_steps"), state.pop("_order")
        super().__setstate__(state)
        self._renew(order)
        self._refill(kept, steps)

    def _refill(self, kept, steps):
        for number, group in enumerate(self.param_groups):
            names = self._names(number)
            for parameter in group["params"]:
                if parameter in kept:
                    _checkpoint.take(self, names[id(parameter)], parameter, group, kept[parameter])
        self._instance.set_steps(steps)

    def _follow(self):
        """Groups or their lists of parameters were changed from outside (wrappers put shards in the place of weights): those that
        stayed take their state along, new ones start."""
        state = self.__getstate__()
        there = [p for group in self.param_groups for p in group["params"]]
        known, present = set(map(id, state["_order"])), set(map(id, there))
        order = [p for p in state["_order"] if id(p) in present] + [p for p in there if p.requires_grad and id(p) not in known]
        for hook in self._hooks:
            hook.remove()
        self._renew(order)
        self._refill(state["state"], state["_steps"])

    # A fresh instance of the library stands beside the old one until all that is to be read into it has fitted.

    _OWN = ("_instance", "_groups", "_place", "_counts", "_hooks", "_tables", "state")

    def _renew(self, order):
        """A fresh instance with these parameters, in this order, under the options that the groups have now."""
        self._start(self.defaults)
        self.state = collections.defaultdict(dict)
        self._groups = [_Held() for _ in self.param_groups]
        where = {id(p): number for number, group in enumerate(self.param_groups) for p in group["params"]}
        for held, group in zip(self._groups, self.param_groups):
            held.values, held.ids = self._values(group), list(map(id, group["params"]))
        for number, run in itertools.groupby(order, lambda parameter: where[id(parameter)]):
            self._admit(number, list(run))

    def _keep(self):
        return {"own": {name: getattr(self, name) for name in self._OWN}, "groups": [dict(group) for group in self.param_groups],
                "order": list(self._instance.parameters)}

    def _bring_back(self, kept):
        for hook in self._hooks:
            hook.remove()
        self.__dict__.update(kept["own"])
        for group, old in zip(self.param_groups, kept["groups"]):
            group.clear()
            group.update(old)

    def _let_go(self, kept):
        for hook in kept["own"]["_hooks"]:
            hook.remove()


# ---- the classes ------------------------------------------------------------------------------------------------------------

_SETTINGS = (("threads", None), ("seed", 0), ("max_norm", 0.0), ("per_layer", False), ("accumulation", 1))


def _torch_signature(name):
    """Names and defaults in the order of the torch class of that name; {} where there is none."""
    theirs = getattr(torch.optim, name, None)
    if theirs is None:
        return {}
    parameters = inspect.signature(theirs).parameters
    return {key: p for key, p in parameters.items() if key != "params"}


def _signature(options, theirs, switches):
    positional = [key for key, p in theirs.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    names = [option.name for option in options]
    if not theirs:
        positional = names[:names.index("weight_decay") + 1] if "weight_decay" in names else names[:1]
    defaults = {**switches, **{option.name: option.default for option in options}}
    kinds = inspect.Parameter
    made = [kinds("params", kinds.POSITIONAL_OR_KEYWORD)]
    made += [kinds(key, kinds.POSITIONAL_OR_KEYWORD, default=defaults[key]) for key in positional if key in defaults]
    rest = [key for key in (*names, *switches) if key not in positional]
    made += [kinds(key, kinds.KEYWORD_ONLY, default=defaults[key]) for key in rest]
    made += [kinds(key, kinds.KEYWORD_ONLY, default=value) for key, value in _SETTINGS]
    return inspect.Signature(made)


def _document(summary, paper, options):
    lines = [summary[:1].upper() + summary[1:] + "." + (f" {paper}." if paper else ""), "", "Options:"]
    for option in options:
        words = f" ({' | '.join(option.choices)})" if option.choices else ""
        lines.append(f"    {option.name}={option.default!r}: {option.help}{words}")
    return "\n".join([*lines, "", inspect.cleandoc(Optimizer.__doc__).split("\n\n", 1)[1]])


def _make(name, part, text, summary):
    theirs = _torch_signature(ffi.string(part.python).decode() if part.python else "")
    options = tuple(_rows.as_torch(_rows.read(part, text), theirs))
    known = {option.name for option in options}
    switches = {**{key: p.default for key, p in theirs.items() if key not in known},
                **{key: value for key, value in _SWITCHES.items() if key not in known}}
    signature = _signature(options, theirs, switches)
    names = list(signature.parameters)

    def __init__(self, *args, **kwargs):
        for key in kwargs:
            if key not in names:
                meant = _options.nearest(key, names)
                raise TypeError(f"{type(self).__name__}: unknown option {key!r}" + (f"; did you mean {meant!r}?" if meant else ""))
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        given = dict(bound.arguments)
        Optimizer.__init__(self, given.pop("params"), **given)

    __init__.__signature__ = signature.replace(
        parameters=[inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD), *signature.parameters.values()])
    pick = operator.itemgetter(*(option.name for option in options)) if len(options) > 1 else (
        lambda group, only=options[0].name: (group[only],))
    paper = ffi.string(part.paper).decode() if part.paper else ""
    return type(name, (Optimizer,), {
        "__init__": __init__, "__signature__": signature, "__module__": __name__, "__qualname__": name,
        "__doc__": _document(summary, paper, options), "part": part, "text": text, "options": options, "switches": switches,
        "_pick": staticmethod(pick),
    })


def _camel(name):
    return "".join(word[:1].upper() + word[1:] for word in name.split("_"))


def _classes():
    """{name on the command line: class} of the slot's list and of its usual names."""
    count, made, parts = ffi.new("int64_t *"), {}, {}
    records = lib.di_optimizer_list(count)
    for i in range(count[0]):
        part = records[i].part
        name = ffi.string(part.name).decode()
        parts[name] = part
        python = ffi.string(part.python).decode() if part.python else _camel(name)
        made[name] = _make(python, part, "", ffi.string(part.help).decode())
    aliases = lib.di_optimizer_aliases(count)
    for i in range(count[0]):
        name, _, text = ffi.string(aliases[i].text).decode().partition(":")
        python = ffi.string(aliases[i].python).decode()
        made[ffi.string(aliases[i].name).decode()] = _make(python, parts[name], text, ffi.string(aliases[i].help).decode())
    return made


NAMES = _classes()
_made = {made.__name__: made for made in NAMES.values()}
globals().update(_made)
__all__ = ["Optimizer", "StableEmbedding", *_made]


def named(text):
    """The class and the keywords of a text: "AdamW8bit", "adamw8bit", "adamw:bits=8,block=64"."""
    name, _, options = text.partition(":")
    made = _made.get(name) or NAMES.get(name)
    if made is None:
        names = [*NAMES, *_made]
        meant = _options.nearest(name, names)
        raise ValueError(f"optimizer: unknown name {name!r}" + (f"; did you mean {meant!r}?" if meant else f" ({', '.join(NAMES)})"))
    given = _rows.read(made.part, ",".join(part for part in (made.text, options) if part))
    return made, {option.name: option.default for option, own in zip(given, made.options) if option.default != own.default}
