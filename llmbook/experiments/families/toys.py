"""What a mask and an objective make of made languages: encoder, decoder and encoder–decoder.

    next       asked for the next of random tokens, with a causal mask and with everything in view
    blanks     words come in pairs, of which the second decides the first
    reading    labels and tags of rows of names, where a clue behind each name says its kind
    twice      who is "it", when the cue comes later, and when the text is told twice
    holes      sentences written by filling holes in any order
    prompts    one decoder, four tasks, named by the first token
    texts      the same three tasks with a source, for an encoder–decoder
    through    digits copied through cross-attention, and through one vector

Models are two layers of width 32, unless it says otherwise; arms of one part share seed, data,
batches, steps and rate. `python -m llmbook record families_toys` records five seeds.
"""

import random

import torch
import torch.nn.functional as F
from torch import nn

from llmbook.decoding import generate
from llmbook.experiments.record import RECORDED, recorded
from llmbook.layers import FeedForward, LayerNorm, Residual
from llmbook.losses import IGNORED
from llmbook.models.transformer import Transformer, TransformerConfig
from llmbook.multihead import MultiHeadAttention

OUT, GOES_ON = RECORDED / "families_toys.json", True
SEEDS = (1, 2, 3, 4, 5)


class Tiny(nn.Module):
    """A stack of blocks: a decoder with causal=True, an encoder without; logits of `out` classes.

    ids (batch, tokens) → (batch, tokens, out), out = vocab when None.
    """

    def __init__(self, vocab, length, causal, out=None, d=32, layers=2):
        super().__init__()
        self.causal = causal
        self.tokens, self.places = nn.Embedding(vocab, d), nn.Embedding(length, d)
        parts = [
            (
                Residual(MultiHeadAttention(d, 4), LayerNorm(d)),
                Residual(FeedForward(d, activation="gelu_tanh"), LayerNorm(d)),
            )
            for _ in range(layers)
        ]
        self.blocks = nn.ModuleList(nn.ModuleList(pair) for pair in parts)
        self.norm, self.read = LayerNorm(d), nn.Linear(d, out or vocab)
        for table in (self.tokens, self.places):
            nn.init.normal_(table.weight, std=0.3)

    def hidden(self, ids):
        """Normalised states: (batch, tokens, d)."""
        x = self.tokens(ids) + self.places.weight[: ids.shape[1]]
        for attend, transform in self.blocks:
            x = transform(attend(x, causal=self.causal))
        return self.norm(x)

    def forward(self, ids):
        """Logits."""
        return self.read(self.hidden(ids))


def fit(model, batch, steps, seed, lr=8e-3, loss=None):
    """AdamW with a warm-up and a slope on batch(generator) → (inputs, targets); the losses."""
    g, losses = torch.Generator().manual_seed(seed), []
    adam = torch.optim.AdamW(model.parameters(), lr, weight_decay=0.01, fused=True)
    slope = torch.optim.lr_scheduler.OneCycleLR(adam, lr, total_steps=steps, pct_start=0.2)
    for _ in range(steps):
        inputs, targets = batch(g)
        if loss is None:
            value = F.cross_entropy(
                model(inputs).flatten(0, 1), targets.flatten(), ignore_index=IGNORED
            )
        else:
            value = loss(inputs, targets)
        adam.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        slope.step()
        losses.append(value.item())
    return losses


def share(right):
    """The share of true values, to four digits."""
    return round(right.double().mean().item(), 4)


def _exam(seed):
    return torch.Generator().manual_seed(1000 + seed)


# --- next

SIGNS, WINDOW = 16, 16


def next_token(seed, steps=160):
    """{"causal", "sees everything"}: nats a token over the last twenty steps."""

    def batch(g):
        x = torch.randint(SIGNS, (32, WINDOW + 1), generator=g)
        return x[:, :-1], x[:, 1:]

    ends = {}
    for name, causal in (("causal", True), ("sees everything", False)):
        torch.manual_seed(seed)
        last = fit(Tiny(SIGNS, WINDOW, causal), batch, steps, seed)[-20:]
        ends[name] = round(sum(last) / len(last), 4)
    return ends


# --- blanks

WORDS, PAIRS = 12, 6


