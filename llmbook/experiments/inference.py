"""What a smaller cache still finds, how far a window can be used, and a small model from a large.

    recall    texts of pairs (key, value) where a key that comes again has its old value. Small
              Transformers learn to look it up; asked afterwards: a key that stood once, at a
              chosen depth of a text of a chosen length. The arms differ in what they cache.
    distil    students of the shipped `small`: from the text, from the teacher's whole
              distribution on it, and then on texts that the student writes itself.

`python -m llmbook record inference` records all of it in twenty minutes of one core and writes one
student, the weights `draft` with which the chapter speculates. Every run is a function of its key.
"""

import copy
import json
import time

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from llmbook.decoding import generate
from llmbook.experiments.mamba import fit
from llmbook.experiments.record import RECORDED
from llmbook.layers import FeedForward, RMSNorm
from llmbook.models import load
from llmbook.models.gpt import GPT, GPTConfig
from llmbook.models.pretrained import SHIPPED
from llmbook.positions import Rotary
from llmbook.seeds import generator

SEEDS = (1, 2, 3)
OUT, GOES_ON = RECORDED / "inference_runs.json", True

# --- recall: attention with less to remember

KEYS = 48  # and as many values, with ids from KEYS on
SHORT, LONG = 64, 256  # tokens: what it is trained on, and what it is trained on last and briefly
LENGTHS, DEPTHS = (32, 64, 128, 192, 256), (0.0, 0.25, 0.5, 0.75, 1.0)
RECALL_STEPS, LONG_STEPS = 600, 60
ARMS = {  # of each layer: the kind, how many key/value heads, or how many tokens a window has
    "every head": [("heads", 4)] * 2,
    "2 shared": [("heads", 2)] * 2,
    "1 shared": [("heads", 1)] * 2,
    "latent": [("latent", 16)] * 2,
    "windows": [("window", 16)] * 3,
    "windows, 1 global": [("window", 16)] * 2 + [("heads", 4)],
    "1 global, windows": [("heads", 4)] + [("window", 16)] * 2,
}


class Heads(nn.Module):
    """Causal attention with rotary positions; groups of the heads share keys and values.

    numbers: what it caches of a token. window: how many tokens it sees, or None for all.
    """

    def __init__(self, width, kv_heads, window=None, heads=4):
        super().__init__()
        self.heads, self.kv_heads, self.d = heads, kv_heads, width // heads
        self.window, self.numbers = window, 2 * kv_heads * self.d
        self.q = nn.Linear(width, width, bias=False)
        self.kv = nn.Linear(width, self.numbers, bias=False)
        self.rotary = Rotary(self.d, base=1000.0)

    def forward(self, x):
        q = rearrange(self.q(x), "b t (h d) -> b h t d", h=self.heads)
        k, v = rearrange(self.kv(x), "b t (n g d) -> n b g t d", n=2, g=self.kv_heads)
        where = torch.arange(x.shape[1])
        q, k = self.rotary(q, k, where)
        apart = where[:, None] - where
        seen = (apart >= 0) & (apart < (self.window or len(where)))
        o = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, enable_gqa=True)
        return rearrange(o, "b h t d -> b t (h d)")


class Latent(nn.Module):
    """Multi-head latent attention: what is kept of a token is `rank` numbers and one rotary key.

        c = W_c x,  k_h = [W_k^h c; R_t W_r x],  v_h = W_v^h c

    The last part of each key, which alone is turned, is the same for all heads. Source:
    DeepSeek-AI 2024.
    """

    def __init__(self, width, rank, turned=8, heads=4):
        super().__init__()
        self.heads, self.d, self.turned, self.numbers = (
            heads,
            width // heads,
            turned,
            rank + turned,
        )
        self.q = nn.Linear(width, heads * (self.d + turned), bias=False)
        self.down, self.norm = nn.Linear(width, rank + turned, bias=False), RMSNorm(rank)
        self.up = nn.Linear(rank, 2 * width, bias=False)
        self.rotary = Rotary(turned, base=1000.0)

    def forward(self, x):
        q = rearrange(self.q(x), "b t (h d) -> b h t d", h=self.heads)
        c, turn = self.down(x).split([self.numbers - self.turned, self.turned], -1)
        k, v = rearrange(self.up(self.norm(c)), "b t (n h d) -> n b h t d", n=2, h=self.heads)
        flat, mine = q.split([self.d, self.turned], -1)
        mine, turn = self.rotary(mine, turn[:, None], torch.arange(x.shape[1]))
        q = torch.cat([flat, mine], -1)
        k = torch.cat([k, turn.expand(-1, self.heads, -1, -1)], -1)
        o = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return rearrange(o, "b h t d -> b t (h d)")


def attention_of(kind, size, width):
    """One of the kinds in ARMS."""
    if kind == "window":
        return Heads(width, 4, window=size)
    return Latent(width, size) if kind == "latent" else Heads(width, size)


