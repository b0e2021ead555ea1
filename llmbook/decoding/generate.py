"""From logits to text: `generate`, `stream` and `beam_search`, for every model of this book.

A decoder is called as `model(input_ids, attention_mask, cache=…)`, an encoder–decoder as
`model(input_ids, decoder_input_ids, attention_mask, cache=…)`; `model.reads_source` says which.
The cache is what `model.new_cache(batch, max_len)` returns (llmbook/cache.py).
"""

import contextlib
from dataclasses import dataclass

import torch

from llmbook.checks import flag, number, share, whole
from llmbook.decoding import beams as beam
from llmbook.decoding import samplers
from llmbook.decoding.backends import unwrapped
from llmbook.decoding.generation_config import asked, end_ids, rules
from llmbook.decoding.writer import Writer
from llmbook.seeds import as_generator


def generate(
    model,
    input_ids,
    attention_mask=None,
    *,
    max_new_tokens=64,
    temperature=0.0,
    top_k=None,
    top_p=None,
    min_p=None,
    repetition_penalty=None,
    processors=(),
    beams=1,
    length_penalty=0.0,
    eos_id=None,
    pad_id=None,
    start_id=None,
    seed=0,
    use_cache=True,
    backend="auto",
):
    """Continue a prompt, or write the translation of a source: int64 (batch, all tokens).

    input_ids (batch, tokens) int64 and attention_mask (batch, tokens), 1 or True for tokens. For a
    decoder that is the prompt, padded on the left where rows differ, and the result is the prompt
    with up to `max_new_tokens` behind it. For an encoder–decoder it is the source, and the result
    begins with start_id. A row that has written an end is filled up with pad_id.

    temperature 0 takes the likeliest token (greedy); above 0 samples from softmax(logits /
    temperature) after the cuts of top_k, top_p and min_p, in this order (samplers.py). The same
    seed on the same machine gives the same text; a `torch.Generator` as seed moves on.
    beams > 1 is `beam_search`, with `length_penalty`, and does not sample.

    repetition_penalty and `processors`, functions (logits (rows, V), tokens (rows, length)) →
    logits, come before temperature and before greedy's and the beams' choice: a grammar, say, that
    sets what may not come to −inf (constraints.py).

    eos_id (one or several tokens), pad_id and start_id are the model's when None: those of its
    generation_config.json, whose rules are obeyed too (generation_config.py), else its config's.
    Without an end nothing stops early; without pad_id the first end pads.

    backend: how a token goes through the model (backends.py): "modules", "step", "compiled", or
    the fastest that can ("auto"); `explain_backend` says which, and why not another.

    The model may be compiled or wrapped, and is in evaluation mode for the call. Costs one pass
    over the prompt and one token's work each; room for the cache is made at the beginning.
    Raises TypeError or ValueError for arguments that make no sense, alone or together: ids that
    are no tokens, an empty prompt, a text longer than the model can hold, a backend that
    cannot run.
    """
    settings = _Settings(
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        processors=processors,
        beams=beams,
        length_penalty=length_penalty,
        eos_id=eos_id,
        pad_id=pad_id,
        start_id=start_id,
        seed=seed,
        use_cache=use_cache,
        backend=backend,
    )
    job = _Job(model, input_ids, attention_mask, settings)
    # What runs in inference mode is our own code alone: a hook may keep what it sees.
    mode = torch.inference_mode if job.writer.short else torch.no_grad
    with mode(), evaluating(model):
        if beams > 1:
            found = beam.search(
                job.writer, job.adjust, max_new_tokens, beams, length_penalty, job.ends, job.pad_id
            )
        else:
            for _ in job.steps():
                pass
            found = job.writer.tokens
    return found.clone()


def stream(model, input_ids, attention_mask=None, **settings):
    """The same text, token by token: an iterator of (batch,) int64, as soon as each is written.

    Arguments as in `generate`, which gives these tokens behind the prompt; no beams, since theirs
    are known at the end only. A row that has ended yields pad_id. Stop early by leaving the loop.
    """
    settings = _Settings(**settings)
    if settings.beams > 1:
        raise ValueError(
            f"beams must be 1 to stream, as a beam's text is known last: got {settings.beams}"
        )
    job = _Job(model, input_ids, attention_mask, settings)
    return _streamed(model, job)


@torch.no_grad()
def _streamed(model, job):
    with evaluating(model):
        yield from job.steps()


def beam_search(
    model,
    input_ids,
    attention_mask=None,
    *,
    beams=4,
    max_new_tokens=64,
    length_penalty=0.0,
    **others,
):
    """Keep the `beams` likeliest beginnings at each step; return the best whole text.

        score(y) = log p(y | x) / ((5 + |y|) / 6)^α,  α = length_penalty, |y| in new tokens

    A text that ends leaves the beam and waits; the search stops when no text still being written
    can overtake the worst of the `beams` best that wait. With as many beams as there are texts it
    is exact. α = 0 scores by the probability alone, which favours short texts. Shapes and further
    arguments as in `generate`. Source: Wu et al. 2016, whose penalty Vaswani et al. 2017 used with
    α = 0.6 and 4 beams.
    """
    return generate(
        model,
        input_ids,
        attention_mask,
        beams=beams,
        max_new_tokens=max_new_tokens,
        length_penalty=length_penalty,
        **others,
    )