def blanks(seed, steps=220):
    """Shares of words found: of the first of a pair, by a masked and by a causal model."""
    decides = torch.randperm(WORDS, generator=torch.Generator().manual_seed(3))

    def text(n, g):
        right = torch.randint(WORDS, (n, PAIRS), generator=g)
        return torch.stack([decides[right], right], -1).flatten(1)

    def masked(g):
        x = text(32, g)
        hide = torch.rand(x.shape, generator=g) < 0.15
        return x.masked_fill(hide, WORDS), x.masked_fill(~hide, IGNORED)

    def following(g):
        x = text(32, g)
        return x[:, :-1], x[:, 1:]

    torch.manual_seed(seed)
    filler, writer = (Tiny(WORDS + 1, 2 * PAIRS, causal) for causal in (False, True))
    fit(filler, masked, steps, seed)
    fit(writer, following, steps, seed)
    x = text(500, _exam(seed))
    with torch.no_grad():
        right = []
        for place in range(0, 2 * PAIRS, 2):
            asked = x.clone()
            asked[:, place] = WORDS
            right.append(filler(asked)[:, place].argmax(-1) == x[:, place])
        guess = writer(x[:, :-1]).argmax(-1)
    return {
        "masked model: first of a pair": share(torch.stack(right)),
        "causal model: first of a pair": share(guess[:, 1::2] == x[:, 2::2]),
        "causal model: second of a pair": share(guess[:, 0::2] == x[:, 1::2]),
    }


# --- reading

NAMES, KINDS, EDGE = 10, 3, 19


def _posts(n, g):
    """[EDGE] name clue name clue … [EDGE], and what to say at each."""
    names = torch.randint(NAMES, (n, 7), generator=g)
    clues = torch.randint(10, 19, (n, 7), generator=g)
    edge = torch.full((n, 1), EDGE)
    kinds = (clues - 10) // KINDS
    tags = torch.stack([kinds, torch.full_like(clues, IGNORED)], -1).flatten(1)
    label = 3 + ((names < 5).sum(1, keepdim=True) > 3).long()
    x = torch.cat([edge, torch.stack([names, clues], -1).flatten(1), edge], 1)
    return x, torch.cat([label, tags, label], 1)


def reading(seed, steps=170):
    """Shares right: labels, said at the first place or the last, and tags of names."""
    found = {}
    for name, causal in (("encoder", False), ("decoder", True)):

        def batch(g, causal=causal):
            x, y = _posts(32, g)
            y[:, 0 if causal else -1] = IGNORED  # where this model is not asked
            return x, y

        torch.manual_seed(seed)
        model = Tiny(20, 16, causal, out=5)
        fit(model, batch, steps, seed)
        x, y = _posts(500, _exam(seed))
        with torch.no_grad():
            out, at = model(x), -1 if causal else 0
        found[f"{name}, classification"] = share(out[:, at, 3:].argmax(-1) + 3 == y[:, at])
        found[f"{name}, tags"] = share(out[:, 1:-1:2, :3].argmax(-1) == y[:, 1:-1:2])
    return found


# --- twice


def twice(seed, steps=250):
    """Shares right about "it" of a causal model: in the first telling and in the second."""

    def told(n, g):
        who = torch.rand(n, 8, generator=g).argsort(1)[:, :2]
        cue = torch.randint(2, (n, 1), generator=g)
        text = torch.cat([who, torch.full((n, 1), 8), 9 + cue], 1)
        return text.repeat(1, 2), who.gather(1, cue)[:, 0]

    def batch(g):
        x, meant = told(32, g)
        y = torch.full_like(x, IGNORED)
        y[:, 2] = y[:, 6] = meant
        return x, y

    torch.manual_seed(seed)
    model = Tiny(11, 8, causal=True)
    fit(model, batch, steps, seed)
    x, meant = told(1000, _exam(seed))
    with torch.no_grad():
        said = model(x).argmax(-1)
    return {"told once": share(said[:, 2] == meant), "told twice": share(said[:, 6] == meant)}


# --- holes

ONE = {
    "noun": ["dog", "cat", "bird", "fox"],
    "det": ["this", "that"],
    "verb": ["sees", "hears", "finds"],
}
MANY = {
    "noun": ["dogs", "cats", "birds", "foxes"],
    "det": ["these", "those"],
    "verb": ["see", "hear", "find"],
}
ADJECTIVES = ["small", "old", "quick", "red"]
LEXICON = [w for form in (ONE, MANY) for ws in form.values() for w in ws] + ADJECTIVES
ORDER = ("det", "kind", "noun", "verb", "det", "kind", "noun")
HOLE = len(LEXICON)


