"""The encoder–decoder Transformer, trained small: whole, lamed, its norms moved, its start scaled.

    translator  two layers each way: what it gets right, where it looks, what each layer knows
    parts       one part missing or exchanged at a time; one layer each way
    norms       norms after the sum, before the sub-layer or nowhere; with and without warm-up, and
                at once at a fifth of the rate; four layers each way
    deep        the same with six layers each way, and norms without the sums round them
    scales      the matrices of the sub-layers started s times as large; two layers each way

Arms of one part share data, batches, steps and, for a seed, the weights that they start from; they
differ in what their key names. `python -m llmbook record transformer` records all of it over five
seeds.
"""

import math

import torch
from safetensors.torch import load, save
from torch import nn

from llmbook.experiments import translator as lab
from llmbook.experiments.record import RECORDED, by_seed
from llmbook.models.pretrained import SHIPPED
from llmbook.models.transformer import Transformer, TransformerConfig
from llmbook.positions import sinusoidal

OUT, GOES_ON = RECORDED / "transformer_runs.json", True
WEIGHTS = SHIPPED / "transformer" / "translator.safetensors"
SEEDS = (1, 2, 3, 4, 5)

# --- models


def build(seed, layers, d=32, d_ff=64, heads=4, kind=Transformer, **options):
    """A translator with norms before its sub-layers and no dropout; the seed draws its weights."""
    torch.manual_seed(seed)
    options = {"placement": "pre", "dropout": 0.0, **options}
    size = {"n_encoder_layers": layers, "n_decoder_layers": layers}
    config = TransformerConfig(len(lab.vocabulary()), d, heads, d_ff=d_ff, **size, **options)
    return lab.by_formula(kind(config))


class NoResidual(nn.Module):
    """A sub-layer and its norm, without the sum."""

    def __init__(self, residual):
        super().__init__()
        self.sublayer, self.norm = residual.sublayer, residual.norm

    def forward(self, x, *args, **kwargs):
        return self.sublayer(self.norm(x), *args, **kwargs)


class NoPositions(Transformer):
    """A Transformer that is not told where a token stands."""

    def embed(self, table, ids, positions):
        return math.sqrt(self.config.d_model) * table(ids)


class NoScale(Transformer):
    """A Transformer without the factor √d on its embeddings."""

    def embed(self, table, ids, positions):
        return table(ids) + sinusoidal(positions, self.config.d_model).to(ids.device)


def without_norms(model):
    """The same model with every norm taken out."""
    for layer in [*model.encoder, *model.decoder]:
        for _, part in layer.named_children():
            part.norm = nn.Identity()
    model.encoder_norm = model.decoder_norm = nn.Identity()
    return model


def without_sums(model):
    """The same model with every sum taken out: a sub-layer's output is all that goes on."""
    for layer in [*model.encoder, *model.decoder]:
        for name, part in list(layer.named_children()):
            setattr(layer, name, NoResidual(part))
    return model


def normed(place, seed, layers):
    """A translator whose norms stand "pre", "post" or nowhere ("none").

    "no sums": norms before the sub-layers, and no residual connections.
    """
    model = build(seed, layers, placement="post" if place == "post" else "pre")
    if place == "no sums":
        return without_sums(model)
    return without_norms(model) if place == "none" else model


# --- parts

PARTS = {  # what the arm lacks or has: options of `build`, or what is done to the model
    "all": {},
    "positions": {"kind": NoPositions},
    "√d": {"kind": NoScale},
    "one head": {"heads": 1},
    "GELU": {"activation": "gelu"},
    "SwiGLU": {"activation": "swiglu", "d_ff": 43},  # as many weights as ReLU's 64, but for biases
    "residual": {},
    "norm": {},
    "feed-forward": {},
    "1/√d_k": {},
}
PART_STEPS, PART_RATE = 120, 1e-2


def lamed(part, seed):
    """One layer each way, with the part missing or exchanged."""
    model = build(seed, 1, **PARTS[part])
    if part == "norm":
        return without_norms(model)
    if part == "residual":
        return without_sums(model)
    for layer in [*model.encoder, *model.decoder]:
        if part == "feed-forward":
            layer.transform = nn.Identity()
        for one in layer.children():
            if part == "1/√d_k" and hasattr(getattr(one, "sublayer", None), "scale"):
                one.sublayer.scale = 1.0
    return model


def part_loss(part, seed, steps=PART_STEPS):
    """Nats a token on unseen sentences after a short training."""
    pairs = lab.Pairs(steps * 32, seed, exams=300)
    model = lamed(part, seed)
    lab.fit(model, pairs.lessons, steps, PART_RATE, seed=seed)
    return round(lab.nats(model, pairs), 4)


# --- norms

NORMS = {  # arm: (place, peak of the rate, share of the steps that it rises over)
    "pre, warm-up": ("pre", 5e-3, 0.1),
    "pre, at once": ("pre", 5e-3, 0.0),
    "post, warm-up": ("post", 5e-3, 0.1),
    "post, at once": ("post", 5e-3, 0.0),
    "post, at once, a fifth": ("post", 1e-3, 0.0),
    "none, warm-up": ("none", 5e-3, 0.1),
}
NORM_LAYERS, NORM_STEPS = 4, 100
DEEP = {**NORMS, "no sums, warm-up": ("no sums", 5e-3, 0.1)}
DEEP_LAYERS, DEEP_STEPS = 6, 200