class Recaller(nn.Module):
    """Embedding, pre-norm blocks with the attention of each of `layers`, norm, head.

    A token is embedded with the one before it, so that a value knows its key from the start: the
    first half of looking up, which attention would learn late and by luck.
    """

    def __init__(self, layers, width=64):
        super().__init__()
        self.tokens, self.before = (nn.Embedding(2 * KEYS, width) for _ in range(2))
        self.blocks = nn.ModuleList()
        for kind, size in layers:
            mix = attention_of(kind, size, width)
            self.blocks.append(
                nn.ModuleDict(
                    {
                        "norm1": RMSNorm(width),
                        "mix": mix,
                        "out": nn.Linear(width, width, bias=False),
                        "norm2": RMSNorm(width),
                        "ffn": FeedForward(width, 2 * width),
                    }
                )
            )
        self.norm, self.head = RMSNorm(width), nn.Linear(width, 2 * KEYS, bias=False)

    def forward(self, ids):
        x = self.tokens(ids) + F.pad(self.before(ids), (0, 0, 1, -1))
        for block in self.blocks:
            x = x + block["out"](block["mix"](block["norm1"](x)))
            x = x + block["ffn"](block["norm2"](x))
        return self.head(self.norm(x))

    def cached(self, tokens):
        """Numbers that its cache holds of a text so long."""
        mixes = [block["mix"] for block in self.blocks]
        return sum(m.numbers * min(tokens, getattr(m, "window", None) or tokens) for m in mixes)


