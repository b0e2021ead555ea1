"""Interactive: a draft guesses a token, the model checks the guess and corrects it."""

import numpy as np
import torch
import traitlets

from llmbook.checks import number, whole

from .interactive import Interactive, numbers
from .next_token import token_names

REST = "…"  # all other tokens as one


class Speculation(Interactive):
    """Speculative sampling of one token, step by step, with what comes out of a thousand rounds.

    cases: dicts with `before` (the text so far), `tokens` (strings), and p and q, the model's and
    the draft's probabilities of them, each summing to 1. warmth: the draft's temperature, q^(1 /
    warmth) scaled to sum to 1. stage: 0 both laws, 1 a guess x ~ q, 2 accepted with probability
    min(1, p(x)/q(x)) or not, 3 replaced from max(0, p − q), scaled.

    Raises ValueError for cases that are no such laws, and settings out of range.
    """

    script = "speculation.js"
    alt = traitlets.Unicode(
        "Bars for a large model's and a small draft's probabilities of the next token; buttons "
        "that let the draft guess, the model check and correct, and that count what comes out of "
        "a thousand rounds; a slider for the draft's temperature."
    ).tag(sync=True)
    cases = traitlets.List().tag(sync=True)
    case = traitlets.Int(0).tag(sync=True)
    warmth = traitlets.Float(1.0).tag(sync=True)
    stage = traitlets.Int(0).tag(sync=True)

    def __init__(self, cases, case=0, warmth=1.0, stage=0, **options):
        if not cases:
            raise ValueError("cases must hold at least one: got none")
        cases = [_checked(**one) for one in cases]
        whole("case", case, least=0, most=len(cases) - 1)
        whole("stage", stage, least=0, most=3)
        number("warmth", warmth, least=0.2, most=5.0)
        super().__init__(cases=cases, case=case, warmth=float(warmth), stage=stage, **options)

    @classmethod
    def of(cls, model, draft, tokenizer, texts, most=6, **options):
        """The laws of two GPTs behind some texts: the `most` likeliest tokens, the rest as one."""
        names, cases = token_names(tokenizer), []
        for text in texts:
            ids = torch.tensor([[model.config.eos_id, *tokenizer.encode(text, ())]])
            with torch.no_grad():
                p, q = (one(ids)[0, -1].softmax(-1) for one in (model, draft))
            first = torch.maximum(p, q).topk(most).indices
            first = first[p[first].argsort(descending=True)]
            laws = [[*row[first].tolist(), 1 - row[first].sum().item()] for row in (p, q)]
            tokens = [*(names[i] for i in first.tolist()), REST]
            cases.append({"before": text, "tokens": tokens, "p": laws[0], "q": laws[1]})
        return cls(cases, **options)

    def laws(self):
        """p, q as warmed, Σ min(p, q), and what a rejected guess is replaced from."""
        one = self.cases[self.case]
        p, q = np.array(one["p"]), np.array(one["q"]) ** (1 / self.warmth)
        q /= q.sum()
        rest = np.maximum(p - q, 0)
        return p, q, np.minimum(p, q).sum(), rest / rest.sum() if rest.any() else p


def _checked(before, tokens, p, q):
    if not len(tokens) == len(p) == len(q):
        raise ValueError(
            f"tokens, p and q must have as many entries: got {len(tokens)}, {len(p)}, {len(q)}"
        )
    laws = {}
    for name, row in (("p", p), ("q", q)):
        row = np.asarray(row, dtype=float)
        if row.min(initial=0) < 0 or not abs(row.sum() - 1) < 1e-4:
            raise ValueError(f"{name} must be probabilities that sum to 1: got {row.tolist()}")
        laws[name] = numbers(row / row.sum(), 8)
    return {"before": str(before), "tokens": [str(token) for token in tokens], **laws}
