"""What a mixture of experts gains and costs, in small models: the runs behind its chapter.

    facts     a table of random facts learned by one layer: dense, mixture, dense of equal total;
              and a mixture of more experts of the same size
    text      a small Llama on documentation with its feed-forward nets exchanged: the same three;
              two controls whose router learns nothing: by a hash of the token, and by chance; and
              the dense model for as many steps as take the mixture's time. Each with its curve
    balance   one expert a token, the router started with a favourite: no remedy, the loss, a bias
    upcycle   half of the steps dense; then every expert begins as a copy, or dense goes on

Arms of a part differ in the one thing that they are named after: same data, steps, rate, length.
Every run is a function of its key, so that a killed recording goes on with the next key.
`python -m llmbook record moe` records all of it.
"""

import json
import time
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from llmbook.data import documentation
from llmbook.data.packing import Windows, pack
from llmbook.experiments.record import RECORDED
from llmbook.layers import GatedFeedForward
from llmbook.models.llama import Llama, LlamaConfig
from llmbook.models.pretrained import SHIPPED
from llmbook.moe import MoE, MoEConfig, Routing, balance_loss, bias_step, collect_routings, load
from llmbook.seeds import generator
from llmbook.tokenization import BPETokenizer
from llmbook.training.evaluate import validation_loss

OUT, GOES_ON = RECORDED / "moe_runs.json", True
PARTS = ("facts", "more experts", "balance", "text", "upcycle")
SEEDS = (0, 1, 2, 3, 4)
N_EXPERTS, K = 8, 2

# facts
NAMES, VALUES, FACT_WIDTH, FACT_HIDDEN = 96, 64, 32, 32  # names of each half, answers; d, active F
FACT_STEPS, FACT_BATCH, FACT_RATE = 1000, 512, 1e-2
FACT_ARMS = ("dense", "mixture", "wide")

# text
CONTEXT, BATCH, WIDTH, LAYERS = 64, 24, 96, 2
ACTIVE = 192  # hidden units that a token passes through in a layer, in every arm but "wide"
TEXT_STEPS, TEXT_RATE = 600, 4e-3  # about once through the text
LONGER = 790  # a step of the mixture took 1.32 times a dense one's
TEXT_ARMS = ("dense", "mixture", "dense longer", "wide", "hash", "random")
PROBE_EVERY = 50  # steps between two points of a curve
BALANCE_STEPS, BALANCE_ARMS = 120, ("none", "loss 0.01", "loss 0.1", "bias")
FAVOUR = 4.0  # the mean logit that expert 0 starts with
UPCYCLE_ARMS = ("dense", "upcycled")


