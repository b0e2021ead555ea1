"""Speculative decoding: a small model guesses, the large one checks all guesses in one pass.

Let q be the draft's distribution of the next token and p the model's, both after temperature and
cuts. The guess x ~ q is accepted with probability min(1, p(x) / q(x)); otherwise the token is
drawn from the residual, r(y) = max(0, p(y) − q(y)) / Σ max(0, p − q). What comes out is p:

    P(y) = q(y) min(1, p(y)/q(y)) + (1 − Σ_x min(p(x), q(x))) r(y)
         = min(p(y), q(y)) + Σ_x (p(x) − min(p(x), q(x))) · r(y)
         = min(p(y), q(y)) + max(0, p(y) − q(y)) = p(y),

since p − min(p, q) = max(0, p − q), whose sum is r's denominator. So whatever the draft, the text
has the model's distribution; a bad draft costs time only. A pass of the model yields 1 to
`guesses` + 1 tokens. Source: Leviathan et al. 2023; Chen et al. 2023.
"""

from dataclasses import dataclass

import torch

from llmbook.checks import number, whole
from llmbook.decoding import samplers
from llmbook.decoding.backends import unwrapped
from llmbook.decoding.generate import evaluating
from llmbook.decoding.generation_config import end_ids
from llmbook.decoding.writer import Writer
from llmbook.models.pretrained.vocabulary import check_vocabulary
from llmbook.seeds import as_generator


@dataclass(frozen=True)
class Speculated:
    """A text (1, all tokens), and what it took: passes of the model, guesses made and accepted."""

    tokens: torch.Tensor
    model_calls: int
    guessed: int
    accepted: int


def speculate(
    model,
    draft,
    input_ids,
    *,
    max_new_tokens=64,
    guesses=4,
    temperature=0.0,
    top_k=None,
    top_p=None,
    min_p=None,
    eos_id=None,
    seed=0,
):
    """Continue one prompt with the model's distribution and a draft's guesses: a `Speculated`.

    input_ids: int64 (1, tokens), as rows would accept different numbers of guesses. draft: a
    decoder over the same vocabulary, cheaper than the model; guesses: how many it makes in a row.
    Sampling as in `generate`; temperature 0 gives the model's greedy text. The draws differ from
    `generate`'s at the same seed, their distribution doesn't.

    Raises ValueError for another vocabulary, in size or, where both models know their
    tokenizer.json, in any token; for more than one row, for an encoder–decoder, and
    for models whose cache cannot be cropped (a recurrent state). Source: see above.
    """
    whole("guesses", guesses, least=1)
    number("temperature", temperature, least=0)
    whole("max_new_tokens", max_new_tokens, least=1)
    own, other = unwrapped(model), unwrapped(draft)
    _check_pair(own, other, input_ids)
    ends, rng = frozenset(end_ids(own, eos_id)), as_generator(seed)
    cuts = temperature, top_k, top_p, min_p
    calls = guessed = accepted = 0
    with torch.no_grad(), evaluating(model), evaluating(draft):
        writer, drafter = (
            Writer(one, input_ids, None, None, max_new_tokens, use_cache=True)
            for one in (model, draft)
        )
        last = writer.begin + max_new_tokens
        while writer.length < last:
            held, q = writer.length, []
            for _ in range(min(guesses, last - held - 1)):
                q.append(distribution(drafter.next_logits(), *cuts)[0])
                drafter.append(_draw(q[-1], rng, writer.tokens))
            for token in drafter.tokens[0, held:]:
                writer.append(token[None])
            behind = writer.new_logits()[0, -len(q) - 1 :]  # of each guess, and of the one before
            p = distribution(behind.float(), *cuts)
            calls, guessed = calls + 1, guessed + len(q)
            n, token = _judge(p, q, writer.tokens[0, held:].tolist(), rng)
            new = [*writer.tokens[0, held : held + n].tolist(), token]
            stop = next((i + 1 for i, one in enumerate(new) if one in ends), None)
            accepted += n
            for one in (writer, drafter):
                one.crop(held + n)
                one.append(torch.tensor([token], device=one.tokens.device))
            if stop is not None:
                writer.crop(held + stop)
                break
        return Speculated(writer.tokens.clone(), calls, guessed, accepted)


def distribution(logits, temperature, top_k=None, top_p=None, min_p=None):
    """What is drawn from: `samplers.probabilities`, or at temperature 0 all on the likeliest."""
    if temperature == 0:
        first = logits.argmax(-1, keepdim=True)
        return torch.zeros_like(logits, dtype=torch.float32).scatter(-1, first, 1.0)
    return samplers.probabilities(logits, temperature, top_k, top_p, min_p)


def acceptance(p, q):
    """min(1, p / q) for each token, 0 where neither has it: (V,)."""
    return torch.where(q > 0, p / q.clamp(min=torch.finfo(q.dtype).tiny), 0.0).clamp(max=1)


def residual(p, q):
    """max(0, p − q), normalised: what a rejected guess is replaced from. p itself where p = q."""
    rest = (p - q).clamp(min=0)
    total = rest.sum()
    return rest / total if total > 0 else p


def _judge(p, q, guesses, rng):
    """How many guesses stand, and the token after them."""
    for n, (mine, its, x) in enumerate(zip(p, q, guesses)):
        if torch.rand((), generator=rng).item() >= acceptance(mine, its)[x].item():
            return n, int(_draw(residual(mine, its), rng, p))
    return len(q), int(_draw(p[len(q)], rng, p))


def _draw(p, rng, like):
    """One token from p (V,): int64 (1,)."""
    return torch.multinomial(p.cpu(), 1, generator=rng).to(like.device)


def _check_pair(model, draft, input_ids):
    for name, one in (("model", model), ("draft", draft)):
        if one.reads_source:
            raise ValueError(
                f"{name} must be a decoder: got {type(one).__name__}, which reads a source"
            )
    check_vocabulary(model, draft, "draft", "model")
    if getattr(input_ids, "ndim", 2) == 2 and len(input_ids) != 1:
        raise ValueError(f"input_ids must be one row: got {len(input_ids)}")