@dataclass(frozen=True)
class _Settings:
    """`generate`'s keyword arguments, with its defaults, checked."""

    max_new_tokens: int = 64
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    processors: tuple = ()
    beams: int = 1
    length_penalty: float = 0.0
    eos_id: int | tuple | None = None
    pad_id: int | None = None
    start_id: int | None = None
    seed: int = 0
    use_cache: bool = True
    backend: str = "auto"

    def __post_init__(self):
        whole("max_new_tokens", self.max_new_tokens, least=1)
        number("temperature", self.temperature, least=0)
        whole("beams", self.beams, least=1)
        number("length_penalty", self.length_penalty, least=0)
        if self.top_k is not None:
            whole("top_k", self.top_k, least=1)
        if self.top_p is not None:
            share("top_p", self.top_p, zero=False)
        if self.min_p is not None:
            share("min_p", self.min_p, one=False)
        if self.repetition_penalty is not None:
            number("repetition_penalty", self.repetition_penalty, above=0)
        flag("use_cache", self.use_cache)
        given = self.processors
        if not isinstance(given, list | tuple) or not all(map(callable, given)):
            raise TypeError(f"processors must be a list of functions: got {given!r}")
        cuts = [name for name in ("top_k", "top_p", "min_p") if getattr(self, name) is not None]
        if self.temperature == 0 and cuts:
            raise ValueError(
                f"{' and '.join(cuts)} must be None at temperature 0, which takes the likeliest "
                "token: set temperature above 0"
            )
        if self.beams > 1 and self.temperature != 0:
            raise ValueError("beam search does not sample: set temperature=0 or beams=1")


def _pad_id(model, given, ends):
    """What fills a row behind its end: a token, as the other rows are read beside it.

    A config may say −1, for none: then, as where it says nothing, the first end.
    """
    vocab_size = getattr(getattr(model, "config", None), "vocab_size", None)
    most = None if vocab_size is None else vocab_size - 1
    if given is not None:
        return whole("pad_id", given, least=0, most=most)
    stored = asked(model, "pad_token_id")
    return max((0, *ends[:1])) if stored is None or stored < 0 else stored


class _Job:
    """One call: the writer, the rules, and the loop."""

    def __init__(self, model, input_ids, attention_mask, settings):
        own = unwrapped(model)
        self.settings, self.ends = settings, end_ids(own, settings.eos_id)
        self.pad_id = _pad_id(own, settings.pad_id, self.ends)
        self.rng = as_generator(settings.seed)
        self.writer = Writer(
            model,
            input_ids,
            attention_mask,
            settings.start_id,
            settings.max_new_tokens,
            settings.use_cache,
            settings.backend,
        )
        penalty = settings.repetition_penalty
        penalty = asked(own, "repetition_penalty", 1.0) if penalty is None else penalty
        own_rules = rules(own, self.writer.begin, settings.max_new_tokens, self.ends)
        self.rules = [*([] if penalty == 1 else [self._rarer(penalty)]), *own_rules]
        self.rules += settings.processors
        self.adjust = self._adjust if self.rules else None

    def _rarer(self, penalty):
        def rule(logits, tokens):
            return samplers.repetition_penalty(logits, tokens, penalty, self.writer.keep)

        return rule

    def _adjust(self, logits, tokens):
        if logits.is_inference():  # a rule may write into them
            logits = logits.clone()
        for rule in self.rules:
            logits = rule(logits, tokens)
        if (logits.amax(-1) == -torch.inf).any():
            raise ValueError("processors must leave every row a token: got −inf for all of one's")
        return logits

    def steps(self):
        """Write up to max_new_tokens, and yield each column of tokens: (batch,)."""
        writer, settings = self.writer, self.settings
        ends, done = frozenset(self.ends), [False] * len(writer.tokens)
        cuts = settings.temperature, settings.top_k, settings.top_p, settings.min_p
        for _ in range(settings.max_new_tokens):
            logits = writer.next_logits()
            if self.adjust is not None:
                logits = self.adjust(logits, writer.tokens)
            if settings.temperature == 0:
                token = logits.argmax(-1)
            else:
                p = samplers.probabilities(logits, *cuts).cpu()
                token = torch.multinomial(p, 1, generator=self.rng)[:, 0].to(logits.device)
            if ends:
                ids = [self.pad_id if d else i for d, i in zip(done, token.tolist())]
                if any(done):
                    token = torch.tensor(ids, device=token.device)
                done = [d or i in ends for d, i in zip(done, ids)]
            writer.append(token)
            yield token
            if ends and all(done):
                return


@contextlib.contextmanager
def evaluating(model):
    """The model in evaluation mode inside, and every part of it as it was afterwards."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
