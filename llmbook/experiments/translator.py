"""A small translator: the invented language of `data.tasks.translation`, and how it is learnt.

    pairs  →  numbers  →  batches of rows of similar length  →  Adam  →  greedy translations

One vocabulary serves both languages: <pad> 0, <s> 1, </s> 2, then the words and, for the language
translated into, stems and endings. `fit` and `write` take any encoder–decoder that is called as
`model(source, written, mask)` and returns logits.
"""

import functools
import random

import torch
import torch.nn.functional as F
from torch import nn

from llmbook.data.packing import pad
from llmbook.data.tasks import translation
from llmbook.losses import IGNORED, label_smoothing
from llmbook.models.encoder_decoder import shift_right
from llmbook.multihead import MultiHeadAttention

PAD, BOS, EOS = 0, 1, 2
SPECIAL = ("<pad>", "<s>", "</s>")


@functools.cache
def vocabulary():
    """Every token of both languages, id by id; words of English before the stems and endings."""
    rows = translation(3000, 0, clauses=1)
    sides = [sorted({w for row in rows for w in row[side].split()}) for side in (0, 1)]
    return (*SPECIAL, *dict.fromkeys(sides[0] + sides[1]))


@functools.cache
def english():
    """The English words of the vocabulary, in its order."""
    used = {w for row in translation(3000, 0, clauses=1) for w in row[0].split()}
    return tuple(w for w in vocabulary() if w in used)


@functools.cache
def _ids():
    return {word: i for i, word in enumerate(vocabulary())}


def encode(text):
    """A sentence as ids, </s> behind it; KeyError for a word that the language has not."""
    return [*(_ids()[word] for word in text.split()), EOS]


def decode(ids):
    """Ids as text, up to </s>; an ending is written onto its stem."""
    ids = list(ids)
    ids = ids[: ids.index(EOS)] if EOS in ids else ids
    return " ".join(vocabulary()[i] for i in ids).replace(" -", "")


class Pairs:
    """Sentences to learn from, and others to be examined on.

    rows: (English, translation, which words decide each token); ids: [(source, target)] of each,
    </s> behind both. The first n are for learning; `unseen` are places of later ones whose English
    is not among them, at most `exams`.
    """

    def __init__(self, n, seed=0, exams=500):
        self.rows = translation(n + 2 * exams, seed, clauses=1)
        self.ids = [(encode(a), encode(b)) for a, b, _ in self.rows]
        known = {tuple(a) for a, _ in self.ids[:n]}
        later = range(n, len(self.rows))
        self.unseen = [i for i in later if tuple(self.ids[i][0]) not in known][:exams]
        self.lessons = self.ids[:n]

    def batch(self, places):
        """`collate` of the pairs at these places."""
        return collate([self.ids[i] for i in places])


def collate(pairs, device="cpu"):
    """(source, its mask or None where nothing is padded, targets with IGNORED where padded)."""
    return *sources([a for a, _ in pairs], device), pad([b for _, b in pairs], IGNORED)[0].to(
        device
    )


def sources(rows, device="cpu"):
    """(ids (batch, longest), their mask, or None where nothing is padded) of lists of ids."""
    ids, mask = pad(rows, PAD)
    return ids.to(device), None if mask.all() else mask.bool().to(device)


def batches(pairs, size, seed):
    """Batches without end, drawn from the pairs; rows of similar length stand together."""
    rng = random.Random(seed)
    while True:
        pool = rng.sample(pairs, min(len(pairs), 40 * size))
        pool.sort(key=lambda pair: len(pair[0]))
        cut = [pool[i : i + size] for i in range(0, len(pool), size)]
        rng.shuffle(cut)
        yield from cut


def loss_of(model, source, mask, target, smoothing=0.0):
    """Mean cross-entropy, teacher-forced, in nats a token."""
    logits = model(source, shift_right(target, BOS, PAD), mask).float()
    return label_smoothing(logits.flatten(0, 1), target.flatten(), smoothing)


def fit(model, pairs, steps, peak, *, warm=0.1, smoothing=0.0, size=32, seed=0):
    """Adam; the rate rises over the share `warm` of the steps, then falls straight to zero.

    Gradients are clipped at norm 1. Returns the losses. The seed draws the batches, so that models
    of one seed see the same ones.
    """
    adam = torch.optim.Adam(model.parameters(), betas=(0.9, 0.98), eps=1e-9, fused=True)
    device, losses = next(model.parameters()).device, []
    model.train()
    for step, batch in zip(range(1, steps + 1), batches(pairs, size, seed), strict=False):
        rise, fall = step / max(1, warm * steps), (1 - step / steps) / (1 - warm)
        adam.param_groups[0]["lr"] = peak * min(1, rise, fall)
        loss = loss_of(model, *collate(batch, device), smoothing)
        adam.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        losses.append(loss.item())
    model.eval()
    return losses


