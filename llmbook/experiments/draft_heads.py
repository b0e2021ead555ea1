"""Draft heads: small maps on a model's last state that guess several tokens at once.

    head k:  z_k = W (h + silu(A_k h)),  k = 1 … K

h is what the model's own output matrix W reads when it predicts the next token; head k guesses
the token k places further on, from the same h. So a pass of the model gives one token and K
guesses, and the next pass checks them all: no second model. Only the A_k are trained, on text.
Source: Cai et al. 2024.

Shapes: h (…, d_model); guesses (K, …, vocab_size).
"""

import torch
import torch.nn.functional as F
from torch import nn

from llmbook.experiments.distil import windows
from llmbook.experiments.fit import fit
from llmbook.seeds import generator

HEADS, STEPS, RATE = 3, 300, 4e-3
PROMPTS, PROMPT, NEW = 16, 48, 48  # held-out beginnings, their tokens, and how many follow


class DraftHeads(nn.Module):
    """K maps A_k over a model, which stays as it is: h → logits of the K tokens after the next."""

    def __init__(self, model, count=HEADS):
        super().__init__()
        width = model.config.d_model
        self.maps = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(count))
        for one in self.maps:
            nn.init.zeros_(one.weight)  # a head begins as the model's own
        self.model = [model]  # in a list: its weights are not these heads'

    def forward(self, h):
        """(…, d_model) → (K, …, vocab_size)."""
        return torch.stack([self.model[0].head(h + F.silu(one(h))) for one in self.maps])


def train_heads(heads, text, gen, steps=STEPS, rate=RATE):
    """Teach head k the token k places after the next, on text; the CPU-seconds it took."""
    model, count = heads.model[0], len(heads.maps)

    def loss_at(_):
        x, y = windows(text.train, gen)
        with torch.no_grad():
            h = model.hidden(x)[:, :-count]
        z, n = heads(h), h.shape[1]  # head k at place t: the token at t + 1 + k
        wanted = torch.stack([y[:, k + 1 : k + 1 + n] for k in range(count)])
        return F.cross_entropy(z.flatten(0, 2), wanted.flatten())

    with torch.enable_grad():
        return fit(heads.train(), loss_at, steps, rate)


@torch.no_grad()
def write_ahead(model, heads, ids, new):
    """Greedy text with the heads' guesses, (1, tokens) → (1, tokens + new), and passes taken.

    Each pass reads the last token and the guesses behind it. Guesses stand up to the first that
    is not the model's own choice; that one is replaced by it. So the text is the greedy one.
    """
    cache = model.new_cache(1, min(model.max_len, ids.shape[1] + new + len(heads.maps)))
    text, unread, guesses, passes = ids, ids, ids[:, :0], 0
    while text.shape[1] < ids.shape[1] + new:
        h = model.hidden(torch.cat([unread, guesses], 1), cache=cache)
        passes, n = passes + 1, unread.shape[1]
        own = model.head(h[:, n - 1 :]).argmax(-1)  # after the last token, and after each guess
        wrong = (own[0, :-1] != guesses[0]).nonzero()
        stood = wrong[0].item() if len(wrong) else guesses.shape[1]
        cache.crop(cache.length - guesses.shape[1] + stood)
        text = torch.cat([text, guesses[:, :stood], own[:, stood : stood + 1]], 1)
        unread = text[:, -1:]
        guesses = heads(h[:, n - 1 + stood]).argmax(-1).T
        guesses = guesses[:, : max(0, model.max_len - text.shape[1])]
    return text[:, : ids.shape[1] + new], passes


@torch.no_grad()
def right_guesses(heads, text, rows=64):
    """Share of held-out places where head k's likeliest token is the one that came, for each k."""
    gen, count = generator(0, "held out"), len(heads.maps)
    parts = [windows(text.validation, gen) for _ in range(rows // 8)]
    x, y = (torch.cat(part) for part in zip(*parts, strict=True))
    z = heads(heads.model[0].hidden(x)[:, :-count]).argmax(-1)
    n = z.shape[2]
    return [(z[k] == y[:, k + 1 : k + 1 + n]).double().mean().item() for k in range(count)]


def heads_run(seed, text, model, steps=STEPS):
    """Train a model's heads: how often they are right, and tokens a pass in greedy writing."""
    heads = DraftHeads(model)
    seconds = train_heads(heads, text, generator(seed, "heads"), steps)
    gen, passes = generator(0, "prompts"), 0
    starts = torch.randint(len(text.validation) - PROMPT, (PROMPTS,), generator=gen).tolist()
    for start in starts:
        ids = text.validation[start : start + PROMPT][None].long()
        passes += write_ahead(model, heads.eval(), ids, NEW)[1]
    return {
        "right": right_guesses(heads, text),
        "tokens a pass": PROMPTS * NEW / passes,
        "weights": sum(p.numel() for p in heads.parameters()),
        "seconds": seconds,
    }