def pair_texts(n, tokens, gen):
    """Texts of pairs: (n, tokens) ids, key, value, key, value, …, one value a key and text.

    How many keys a text uses is drawn too, evenly in its logarithm: with few of them a key comes
    again soon, which is where learning begins.
    """
    values = torch.randint(KEYS, (n, KEYS), generator=gen) + KEYS
    used = torch.exp(torch.rand(n, 1, generator=gen) * torch.tensor(KEYS / 2).log()) * 2
    order = torch.rand(n, KEYS, generator=gen).argsort(-1)
    which = (torch.rand(n, tokens // 2, generator=gen) * used).long()
    keys = order.gather(1, which)
    return torch.stack([keys, values.gather(1, keys)], -1).flatten(1)


def needles(n, tokens, depth, gen):
    """Texts that end by asking for a key that stood once, at a depth: (n, tokens − 1), answers.

    depth 0 is the first pair, 1 the last before the question.
    """
    values = torch.randint(KEYS, (n, KEYS), generator=gen) + KEYS
    order = torch.rand(n, KEYS, generator=gen).argsort(-1)
    pairs = tokens // 2
    place = round(depth * (pairs - 2))
    which = torch.randint(1, KEYS, (n, pairs), generator=gen)
    which[:, place] = which[:, -1] = 0
    keys = order.gather(1, which)
    ids = torch.stack([keys, values.gather(1, keys)], -1).flatten(1)
    return ids[:, :-1], ids[:, -1]


@torch.no_grad()
def found(model, tokens, depth, n=200):
    """Share of needles found: 1/KEYS would be luck among the values."""
    ids, answers = needles(n, tokens, depth, generator(0, "needles"))
    return (model(ids)[:, -1].argmax(-1) == answers).double().mean().item()


def recall_run(arm, seed, steps=RECALL_STEPS, long_steps=LONG_STEPS):
    """Train an arm on short texts, then briefly on long ones: what it finds, before and after."""
    torch.manual_seed(seed)
    model, gen = Recaller(ARMS[arm]), generator(seed, "pairs")

    def batches(n, tokens):
        def batch(_):
            ids = pair_texts(n, tokens + 2, gen)
            return ids[:, :-1], ids[:, 1:]

        return batch

    def loss(logits, y):  # of the values: keys cannot be foreseen
        return F.cross_entropy(logits[:, ::2].flatten(0, 1), y[:, ::2].flatten())

    seconds = fit(model.train(), batches(32, SHORT), loss, steps, 3e-3)
    before = [[found(model.eval(), n, depth) for depth in DEPTHS] for n in LENGTHS]
    seconds += fit(model.train(), batches(8, LONG), loss, long_steps, 1e-3)
    after = [[found(model.eval(), n, depth) for depth in DEPTHS] for n in LENGTHS]
    return {
        "trained short": before,
        "and briefly long": after,
        "cached": [model.cached(n) for n in LENGTHS],
        "weights": sum(p.numel() for p in model.parameters()),
        "seconds": round(seconds, 1),
    }


# --- distil: a small model from a large one

WINDOW, ROWS = 96, 8  # tokens of a training text, and how many a step
STUDENT = GPTConfig(vocab_size=384, max_len=256, d_model=64, n_layers=2, n_heads=4, eos_id=0)
FIRST, SECOND, DRAFT = 1200, 300, 2000  # steps: of every student, from there on, of the draft
PROMPT = 24  # tokens of the text that a student continues itself
RATE, LATER = 4e-3, 1e-3


def student(seed):
    """A GPT of 139,000 weights, a ninth of its teacher's."""
    torch.manual_seed(seed)
    return GPT(STUDENT)


def windows(ids, gen, tokens=WINDOW):
    """ROWS random windows of a stream: inputs and the token after each, (ROWS, tokens)."""
    starts = torch.randint(len(ids) - tokens, (ROWS, 1), generator=gen)
    rows = ids[starts + torch.arange(tokens + 1)].long()
    return rows[:, :-1], rows[:, 1:]


def forward_kl(logits, teacher):
    """Σ p_T log(p_T / p_S), in nats a token: covers whatever the teacher thinks possible."""
    log_p, log_q = teacher.log_softmax(-1), logits.log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1).mean()


def reverse_kl(logits, teacher):
    """Σ p_S log(p_S / p_T): avoids whatever the teacher thinks impossible."""
    return forward_kl(teacher, logits)


def train_student(model, kind, text, teacher, gen, steps, rate):
    """Train a student from "text", from the "teacher" on text, or on its "own" continuations."""

    def batch(_):
        x, y = windows(text.train, gen)
        if kind == "text":
            return x, y
        if kind == "own":
            x = generate(
                model,
                x[:, :PROMPT],
                max_new_tokens=WINDOW - PROMPT,
                temperature=1.0,
                seed=gen,
                eos_id=(),
            )
        with torch.no_grad():
            return x, teacher(x)

    def loss(logits, y):
        if kind == "text":
            return F.cross_entropy(logits.flatten(0, 1), y.flatten())
        if kind == "own":
            return reverse_kl(logits[:, PROMPT - 1 :], y[:, PROMPT - 1 :])
        return forward_kl(logits, y)

    return fit(model.train(), batch, loss, steps, rate)


@torch.no_grad()
def measure(model, text, teacher, rows=64):
    """Held-out loss, how near the teacher's distribution, and what the teacher thinks of samples.

    In nats a token: loss; KL(teacher ‖ student) on held-out text; the teacher's surprise at 72
    tokens that the student wrote at temperature 1, and the student's own at these.
    """
    model.eval()
    gen = generator(0, "held out")
    x, y = (
        torch.cat(part)
        for part in zip(*(windows(text.validation, gen) for _ in range(rows // ROWS)), strict=True)
    )
    logits, wanted = model(x), teacher(x)
    own = generate(
        model, x[:, :PROMPT], max_new_tokens=WINDOW - PROMPT, temperature=1.0, eos_id=()
    )
    surprise = [
        F.cross_entropy(
            one(own)[:, PROMPT - 1 : -1].flatten(0, 1), own[:, PROMPT:].flatten()
        ).item()
        for one in (teacher, model)
    ]
    return {
        "loss": F.cross_entropy(logits.flatten(0, 1), y.flatten()).item(),
        "from teacher": forward_kl(logits, wanted).item(),
        "teacher's surprise": surprise[0],
        "own surprise": surprise[1],
    }


def distil_run(seed, text, teacher, first=FIRST, second=SECOND):
    """Four students of one beginning: text; teacher; teacher, then more of it; then on its own."""
    result = {"the teacher itself": measure(teacher, text, teacher)}
    for kind in ("text", "teacher"):
        model = student(seed)
        seconds = train_student(model, kind, text, teacher, generator(seed, "text"), first, RATE)
        result[kind] = {**measure(model, text, teacher), "seconds": round(seconds, 1)}
    for kind in ("teacher", "own"):
        later, gen = copy.deepcopy(model), generator(seed, "later")
        seconds = train_student(later, kind, text, teacher, gen, second, LATER)
        name = f"teacher, then {'more of it' if kind == 'teacher' else 'on its own texts'}"
        result[name] = {**measure(later, text, teacher), "seconds": round(seconds, 1)}
    return result


def draft_run(text, teacher, steps=DRAFT, folder=SHIPPED / "draft"):
    """The student that guesses for its teacher: trained longer, kept in float16."""
    model = student(0)
    gen = generator(0, "draft")
    seconds = train_student(model, "teacher", text, teacher, gen, steps, RATE)
    model.save(folder, dtype="float16")
    return {**measure(load(folder), text, teacher), "steps": steps, "seconds": round(seconds, 1)}


# --- the record


def recorded_runs():
    """What is recorded: {part: {key: found}}; empty where nothing is."""
    return json.loads(OUT.read_text(encoding="utf-8")) if OUT.is_file() else {}


def points():
    """Every run of the record: (part, key, function of the text and the teacher)."""
    yield "draft", "0", draft_run
    for seed in SEEDS:
        for arm in ARMS:
            yield "recall", f"{arm}/{seed}", lambda *_, arm=arm, seed=seed: recall_run(arm, seed)
    for seed in SEEDS:
        yield "distil", str(seed), lambda *given, seed=seed: distil_run(seed, *given)


def run(options, record):
    """Make every run that the record lacks, writing it after each."""
    from llmbook.experiments.moe import read_text

    text = teacher = None
    for part, key, function in points():
        runs = record.content.setdefault(part, {})
        if key in runs:
            continue
        if text is None:
            text, teacher = read_text(), load("small").eval()
        began = time.process_time()
        runs[key] = function(text, teacher)
        record.save()
        print(part, key, f"{time.process_time() - began:.0f} s", flush=True)