def grammatical(words):
    """Whether seven words are a sentence: subject and verb agree, each noun with its article."""
    if len(words) != 7:
        return False
    return all(
        any(
            all(words[i] in {**form, "kind": ADJECTIVES}[ORDER[i]] for i in places)
            for form in (ONE, MANY)
        )
        for places in (range(4), range(4, 7))
    )


def sentences(n, g):
    """Sentences of the little language as numbers in LEXICON: (n, 7)."""
    rng = random.Random(int(torch.randint(2**40, (), generator=g)))
    rows = []
    for _ in range(n):
        subject, object_ = (rng.choice((ONE, MANY)) for _ in "so")
        forms = [subject] * 4 + [object_] * 3
        pairs = zip(ORDER, forms, strict=True)
        words = [rng.choice({**form, "kind": ADJECTIVES}[part]) for part, form in pairs]
        rows.append([LEXICON.index(word) for word in words])
    return torch.tensor(rows)


@torch.no_grad()
def unmask(model, n, g):
    """n texts of seven words: nothing but holes, filled one by one, in any order, by draws."""
    x, rows = torch.full((n, 7), HOLE), torch.arange(n)
    while (x == HOLE).any():
        wish = torch.rand(x.shape, generator=g).masked_fill(x != HOLE, -1)
        place = wish.argmax(1)
        p = model(x)[rows, place].softmax(-1)
        x[rows, place] = torch.multinomial(p, 1, generator=g)[:, 0]
    return [[LEXICON[i] for i in row] for row in x.tolist()]


def holes(seed, steps=320):
    """Shares of grammatical sentences: unmasked by an encoder, and words at random; some of them.

    "different" counts texts, "examples" are three.
    """

    def batch(g):
        x = sentences(32, g)
        rate = torch.rand(32, 1, generator=g).clamp(min=0.15)
        hide = torch.rand(x.shape, generator=g) < rate
        return x.masked_fill(hide, HOLE), x.masked_fill(~hide, IGNORED)

    torch.manual_seed(seed)
    model = Tiny(HOLE + 1, 7, causal=False, out=HOLE)
    fit(model, batch, steps, seed)
    written = unmask(model, 500, _exam(seed))
    rng = random.Random(seed)
    chance = [rng.choices(LEXICON, k=7) for _ in range(2000)]
    return {
        "unmasked by an encoder": round(sum(map(grammatical, written)) / len(written), 4),
        "words at random": round(sum(map(grammatical, chance)) / len(chance), 4),
        "different": len({tuple(words) for words in written}),
        "examples": [" ".join(words) for words in written[:3]],
    }


# --- prompts, texts

LETTERS, SIZE = 12, 5
REVERSE, SORT, RISES, GO, YES, NO, WRITE, STOP = range(12, 20)
SOURCED = {"reverse": REVERSE, "sort": SORT, "label": RISES}


def solve(task, x):
    """Right answers for letters (n, 5): reversed, in order, or whether the last is larger."""
    if task == REVERSE:
        return x.flip(1)
    if task == SORT:
        return x.sort(1).values
    return torch.where(x[:, :1] < x[:, -1:], YES, NO)


def problems(task, n, g):
    """(task and five letters, answer) of n problems."""
    x = torch.randint(LETTERS, (n, SIZE), generator=g)
    return torch.cat([_column(n, task), x], 1), solve(task, x)


def _column(n, token):
    return torch.full((n, 1), token)


def prompts(seed, steps=450, d=64):
    """Shares exactly right of one decoder on four tasks that its first token names."""
    room = 2 * SIZE + 2

    def batch(g, n=12):
        inputs, targets = [], []
        for task in (REVERSE, SORT, RISES, WRITE):
            if task == WRITE:
                head, y = _column(n, WRITE), 20 + sentences(n, g)
            else:
                source, y = problems(task, n, g)
                head = torch.cat([source, _column(n, GO)], 1)
            text = torch.cat([head, y, _column(n, STOP)], 1)
            asked = text.clone()
            asked[:, : head.shape[1]] = IGNORED
            extra = (0, room + 1 - text.shape[1])
            inputs.append(F.pad(text, extra, value=STOP)[:, :-1])
            targets.append(F.pad(asked, extra, value=IGNORED)[:, 1:])
        return torch.cat(inputs), torch.cat(targets)

    torch.manual_seed(seed)
    model = Tiny(20 + len(LEXICON), room, causal=True, d=d)
    fit(model, batch, steps, seed, lr=6e-3)

    @torch.no_grad()
    def go_on(ids, n, g=None):
        for _ in range(n):
            logits = model(ids)[:, -1]
            if g is None:
                token = logits.argmax(-1, keepdim=True)
            else:
                token = torch.multinomial(logits.softmax(-1), 1, generator=g)
            ids = torch.cat([ids, token], 1)
        return ids[:, -n:]

    g, found = _exam(seed), {}
    for name, task in SOURCED.items():
        source, y = problems(task, 400, g)
        got = go_on(torch.cat([source, _column(400, GO)], 1), y.shape[1])
        found[name] = share((got == y).all(1))
    free = go_on(_column(400, WRITE), 7, g).tolist()
    words = [[LEXICON[i - 20] if i >= 20 else "?" for i in row] for row in free]
    found["write"] = round(sum(map(grammatical, words)) / len(words), 4)
    return found