@torch.no_grad()
def nats(model, pairs, places=None):
    """The loss on unseen pairs, in nats a token."""
    source, mask, target = pairs.batch(pairs.unseen if places is None else places)
    device = next(model.parameters()).device
    mask = None if mask is None else mask.to(device)
    return loss_of(model, source.to(device), mask, target.to(device)).item()


@torch.no_grad()
def write(model, rows, most=30):
    """Greedy translations of lists of ids, without <s> and </s>; each token reads all again."""
    device = next(model.parameters()).device
    source, mask = sources(rows, device)
    written = torch.full((len(rows), 1), BOS, device=device)
    for _ in range(most):
        token = model(source, written, mask)[:, -1].argmax(-1)
        written = torch.cat([written, token[:, None]], 1)
        if (written == EOS).any(1).all():
            break
    rows = [row[1:] for row in written.tolist()]
    return [row[: row.index(EOS)] if EOS in row else row for row in rows]


def exact(model, pairs, places=None):
    """The share of unseen sentences whose translation is right in every token."""
    places = pairs.unseen if places is None else places
    got = write(model, [pairs.ids[i][0] for i in places])
    right = sum(g == pairs.ids[i][1][:-1] for g, i in zip(got, places, strict=True))
    return right / len(places)


def by_formula(model):
    """The same model with attention by its formula: on rows as short as these it is faster."""
    for module in model.modules():
        if isinstance(module, MultiHeadAttention):
            module.backend = "reference"
    return model


# --- the chapter's own class


def page_names(state):
    """The state_dict of a `Transformer` under the names of the class that the chapter builds."""
    spell = {
        "tokens.weight": "table.weight",
        "encoder_norm.": "read_norm.",
        "decoder_norm.": "write_norm.",
        "norm.weight": "norm.gain",
        "out_proj.": "o.",
    }
    found = {}
    for name, value in state.items():
        if name in ("target_tokens.weight", "head.weight"):
            continue
        for ours, theirs in spell.items():
            name = name.replace(ours, theirs)
        if "in_proj_" in name:
            for letter, part in zip("qkv", value.chunk(3), strict=True):
                found[name.replace("in_proj_", f"{letter}.")] = part
        else:
            found[name] = value
    return found


# --- looking into a `llmbook.models.transformer.Transformer` with norms before its sub-layers


@torch.no_grad()
def activations(model, source, mask, target, causal=True):
    """(cross-attention's weights, the stream before and after each layer).

    weights (batch, layers, heads, targets, tokens); stream: a list of (batch, targets, d_model).
    """
    memory, allowed = model.encode(source, mask)
    shifted = shift_right(target, BOS, PAD)
    y = model.embed(model.target_tokens, shifted, torch.arange(target.shape[1]))
    weights, stream = [], [y]
    for layer in model.decoder:
        y = layer.attend(y, causal=causal)
        cross = layer.cross
        weights.append(cross.sublayer.weights(cross.norm(y), memory, mask=allowed))
        y = layer.transform(cross(y, memory, mask=allowed))
        stream.append(y)
    return torch.stack(weights, 1), stream


def lens(model, pairs, places):
    """The loss read from the stream before and after each layer: [all tokens, stems, endings]."""
    source, mask, target = pairs.batch(places)
    _, stream = activations(model, source, mask, target)
    endings = torch.tensor([w.startswith("-") for w in vocabulary()])[target.clamp(min=0)]
    real, found = target != IGNORED, []
    for y in stream:
        nll = F.cross_entropy(
            model.head(model.decoder_norm(y)).mT, target.clamp(min=0), reduction="none"
        )
        parts = (real, real & ~endings & (target != EOS), real & endings)
        found.append([nll[part].mean().item() for part in parts])
    return found


def on_deciders(model, pairs, places):
    """Cross-attention's weight on the words that decide a token.

    {"stems": [layer][head], "endings": likewise, "chance": {"stems", "endings"}}, means over
    tokens; chance is what evenly spread attention would put there.
    """
    weights, _ = activations(model, *pairs.batch(places))
    found, even = {"stems": [], "endings": []}, {"stems": [], "endings": []}
    for w, i in zip(weights, places, strict=True):
        for t, words in enumerate(pairs.rows[i][2]):
            kind = "endings" if vocabulary()[pairs.ids[i][1][t]].startswith("-") else "stems"
            found[kind].append(w[:, :, t, list(words)].sum(-1))
            even[kind].append(len(words) / len(pairs.ids[i][0]))
    means = {kind: torch.stack(v).mean(0).tolist() for kind, v in found.items()}
    return means | {"chance": {kind: sum(v) / len(v) for kind, v in even.items()}}


def loss_without_mask(model, pairs, places):
    """By how much the loss on right answers rises when the decoder may look ahead, in nats."""
    source, mask, target = pairs.batch(places)
    losses = []
    for causal in (True, False):
        _, stream = activations(model, source, mask, target, causal)
        logits = model.head(model.decoder_norm(stream[-1]))
        losses.append(F.cross_entropy(logits.mT, target, ignore_index=IGNORED).item())
    return losses[1] - losses[0]