def schedule(step, steps):
    """The rate's factor: up over a twentieth of the steps, then down to 0 in a line."""
    warmup = max(1, steps // 20)
    return min((step + 1) / warmup, (steps - step) / (steps - warmup))


# --- facts


class FactTable(nn.Module):
    """Two names in, an answer out: a residual feed-forward layer between embeddings and a head."""

    def __init__(self, ffn, width=FACT_WIDTH):
        super().__init__()
        self.first, self.second = nn.Embedding(NAMES, width), nn.Embedding(NAMES, width)
        self.ffn = ffn
        self.head = nn.Linear(width, VALUES)

    def forward(self, pairs):
        """int64 (batch, 2) → logits (batch, VALUES)."""
        x = self.first(pairs[:, 0]) + self.second(pairs[:, 1])
        return self.head(x + self.ffn(x))


def fact_layer(arm, n_experts=N_EXPERTS, k=K):
    """The layer of an arm: active width FACT_HIDDEN, or n_experts / k times that in all."""
    if arm.startswith("mixture"):
        return MoE(MoEConfig(FACT_WIDTH, FACT_HIDDEN // k, n_experts, k))
    return GatedFeedForward(
        FACT_WIDTH, FACT_HIDDEN * n_experts // k if arm == "wide" else FACT_HIDDEN
    )


def run_facts(arm, seed, steps=FACT_STEPS, n_experts=N_EXPERTS):
    """Learn NAMES² random facts; the share known at the end, and the seconds it took.

    n_experts: of the arm "mixture", all of the same width, two of them for each token.
    """
    g = generator(seed, "facts")
    answers = torch.randint(VALUES, (NAMES, NAMES), generator=g)
    torch.manual_seed(seed)
    model = FactTable(fact_layer(arm, n_experts))
    adam = torch.optim.Adam(model.parameters(), FACT_RATE)
    began = time.process_time()
    for step in range(steps):
        pairs = torch.randint(NAMES, (FACT_BATCH, 2), generator=g)
        with collect_routings(model) as routings:
            loss = F.cross_entropy(model(pairs), answers[pairs[:, 0], pairs[:, 1]])
        if routings:
            loss = loss + 0.01 * balance_loss(routings[0])
        adam.param_groups[0]["lr"] = FACT_RATE * schedule(step, steps)
        adam.zero_grad()
        loss.backward()
        adam.step()
    every = torch.cartesian_prod(torch.arange(NAMES), torch.arange(NAMES))
    with torch.no_grad():
        known = (model(every).argmax(-1) == answers.flatten()).double().mean()
    return {
        "known": round(float(known), 4),
        "seconds": round(time.process_time() - began, 2),
        "parameters": sum(p.numel() for p in model.ffn.parameters()),
    }


# --- text


@dataclass(frozen=True)
class Text:
    """The documentation as ids: two streams, and for each validation token the text's kind.

    kinds: int64 (validation tokens,), 0 for Python's language topics, 1 for docstrings.
    """

    train: torch.Tensor
    validation: torch.Tensor
    kinds: torch.Tensor
    vocab_size: int
    about: dict


def read_text():
    """`documentation`'s "quick" corpus in the small model's tokens."""
    tokenizer = BPETokenizer.load(SHIPPED / "small")
    sides = [[*documentation(split)] for split in ("train", "validation")]
    ids = [[tokenizer.encode(document.text, ()) for document in side] for side in sides]
    train, validation = (pack(side) for side in ids)
    kinds = [
        torch.full((len(row),), int(not document.name.startswith("pydoc_data")))
        for document, row in zip(sides[1], ids[1], strict=True)
    ]
    about = {
        "train": documentation("train").card(),
        "validation": documentation("validation").card(),
        "tokens": len(train),
    }
    return Text(train, validation, torch.cat(kinds), len(tokenizer), about)


class FixedRouter(nn.Module):
    """A router that learns nothing: by a table of the token's id ("hash"), or by chance.

    `ids` must hold the batch's token ids, flat, before a forward pass. Each chosen expert's weight
    is 1 / k. Source: Roller et al. 2021.
    """

    def __init__(self, kind, vocab_size, n_experts, k, seed, layer):
        super().__init__()
        self.kind, self.k, self.n_experts, self.ids = kind, k, n_experts, None
        self.draws = generator(seed, kind, layer)
        scores = torch.rand(vocab_size, n_experts, generator=self.draws)
        self.register_buffer("table", scores.topk(k, -1).indices)

    def forward(self, x):
        """(N, D) → `Routing`; x is not looked at."""
        if self.kind == "hash":
            chosen = self.table[self.ids]
        else:
            scores = torch.rand(len(x), self.n_experts, generator=self.draws)
            chosen = scores.topk(self.k, -1).indices
        weights = torch.full(chosen.shape, 1 / self.k)
        even = torch.full((len(x), self.n_experts), 1 / self.n_experts)
        return Routing(chosen, weights, even, torch.zeros_like(even))


def build_text(arm, vocab_size, seed, moe=None):
    """A Llama whose feed-forward nets are the arm's; `moe`: the mixture's config, if not usual."""
    torch.manual_seed(seed)
    width = ACTIVE * N_EXPERTS // K if arm == "wide" else ACTIVE
    dense = arm in ("dense", "dense longer", "wide")
    sizes = dict(d_model=WIDTH, n_layers=LAYERS, n_heads=4, d_ff=width, max_len=CONTEXT)
    model = Llama(LlamaConfig(vocab_size, tied=True, **sizes))
    for block in model.blocks:  # as experts begin; at this width 0.02 is a slow start
        block.ffn = GatedFeedForward(WIDTH, width)
    if dense:
        return model
    config = moe or MoEConfig(WIDTH, ACTIVE // K, N_EXPERTS, K)
    for i, block in enumerate(model.blocks):
        block.ffn = MoE(config)
        if arm in ("hash", "random"):
            block.ffn.router = FixedRouter(arm, vocab_size, config.n_experts, config.k, seed, i)
    if arm in ("hash", "random"):
        routers = [block.ffn.router for block in model.blocks]
        model.tokens.register_forward_pre_hook(lambda _, inputs: _tell_ids(routers, *inputs))
    return model


def _tell_ids(routers, ids):
    for router in routers:
        router.ids = ids.flatten()


def train_text(
    model, text, seed, steps, *, balance=0.01, bias_rate=0.0, first=0, total=None, probe=None
):
    """Train on `steps` batches from `first` on, of a schedule of `total`.

    balance: the loss's weight ("switch" convention, a layer's mean). bias_rate: `bias_step`'s
    instead. probe(steps done, CPU seconds so far), if given, is called every PROBE_EVERY steps,
    off the clock. Returns CPU seconds and, per step, the largest load and the loss E Σ f P, each
    the mean over layers.
    """
    total = total or steps
    windows = Windows(text.train, CONTEXT, seed)
    adam = torch.optim.AdamW(model.parameters(), TEXT_RATE, betas=(0.9, 0.95), weight_decay=0.0)
    largest, evenness, began = [], [], time.process_time()
    model.train()
    for step in range(first, first + steps):
        if probe is not None and step > first and (step - first) % PROBE_EVERY == 0:
            pause = time.process_time()
            probe(step, pause - began)
            model.train()
            began += time.process_time() - pause
        with collect_routings(model) as routings:
            ids, targets = windows.batch(step, BATCH)
            loss = F.cross_entropy(model(ids).flatten(0, 1), targets.flatten())
        if routings:
            auxiliary = sum(balance_loss(r) for r in routings) / len(routings)
            loss = loss + balance * auxiliary
            largest.append(sum(float(load(r).max()) for r in routings) / len(routings))
            evenness.append(float(auxiliary.detach()))
            if bias_rate:
                for block, routing in zip(model.blocks, routings, strict=True):
                    bias_step(block.ffn.router.bias, routing.counts, bias_rate)
        adam.param_groups[0]["lr"] = TEXT_RATE * schedule(step, total)
        adam.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
    return time.process_time() - began, largest, evenness


def held_out(model, text):
    """Loss on 512 windows spread over the validation text, always the same: nats a token."""
    model.eval()
    return round(validation_loss(model, text.validation, CONTEXT, windows=512, batch_size=64), 5)


def run_text(text, arm, seed, steps=TEXT_STEPS):
    """One arm trained and measured: held-out loss, CPU seconds, what its experts stand for."""
    model = build_text(arm, text.vocab_size, seed)
    curve = []  # steps done, held-out loss, CPU seconds

    def probe(done, seconds):
        curve.append([done, held_out(model, text), round(seconds, 2)])

    steps = LONGER if arm == "dense longer" else steps
    seconds, _, _ = train_text(model, text, seed, steps, probe=probe)
    probe(steps, seconds)
    found = {"loss": curve[-1][1], "seconds": round(seconds, 1), "curve": curve}
    found["parameters"] = model.n_parameters
    if any(isinstance(block.ffn, MoE) for block in model.blocks):
        found |= specialisation(model, text)
    return found


def run_balance(text, arm, seed, steps=BALANCE_STEPS):
    """One expert a token, the router started with a favourite; the load over the steps."""
    config = MoEConfig(
        WIDTH, ACTIVE, N_EXPERTS, 1, router="softmax_before", balance_bias=arm == "bias"
    )
    model = build_text("mixture", text.vocab_size, seed, config)
    favour_first(model, text)
    weight = float(arm.split()[1]) if arm.startswith("loss") else 0.0
    _, largest, evenness = train_text(
        model, text, seed, steps, balance=weight, bias_rate=0.01 if arm == "bias" else 0.0
    )
    tail = steps // 10
    every = max(1, steps // 50)
    return {
        "loss": held_out(model, text),
        "largest load": round(sum(largest[-tail:]) / tail, 4),
        "balance loss": round(sum(evenness[-tail:]) / tail, 4),
        "largest loads": [round(v, 4) for v in largest[::every]],
        "unused experts": specialisation(model, text)["unused experts"],
    }


@torch.no_grad()
def favour_first(model, text):
    """Turn every router so that expert 0's mean logit is FAVOUR: where collapse begins."""
    seen = {}
    hooks = [
        block.ffn.router.register_forward_hook(
            lambda module, inputs, _: seen.__setitem__(module, inputs[0].mean(0))
        )
        for block in model.blocks
    ]
    model(text.train[: CONTEXT * BATCH].long().view(BATCH, CONTEXT))
    for hook in hooks:
        hook.remove()
    for router, mean in seen.items():
        router.weight[0] += FAVOUR * mean / mean.square().sum()


def run_upcycle(text, arm, seed, steps=TEXT_STEPS):
    """Half of the steps dense; then an expert for each copy, or dense as before."""
    model = build_text("dense", text.vocab_size, seed)
    half = steps // 2
    train_text(model, text, seed, half, total=steps)
    before = held_out(model, text)
    if arm == "upcycled":
        for block in model.blocks:
            block.ffn = MoE.from_dense(block.ffn, N_EXPERTS, K)
    copied = held_out(model, text)
    seconds, _, _ = train_text(model, text, seed, steps - half, first=half, total=steps)
    return {
        "before": before,
        "copied": copied,
        "loss": held_out(model, text),
        "seconds": round(seconds, 1),
    }


# --- what experts stand for


@torch.no_grad()
def specialisation(model, text, windows=256):
    """How much an expert's choice tells of the token and of the kind of text, and the loads.

    "token", "kind": I(expert; what) / H(expert) of each layer's first choices: 0, they have
    nothing to do with each other; 1, `what` decides the expert. A table of few counts shows some
    by chance: what shuffled experts show is taken off.
    """
    model.eval()
    stride = (len(text.validation) - CONTEXT) // windows
    at = torch.arange(windows)[:, None] * stride + torch.arange(CONTEXT)
    ids, kinds = text.validation.long()[at], text.kinds[at].flatten()
    with collect_routings(model) as routings:
        model(ids)
    tokens = ids.flatten()
    mix = torch.randperm(len(tokens), generator=generator(0, "shuffled"))
    found = {"loads": [], "token": [], "kind": [], "unused experts": 0}
    for routing in routings:
        expert = routing.chosen[:, 0]
        share = load(routing)
        found["loads"].append([round(float(v), 4) for v in share])
        found["unused experts"] += int((share == 0).sum())
        for name, what in (("token", tokens), ("kind", kinds)):
            shared = mutual_information(expert, what) - mutual_information(expert[mix], what)
            found[name].append(round(max(0.0, shared), 4))
    return found


def mutual_information(expert, what):
    """I(expert; what) / H(expert), from counts; 0 where only one expert is used."""
    table = torch.zeros(int(expert.max()) + 1, int(what.max()) + 1, dtype=torch.float64)
    table.index_put_((expert, what), torch.ones((), dtype=torch.float64), accumulate=True)
    p = table / table.sum()
    rows, columns = p.sum(1), p.sum(0)
    entropy = -(rows * rows.clamp(min=1e-300).log()).sum()
    outer = rows[:, None] * columns
    shared = (p * (p.clamp(min=1e-300) / outer.clamp(min=1e-300)).log()).sum()
    return float(shared / entropy) if entropy > 1e-9 else 0.0


# --- all of it


def recorded():
    """What `record moe` measured, from the package: {part: {"arm/seed": run}}, and `_run`."""
    return json.loads(OUT.read_text(encoding="utf-8"))


def spread(runs, arm, name="loss"):
    """A measure of every seed of an arm, in the order of the seeds."""
    return [run[name] for key, run in runs.items() if key.rpartition("/")[0] == arm]


def add_arguments(parser):
    """The options of this recording."""
    parser.add_argument(
        "--only", nargs="+", choices=PARTS, help="these parts, going on where the file stops"
    )
    parser.add_argument("--seeds", nargs="+", type=int, choices=SEEDS, help="these seeds alone")


def run(options, record):
    """Make what is missing of every part, run by run; under half an hour of one CPU core."""
    text = read_text()
    make = {
        "facts": (FACT_ARMS, SEEDS, run_facts),
        "more experts": (
            ("mixture 32",),
            SEEDS,
            lambda arm, seed: run_facts(arm, seed, n_experts=int(arm.split()[1])),
        ),
        "balance": (BALANCE_ARMS, SEEDS, lambda *key: run_balance(text, *key)),
        "text": (TEXT_ARMS, SEEDS, lambda *key: run_text(text, *key)),
        "upcycle": (UPCYCLE_ARMS, SEEDS, lambda *key: run_upcycle(text, *key)),
    }
    for part in options.only or PARTS:
        arms, seeds, function = make[part]
        runs = record.content.get(part, {})
        # seed by seed, so that a recording cut short has whole rows
        for seed in (s for s in seeds if s in (options.seeds or SEEDS)):
            for arm in arms:
                key = f"{arm}/{seed}"
                if key not in runs:
                    runs[key] = function(arm, seed)
                    record.content[part] = runs
                    record.save()
                    print(f"{part} {key}: {runs[key]}", flush=True)