def norm_run(arm, seed, layers=NORM_LAYERS, steps=NORM_STEPS):
    """{"loss" on unseen sentences, "losses": twenty means} of one training."""
    place, rate, warm = DEEP[arm]
    pairs = lab.Pairs(steps * 32, seed, exams=300)
    model = normed(place, seed, layers)
    losses = lab.fit(model, pairs.lessons, steps, rate, warm=warm, seed=seed)
    means = torch.tensor(losses).view(20, -1).mean(1).tolist()
    return {"loss": round(lab.nats(model, pairs), 4), "losses": [round(v, 3) for v in means]}


# --- the scale of the start

SCALES = (0.25, 1.0, 4.0)
SCALE_LAYERS, SCALE_STEPS = 2, 100


def scaled(model, s):
    """The model with every matrix of its sub-layers s times as large; embeddings stay."""
    with torch.no_grad():
        for stack in (model.encoder, model.decoder):
            for weight in stack.parameters():
                if weight.ndim > 1:
                    weight.mul_(s)
    return model


def scale_run(place, s, seed, layers=SCALE_LAYERS, steps=SCALE_STEPS):
    """The loss on unseen sentences, in nats a token, after training from a scaled start."""
    pairs = lab.Pairs(steps * 32, seed, exams=300)
    model = scaled(normed(place, seed, layers), s)
    lab.fit(model, pairs.lessons, steps, 3e-3, seed=seed)
    return round(lab.nats(model, pairs), 4)


# --- the translator

LESSONS, STEPS, SMOOTHING = 20_000, 500, 0.02


def translator(seed, steps=STEPS, lessons=LESSONS):
    """(what a translator of two layers each way does with unseen sentences, the model)."""
    pairs = lab.Pairs(lessons, seed)
    model = build(seed, 2, d=64, d_ff=128)
    losses = lab.fit(model, pairs.lessons, steps, 5e-3, smoothing=SMOOTHING, seed=seed)
    some = pairs.unseen[:200]
    found = {
        "exact": lab.exact(model, pairs),
        "losses": [round(v, 4) for v in torch.tensor(losses).view(20, -1).mean(1).tolist()],
        "deciders": _rounded(lab.on_deciders(model, pairs, some)),
        "lens": _rounded(lab.lens(model, pairs, some)),
        "mask": round(lab.loss_without_mask(model, pairs, some), 4),
    }
    return found, model


def _rounded(value):
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    return [_rounded(v) for v in value] if isinstance(value, list) else round(value, 4)


def ship(model, path=WEIGHTS):
    """Write a translator's weights as float16; the table that is three times there, once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tied = ("target_tokens.weight", "head.weight")
    state = model.state_dict().items()
    path.write_bytes(save({k: v.half().contiguous() for k, v in state if k not in tied}))


def shipped():
    """The translator of seed 1: weights by name, float32; the table of tokens is also the head."""
    return {name: value.float() for name, value in load(WEIGHTS.read_bytes()).items()}


def shipped_model():
    """The same as a model."""
    model, weights = build(1, 2, d=64, d_ff=128), shipped()
    tied = {name: weights["tokens.weight"] for name in ("target_tokens.weight", "head.weight")}
    model.load_state_dict(weights | tied)
    return model.eval()


# --- recording


def points():
    """(part, key, (function, arguments…)) of every run; what a chapter needs first comes first."""
    for seed in SEEDS:
        yield "translator", f"{seed}", (translator, seed)
    for seed in SEEDS:
        for arm in NORMS:
            yield "norms", f"{arm}/{seed}", (norm_run, arm, seed)
    for seed in SEEDS:
        for part in PARTS:
            yield "parts", f"{part}/{seed}", (part_loss, part, seed)
    for seed in SEEDS:
        for arm in DEEP:
            yield "deep", f"{arm}/{seed}", (norm_run, arm, seed, DEEP_LAYERS, DEEP_STEPS)
    for seed in SEEDS:
        for s in SCALES:
            for place in ("pre", "none"):
                yield "scales", f"{place}/{s:g}/{seed}", (scale_run, place, s, seed)


def over_seeds(part, name=""):
    """What was recorded of one arm, a value a seed."""
    return by_seed(OUT, part, name)


def add_arguments(parser):
    """One part alone, to record it in pieces."""
    parts = sorted({part for part, _, _ in points()})
    parser.add_argument("--part", choices=parts, help="record this part alone")


def run(options, record):
    """Make every run that the record lacks, writing it after each; ship seed 1's translator."""

    def keep(part, key, found):
        if part != "translator":
            return found
        numbers, model = found
        if key == "1":
            ship(model)
        return numbers

    chosen = [p for p in points() if getattr(options, "part", None) in (None, p[0])]
    record.make_missing(chosen, keep, tell=lambda found: str(found)[:90])
