"""How a model's weights are named and laid out in checkpoint files: one table, read both ways.

A model's class has a `Layout`. Its table goes from our module names to the stored ones; `*` stands
for a layer's number:

    "blocks.*.ffn.up": "transformer.h.*.mlp.c_fc"      one to one, weight and bias alike
    "layers.*.in_proj": ("….query", "….key", "….value")    ours is theirs, stacked in rows
    "blocks.*.experts.up": "….experts.*.w3.weight"     one `*` more: ours[i] is their i-th

A parameter that is no weight or bias of a module, as an expert's stack, has a line of its own with
the whole stored name. Rows are cut evenly, unless the module that holds the parameter says
otherwise: `stored_rows()` → how many each.

`stored_tensors` writes by the table, `fill` reads by it and refuses every name it doesn't know.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from itertools import accumulate

import torch
from torch import nn

_SHOWN = 5  # names listed in an error


@dataclass(frozen=True)
class Layout:
    """A family's stored names. Patterns are regular expressions for a whole stored name.

    names: our module (or parameter) → stored module, or several whose rows ours stacks.
    prefix: what a file may leave out before every name of the body ("transformer.").
    transposed: our modules whose stored weight is (in, out), as GPT-2's Conv1D has it.
    spellings: (pattern, replacement) for names that older files spell differently.
    ignored: patterns of what carries nothing for this class: buffers, other tasks' heads.
    copies: stored name → our parameter that it repeats when weights are tied.
    also: stored name → our parameter, written besides and not looked at in reading.
    optional: our names that a file may lack; they are then 0.
    """

    names: Mapping[str, str | tuple[str, ...]]
    _: KW_ONLY
    prefix: str = ""
    transposed: frozenset = frozenset()
    spellings: tuple = ()
    ignored: tuple = ()
    copies: Mapping[str, str] = field(default_factory=dict)
    also: Mapping[str, str] = field(default_factory=dict)
    optional: frozenset = frozenset()


@dataclass(frozen=True)
class Slot:
    """One of our tensors and where it is stored: `parts`, (name, index) each.

    A part's tensor is `ours[index]`, turned where `transposed`.
    """

    ours: str
    shape: tuple
    parts: tuple
    transposed: bool
    copies: tuple

    def piece(self, ours, index):
        """What is stored of `ours` under one name: a view."""
        return ours[index].t() if self.transposed else ours[index]


def general(name):
    """'blocks.3.ffn.up' → 'blocks.*.ffn.up'."""
    return re.sub(r"\.\d+(?=\.|$)", ".*", name)


def slots(model):
    """A `Slot` for every parameter and buffer of the model, tied ones once."""
    layout, found = model.layout, []
    aliases = {}
    for stored, ours in layout.copies.items():
        aliases.setdefault(ours, []).append(stored)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        module, leaf, numbers = _split(name)
        targets = layout.names.get(general(name))
        if targets is None:
            targets = layout.names.get(general(module))
            if targets is None:
                raise ValueError(f"{type(model).__name__}'s layout has no line for {name}")
            targets = [f"{t}.{leaf}" for t in _listed(targets)]
        targets = [_number(t, numbers) for t in _listed(targets)]
        parts = _parts(model, module, tensor.shape, targets)
        turned = tensor.ndim == 2 and general(module) in layout.transposed
        stored = {at for at, _ in parts}
        copies = tuple(alias for alias in aliases.get(name, ()) if alias not in stored)
        found.append(Slot(name, tuple(tensor.shape), parts, turned, copies))
    return found


def stored_tensors(model, dtype=None):
    """The model's tensors as they are stored: {stored name: tensor}, tied ones once.

    A tensor that is stored as the model holds it *is* the model's: copy it before changing it.
    """
    held = dict([*model.named_parameters(), *model.named_buffers()])
    out = {}
    for slot in slots(model):
        ours = held[slot.ours].detach()
        for name, index in slot.parts:
            piece = slot.piece(ours, index)
            out[name] = piece.to("cpu", dtype or piece.dtype).contiguous()
    for name, ours in model.layout.also.items():
        out[name] = held[ours].detach().to("cpu", dtype or held[ours].dtype, copy=True)
    return out


def fill(model, checkpoint, dtype, device):
    """Give a model built on the meta device its weights from an open checkpoint.

    dtype: what they become; the files' when None.
    Every name and shape is checked before the first tensor is read; the model is only touched when
    all have been read. Raises ValueError for a missing, unexpected or misshapen tensor.
    """
    layout, wanted = model.layout, slots(model)
    stored = _by_plain_name(layout, checkpoint)
    sources, missing, used = {}, [], set()
    for slot in wanted:
        ours = torch.empty(slot.shape, device="meta")
        for name, index in slot.parts:
            at = _find(name, slot.copies, layout, stored)
            if at is None:
                if slot.ours not in layout.optional:
                    missing.append(name)
                continue
            expected, got = tuple(slot.piece(ours, index).shape), checkpoint.shape(at)
            if got != expected:
                raise ValueError(
                    f"{at} in {checkpoint.folder} doesn't fit config.json: its shape is {got}, "
                    f"expected {expected}"
                )
            sources[name] = at
            used.add(at)
    repeated = _repeated(layout, wanted, stored, used)
    unexpected = [
        at
        for plain, at in stored.items()
        if at not in used
        and at not in repeated
        and at not in layout.also
        and not any(re.fullmatch(pattern, plain) for pattern in layout.ignored)
    ]
    _refuse(model, checkpoint.folder, missing, unexpected)

    tensors = {}
    dtype = dtype or checkpoint.dtype(next(iter(sources.values())))
    for slot in wanted:
        tensors[slot.ours] = _read(slot, sources, checkpoint, dtype, device)
    for at, ours in repeated.items():
        if not torch.equal(checkpoint.tensor(at).to(device, dtype), tensors[ours]):
            raise ValueError(
                f"{at} in {checkpoint.folder} differs from the weight that it is tied to "
                f"({ours}), though config.json says tie_word_embeddings"
            )
    _assign(model, tensors)


# --- names


def _split(name):
    """'blocks.3.attention.in_proj_weight' → ('blocks.3.attention.in_proj', 'weight', ['3'])."""
    match = re.fullmatch(r"(.*)[._](weight|bias)", name)
    module, leaf = match.groups() if match else (name, "")
    return module, leaf, re.findall(r"\.(\d+)(?=\.|$)", name)


def _number(name, numbers):
    for number in numbers:
        name = name.replace("*", number, 1)
    return name


def _listed(targets):
    return [targets] if isinstance(targets, str) else list(targets)


def _parts(model, module, shape, targets):
    """(stored name, index into ours) of every part: whole, in rows, or one of a stack each."""
    owner = model.get_submodule(module.rpartition(".")[0])
    stacked = all("*" in target for target in targets)
    if len(targets) == 1:
        rows = [slice(None)]
    else:
        size = shape[1] if stacked else shape[0]
        even = [size // len(targets)] * len(targets)
        ends = [*accumulate(owner.stored_rows() if hasattr(owner, "stored_rows") else even)]
        rows = [slice(a, b) for a, b in zip([0, *ends], ends, strict=False)]
    if not stacked:
        return tuple(zip(targets, rows, strict=True))
    return tuple(
        (target.replace("*", str(i)), (i, part))
        for i in range(shape[0])
        for target, part in zip(targets, rows, strict=True)
    )


def _plain(layout, name):
    name = name.removeprefix(layout.prefix)
    for pattern, replacement in layout.spellings:
        name = re.sub(pattern, replacement, name)
    return name


def _by_plain_name(layout, checkpoint):
    """{name without prefix, in today's spelling: the file's name}."""
    stored = {}
    for at in checkpoint.names:
        plain = _plain(layout, at)
        if plain in stored:
            raise ValueError(
                f"{checkpoint.folder} holds one tensor twice: {stored[plain]} and {at}"
            )
        stored[plain] = at
    return stored


def _find(name, copies, layout, stored):
    """Where a part is stored: under its name, or under that of a tied copy."""
    for candidate in (name, *copies):
        at = stored.get(candidate.removeprefix(layout.prefix))
        if at is not None:
            return at
    return None


def _repeated(layout, wanted, stored, used):
    """Copies of tied weights that the file holds besides: {file's name: our parameter}."""
    repeated = {}
    for slot in wanted:
        for copy in slot.copies:
            at = stored.get(copy.removeprefix(layout.prefix))
            if at is not None and at not in used:
                repeated[at] = slot.ours
    return repeated


def _refuse(model, folder, missing, unexpected):
    problems = []
    for what, names in (("lacks", missing), ("holds the unknown", unexpected)):
        if names:
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            problems.append(f"{what} {', '.join(sorted(names)[:_SHOWN])}{more}")
    if problems:
        raise ValueError(f"{folder} is no {type(model).__name__}: it {'; it '.join(problems)}")


# --- tensors


def _read(slot, sources, checkpoint, dtype, device):
    """One of our tensors: a window into the file where it lies there as it is, else a copy."""
    (name, index), *more = slot.parts
    whole = not more and index == slice(None) and not slot.transposed and name in sources
    stays = os.name == "posix"  # elsewhere a file with a window on it can't be written anew
    if stays and whole and device.type == "cpu" and checkpoint.dtype(sources[name]) == dtype:
        return checkpoint.tensor(sources[name])
    out = torch.empty(slot.shape, dtype=dtype, device=device)
    for name, index in slot.parts:
        piece = slot.piece(out, index)
        if name in sources:
            checkpoint.read(sources[name], piece)
        else:
            piece.zero_()
    return out


def _assign(model, tensors):
    """Put tensors in place of the meta ones; where parameters are tied, one for all of them."""
    made = {id(held): name for name, held in [*model.named_parameters(), *model.named_buffers()]}
    ready = {}
    for name, held in [*model.named_parameters(remove_duplicate=False), *model.named_buffers()]:
        first = made[id(held)]
        if first not in ready:
            tensor = tensors[first]
            ready[first] = nn.Parameter(tensor) if isinstance(held, nn.Parameter) else tensor
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, ready[first])