def translator(seed, kind=Transformer, layers=2):
    """A small encoder–decoder over the letters, with fresh weights."""
    torch.manual_seed(seed)
    return kind(
        TransformerConfig(
            vocab_size=20,
            d_model=32,
            n_heads=4,
            d_ff=96,
            n_encoder_layers=layers,
            n_decoder_layers=layers,
            placement="pre",
            dropout=0.0,
            pad_id=STOP,
            bos_id=GO,
            eos_id=STOP,
        )
    )


def texts(seed, steps=320):
    """Shares exactly right of an encoder–decoder; "valid": labels that are one, and no more."""

    def batch(g):
        sources, answers = [], []
        for task, n in ((REVERSE, 16), (SORT, 16), (RISES, 32)):
            x, y = problems(task, n, g)
            y = torch.cat([y, _column(n, STOP)], 1)
            sources.append(x)
            answers.append(F.pad(y, (0, SIZE + 1 - y.shape[1]), value=IGNORED))
        return torch.cat(sources), torch.cat(answers)

    model = translator(seed)
    fit(model, batch, steps, seed, loss=model.loss)
    g, found = _exam(seed), {}
    for name, task in SOURCED.items():
        x, y = problems(task, 300, g)
        got = generate(model, x, max_new_tokens=SIZE + 1, start_id=GO)[:, 1:]
        want = F.pad(y, (0, got.shape[1] - y.shape[1]), value=STOP)
        found[name] = share((got == want).all(1))
        if task == RISES:
            ends = (got[:, 1:] == STOP).all(1)
            found["valid"] = share(((got[:, 0] == YES) | (got[:, 0] == NO)) & ends)
    return found


# --- through


class Pooled(Transformer):
    """An encoder–decoder whose decoder sees the mean of the encoder's states alone."""

    def encode(self, input_ids, attention_mask=None):
        """The mean of the states, (batch, 1, d_model), and no mask."""
        memory, _ = super().encode(input_ids, attention_mask)
        return memory.mean(1, keepdim=True), None


LENGTHS = (5, 10, 20, 40)


def through(seed, steps=320):
    """{"cross-attention", "one vector"}: shares of digits copied at each of LENGTHS."""

    def batch(g):
        n = LENGTHS[int(torch.randint(len(LENGTHS), (), generator=g))]
        x = torch.randint(10, (800 // n, n), generator=g)
        return x, x

    found = {}
    for name, kind in (("cross-attention", Transformer), ("one vector", Pooled)):
        model, g = translator(seed, kind, layers=1), _exam(seed)
        fit(model, batch, steps, seed, loss=model.loss)
        found[name] = []
        for n in LENGTHS:
            x = torch.randint(10, (60, n), generator=g)
            shifted = torch.cat([_column(60, GO), x[:, :-1]], 1)
            with torch.no_grad():
                found[name].append(share(model(x, shifted)[..., :10].argmax(-1) == x))
    return found


# --- python -m llmbook record families_toys

PARTS = {
    "next": next_token,
    "blanks": blanks,
    "reading": reading,
    "twice": twice,
    "holes": holes,
    "prompts": prompts,
    "texts": texts,
    "through": through,
}


def points():
    """(part, seed, (function, seed)) of every run."""
    for seed in SEEDS:
        for part, function in PARTS.items():
            yield part, str(seed), (function, seed)


def over_seeds(part, name=None):
    """What was recorded of a part, or of one value of it, in order of the seeds."""
    runs = recorded(OUT)[part]
    found = [runs[str(seed)] for seed in SEEDS]
    return found if name is None else [one[name] for one in found]


def run(options, record):
    """Make every run that the record lacks, writing it after each."""
    record.make_missing(points())
