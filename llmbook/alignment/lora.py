"""Low-rank adapters: fine-tune a weight's change, kept as a product of two thin matrices.

    W' = W + s · B A,   A (rank, in),  B (out, rank),   s = α / rank,  or α / √rank

W rests; only A and B are trained. B starts at zero, so the model begins as the base. Merged, W'
is one matrix again and costs nothing. The change is formed as a matrix, not applied to x in two
steps: the same product, and cheaper wherever a batch has more tokens than the rank. Source: Hu et
al. 2022; Kalajdzievski 2023 for α / √rank, which keeps the step's size as the rank grows.

Files are those of `peft`: adapter_config.json and adapter_model.safetensors.
"""

import copy
import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.func import functional_call

from llmbook import checks
from llmbook.data.folders import write_atomically, write_json
from llmbook.models.decoder import Decoder
from llmbook.models.pretrained.layout import slots
from llmbook.seeds import generator

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."


@dataclass(frozen=True)
class LoRAConfig:
    """rank, alpha, and which matrices: ends of their names in the model.

    targets: "attention.in_proj", say, or "ffn.up"; the default is all matrices of GPT's blocks.
    stabilised: the scale is α / √rank in place of α / rank. seed: of A.
    """

    rank: int = 8
    alpha: float = 16.0
    targets: tuple = ("attention.in_proj", "attention.out_proj", "ffn.up", "ffn.down")
    stabilised: bool = False
    seed: int = 0

    def __post_init__(self):
        checks.whole("rank", self.rank, least=1)
        checks.positive("alpha", self.alpha)
        checks.flag("stabilised", self.stabilised)
        if isinstance(self.targets, str) or not self.targets:
            raise ValueError(f"targets must be names, one or more: got {self.targets!r}")

    @property
    def scale(self):
        """s: what B A is multiplied by."""
        return self.alpha / (math.sqrt(self.rank) if self.stabilised else self.rank)


class LoRA(nn.Module):
    """A decoder with an adapter: called as the decoder is, and trained by the same loop.

    The decoder's own weights rest and are not changed. `merged()` is a plain decoder again, to
    write text with or to save. Raises ValueError for a target that names no matrix of the model.
    """

    reads_source = False

    def __init__(self, decoder, config=None):
        super().__init__()
        self.lora = config or LoRAConfig()
        self.base = decoder.requires_grad_(False)
        names = matrices(decoder, self.lora.targets)
        held, draw = dict(decoder.named_parameters()), generator(self.lora.seed, "lora")
        self.A, self.B = nn.ParameterDict(), nn.ParameterDict()
        for name in names:
            out, into = held[name].shape
            bound = 1 / math.sqrt(into)
            A = (2 * torch.rand(self.lora.rank, into, generator=draw) - 1) * bound
            self.A[_key(name)] = A.to(held[name])
            self.B[_key(name)] = torch.zeros(out, self.lora.rank).to(held[name])

    @property
    def config(self):
        """The decoder's."""
        return self.base.config

    @property
    def tokenizer_file(self):
        """The decoder's, or None."""
        return getattr(self.base, "tokenizer_file", None)

    @property
    def shares_prompts(self):
        """The decoder's."""
        return self.base.shares_prompts

    @property
    def names(self):
        """The adapted matrices, as the decoder names them."""
        return [key.replace("/", ".") for key in self.A]

    @property
    def n_trained(self):
        """Number of weights that are trained."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)

    def change(self, name):
        """s · B A of a matrix: (out, in)."""
        return self.lora.scale * (self.B[_key(name)] @ self.A[_key(name)])

    def forward(self, *inputs, **named):
        """Logits, as the decoder's `forward` gives them with the changed weights."""
        held = dict(self.base.named_parameters())
        changed = {name: held[name] + self.change(name) for name in self.names}
        return functional_call(self.base, changed, inputs, named)

    loss = Decoder.loss

    def extra_loss(self, extras, kept):
        """The decoder's."""
        return self.base.extra_loss(extras, kept)

    @torch.no_grad()
    def merged(self):
        """A plain decoder with the changed weights."""
        out = copy.deepcopy(self.base).requires_grad_(True)
        held = dict(out.named_parameters())
        for name in self.names:
            held[name] += self.change(name)
        return out

    # --- on disk

    def save(self, path, *, base=None):
        """Write the adapter as `peft` reads it; base: the name or path that its config tells.

        Where a file has queries, keys and values apart, each gets its rows of B, and all of A.
        """
        from safetensors.torch import save

        tensors, modules, turned = {}, [], False
        for slot in self._slots():
            A, B = (part[_key(slot.ours)].detach().cpu() for part in (self.A, self.B))
            turned |= slot.transposed
            for stored, rows in slot.parts:
                module = stored.removesuffix(".weight")
                modules.append(module)
                tensors[f"{_PREFIX}{module}.lora_A.weight"] = A.clone()
                tensors[f"{_PREFIX}{module}.lora_B.weight"] = B[rows].clone()
        config = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base,
            "r": self.lora.rank,
            "lora_alpha": self.lora.alpha,
            "lora_dropout": 0.0,
            "use_rslora": self.lora.stabilised,
            "target_modules": modules,
            "fan_in_fan_out": turned,
            "bias": "none",
            "inference_mode": True,
        }
        about = {"format": "pt", "base": fingerprint(self.base)}
        write_atomically(Path(path) / WEIGHTS, save(tensors, about))
        write_json(Path(path) / CONFIG, config)

    def _slots(self):
        wanted = set(self.names)
        return [slot for slot in slots(self.base) if slot.ours in wanted]


def load_adapter(decoder, path):
    """A `LoRA` of a decoder from a folder that `save` or `peft` wrote.

    Queries, keys and values that `peft` adapted apart become one adapter of their stacked matrix,
    whose rank is the sum of theirs. Raises ValueError for a folder that is no LoRA adapter, one
    that uses what we do not compute, and one of another base.
    """
    from safetensors import safe_open

    folder = Path(path)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise ValueError(f"{folder} must hold {name}: there is none")
    stored = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    for key, plain in (("peft_type", "LORA"), ("bias", "none"), ("use_dora", False)):
        if stored.get(key, plain) != plain:
            raise ValueError(f"{folder / CONFIG}: {key} must be {plain!r}: got {stored[key]!r}")
    for key in ("rank_pattern", "alpha_pattern", "modules_to_save"):
        if stored.get(key):
            raise ValueError(f"{folder / CONFIG}: {key} is not supported: got {stored[key]!r}")
    with safe_open(folder / WEIGHTS, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in list(file.keys())}
        of = (file.metadata() or {}).get("base")
    if of is not None and of != fingerprint(decoder):
        raise ValueError(f"{folder} is an adapter of another base: their weights differ")
    found = {}
    for slot in slots(decoder):
        parts = _pairs(slot, tensors, folder)
        if any(pair is not None for pair, _ in parts):
            found[slot.ours] = (slot, parts)
    if tensors:
        left = ", ".join(sorted(tensors)[:3])
        raise ValueError(f"{folder} is an adapter of another base: the model has no {left}")
    targets = tuple(_module(name) for name in found)
    config = LoRAConfig(
        rank=stored["r"],
        alpha=float(stored["lora_alpha"]),
        targets=targets,
        stabilised=bool(stored.get("use_rslora")),
    )
    out = LoRA(decoder, config)
    for name, (slot, parts) in found.items():
        A, B = _stacked(slot, parts)
        like = out.A[_key(name)]
        out.A[_key(name)] = nn.Parameter(A.to(like))
        out.B[_key(name)] = nn.Parameter(B.to(like))
    return out


def matrices(decoder, targets):
    """Names of a decoder's matrices that end in one of the targets, in its order.

    Raises ValueError for a target that names none: an embedding, a norm or a tied head is none.
    """
    tables = {id(m.weight) for m in decoder.modules() if isinstance(m, nn.Embedding)}
    known = [
        name
        for name, p in decoder.named_parameters()
        if p.ndim == 2 and name.endswith("weight") and id(p) not in tables
    ]
    found = []
    for target in targets:
        hits = [n for n in known if f".{_module(n)}".endswith(f".{target}")]
        if not hits:
            ends = sorted({".".join(_module(n).split(".")[-2:]) for n in known})
            raise ValueError(
                f"targets must name matrices of the model: got {target!r}, which names none; "
                f"it has {checks.listed(ends)}"
            )
        found += hits
    return [name for name in known if name in set(found)]


def fingerprint(decoder):
    """sha256 of a decoder's weights, in float32: 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for name, p in sorted(decoder.named_parameters()):
        digest.update(name.encode())
        digest.update(p.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


# --- names and parts


def _key(name):
    """A parameter's name in another's dictionary, where a dot means a module."""
    return name.replace(".", "/")


def _module(name):
    """'blocks.0.attention.in_proj_weight' → 'blocks.0.attention.in_proj'."""
    return name.removesuffix("weight").rstrip("._")


def _pairs(slot, tensors, folder):
    """[((A, B) or None, rows)] of each stored part of a matrix, taken out of the tensors."""
    found = []
    for stored, rows in slot.parts:
        module = _PREFIX + stored.removesuffix(".weight")
        names = [f"{module}.lora_{half}.weight" for half in "AB"]
        pair = [tensors.pop(name, None) for name in names]
        if (pair[0] is None) != (pair[1] is None):
            raise ValueError(f"{folder} is damaged: it has one half of {module}")
        if pair[0] is None:
            found.append((None, rows))
            continue
        out, into = torch.empty(slot.shape, device="meta")[rows].shape
        got = (pair[1].shape[0], pair[0].shape[1])
        if got != (out, into):
            raise ValueError(
                f"{folder} is an adapter of another base: {module} is {(out, into)} here, "
                f"{got} there"
            )
        found.append((pair, rows))
    return found


def _stacked(slot, parts):
    """A and B of a whole matrix from those of its parts."""
    kept = [(pair, rows) for pair, rows in parts if pair is not None]
    if all(torch.equal(pair[0], kept[0][0][0]) for pair, _ in kept):
        A, wide = kept[0][0][0], False
    else:
        A, wide = torch.cat([pair[0] for pair, _ in kept]), True
    B, at = torch.zeros(slot.shape[0], A.shape[0]), 0
    for (_, own), rows in kept:
        rank = own.shape[1]
        B[rows, at : at + rank] = own.float()
        at += rank if wide else 0
    return A, B
