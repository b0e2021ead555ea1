"""From logits to text: greedy, temperature, top-k, top-p and beam search, with a cache or without.

`generate` works for any model of this book's contract: decoder-only, `model(input_ids,
attention_mask, cache=…)`, and encoder–decoder, `model(input_ids, decoder_input_ids,
attention_mask, cache=…)`. The cache is what `model.new_cache(batch, max_len)` returns: an object
with `reorder(rows)`, or a list (nested, if need be) of such objects.
"""

import inspect
import math

import torch


@torch.no_grad()
def generate(
    model,
    input_ids,
    attention_mask=None,
    *,
    max_new_tokens=64,
    temperature=0.0,
    top_k=None,
    top_p=None,
    beams=1,
    length_penalty=0.0,
    eos_id=None,
    pad_id=None,
    start_id=None,
    seed=0,
    use_cache=True,
):
    """Continue a prompt, or write the translation of a source: int64 (batch, all tokens).

    input_ids (batch, tokens) int64 and attention_mask (batch, tokens), 1 or True for tokens. For a
    decoder-only model that is the prompt, padded on the left where rows differ, and the result is
    the prompt with up to `max_new_tokens` behind it. For an encoder–decoder it is the source, and
    the result begins with start_id. A row that has written eos_id is filled up with pad_id.

    temperature 0 takes the likeliest token (greedy); above 0 samples from softmax(logits /
    temperature), cut to the `top_k` likeliest tokens and then to the smallest set of likeliest
    tokens with total probability of at least `top_p`. beams > 1 is `beam_search`, with
    `length_penalty`. The same seed on the same machine gives the same text.

    eos_id, pad_id and start_id are the config's when None (start_id or else bos_id; transformers'
    names serve too); without eos_id nothing ends early.
    The model is put into evaluation mode for the call. Raises TypeError or ValueError for
    arguments that make no sense together.
    """
    _check(
        input_ids, attention_mask, max_new_tokens, temperature, top_k, top_p, beams, length_penalty
    )
    eos_id = _config(model, eos_id, "eos_id", "eos_token_id")
    pad_id = _config(model, pad_id, "pad_id", "pad_token_id")
    pad_id = (0 if eos_id is None else eos_id) if pad_id is None else pad_id
    was_training = model.training
    model.eval()
    try:
        writer = _Writer(model, input_ids, attention_mask, start_id, max_new_tokens, use_cache)
        if beams > 1:
            return _beams(writer, max_new_tokens, beams, length_penalty, eos_id, pad_id)
        dice = torch.Generator().manual_seed(seed)
        done = torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
        for _ in range(max_new_tokens):
            logits = writer.next_logits()
            if temperature == 0:
                token = logits.argmax(-1)
            else:
                p = probabilities(logits, temperature, top_k, top_p)
                token = torch.multinomial(p.cpu(), 1, generator=dice)[:, 0].to(logits.device)
            token = torch.where(done, pad_id, token)
            writer.append(token)
            if eos_id is not None:
                done |= token == eos_id
                if done.all():
                    break
        return writer.tokens
    finally:
        model.train(was_training)


def probabilities(logits, temperature=1.0, top_k=None, top_p=None):
    """What is sampled from: softmax(logits / temperature), cut by top-k, then by top-p.

    logits (…, vocab_size) → the same shape, rows sum to 1. Tokens that are cut get exactly 0; the
    likeliest one never is. Source for top-p: Holtzman et al. 2020.
    """
    p = (logits.float() / temperature).softmax(-1)
    if top_k is not None and top_k < p.shape[-1]:
        best = p.topk(top_k, dim=-1)
        p = torch.zeros_like(p).scatter(-1, best.indices, best.values)
        p = p / p.sum(-1, keepdim=True)
    if top_p is not None:
        ordered, place = p.sort(dim=-1, descending=True, stable=True)
        before = ordered.cumsum(-1) - ordered  # probability of all likelier tokens
        ordered = ordered.masked_fill(before >= top_p, 0.0)
        ordered[..., 0] = ordered[..., 0].clamp(min=torch.finfo(p.dtype).tiny)
        p = torch.zeros_like(p).scatter(-1, place, ordered)
    return p / p.sum(-1, keepdim=True)


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


class _Writer:
    """A model in the middle of a text: what it has read, what it has written, its cache."""

    def __init__(self, model, input_ids, attention_mask, start_id, max_new_tokens, use_cache):
        self.model = model
        self.has_source = "decoder_input_ids" in inspect.signature(model.forward).parameters
        if self.has_source:
            names = "start_id", "decoder_start_token_id", "bos_id", "bos_token_id"
            start_id = _config(model, start_id, *names)
            if start_id is None:
                raise ValueError("start_id must be given: the model's config has none")
            self.source, self.mask = input_ids, attention_mask
            self.tokens = torch.full_like(input_ids[:, :1], start_id)
        else:
            if attention_mask is not None and not attention_mask[:, -1].bool().all():
                raise ValueError(
                    "a prompt must be padded on the left: attention_mask has 0 in its last column"
                )
            self.source, self.mask, self.tokens = None, attention_mask, input_ids
        room = self.tokens.shape[1] + max_new_tokens - 1  # the last token is not read again
        self.cache = model.new_cache(len(input_ids), room) if use_cache else None
        self.read = 0  # tokens that the cache holds

    def next_logits(self):
        """Logits of the next token of each row: (rows, vocab_size), float32."""
        new = self.tokens if self.cache is None else self.tokens[:, self.read :]
        if self.has_source:
            logits = self.model(self.source, new, self.mask, cache=self.cache)
        else:
            logits = self.model(new, self.mask, cache=self.cache)
        self.read = self.tokens.shape[1]
        return logits[:, -1].float()

    def append(self, token):
        """Write one token in each row."""
        self.tokens = torch.cat([self.tokens, token[:, None]], 1)
        if not self.has_source and self.mask is not None:
            self.mask = torch.cat([self.mask, torch.ones_like(self.mask[:, :1])], 1)

    def reorder(self, rows):
        """Let row i continue row rows[i]; the number of rows may change."""
        self.tokens = self.tokens[rows]
        self.source = None if self.source is None else self.source[rows]
        self.mask = None if self.mask is None else self.mask[rows]
        _reorder(self.cache, rows)


def _reorder(cache, rows):
    if hasattr(cache, "reorder"):
        cache.reorder(rows)
    elif isinstance(cache, (list, tuple)):
        for one in cache:
            _reorder(one, rows)


def _beams(writer, max_new_tokens, beams, alpha, eos_id, pad_id):
    """The best text of each row, among those that `beams` beams reach."""
    batch, begin = writer.tokens.shape
    device = writer.tokens.device
    waiting = [[] for _ in range(batch)]  # (score, tokens) of texts that have ended
    total = torch.zeros(batch, 1, device=device)  # log-probability of each beam

    def penalty(length):
        return ((5 + length) / 6) ** alpha

    for length in range(1, max_new_tokens + 1):
        log_p = writer.next_logits().log_softmax(-1)
        vocab, width = log_p.shape[-1], total.shape[1]
        joint = (total[..., None] + log_p.view(batch, width, vocab)).flatten(1)
        # Each beam has one way to end, so 2 · beams candidates hold `beams` that go on, if any do.
        best = joint.topk(min(2 * beams, joint.shape[1]), dim=-1)
        rows, tokens, totals = [], [], []
        for b in range(batch):
            going = []
            for rank, (score, at) in enumerate(
                zip(best.values[b].tolist(), best.indices[b].tolist(), strict=True)
            ):
                row, token = b * width + at // vocab, at % vocab
                if score == -math.inf:
                    continue
                if token == eos_id or length == max_new_tokens:
                    if rank < beams:
                        text = [*writer.tokens[row, begin:].tolist(), token]
                        waiting[b].append((score / penalty(length), text))
                elif len(going) < beams:
                    going.append((row, token, score))
            going += [(b * width, pad_id, -math.inf)] * (beams - len(going))
            rows += [row for row, _, _ in going]
            tokens += [token for _, token, _ in going]
            totals.append([score for _, _, score in going])
            waiting[b] = sorted(waiting[b], key=lambda pair: -pair[0])[:beams]
        total = torch.tensor(totals, device=device)
        # Scores only fall while the text grows, and no penalty is larger than the last one.
        hope = (total[:, 0] / penalty(max_new_tokens)).tolist()
        if all(
            h == -math.inf or len(w) == beams and w[-1][0] >= h
            for w, h in zip(waiting, hope, strict=True)
        ):
            break
        if length < max_new_tokens:
            writer.reorder(torch.tensor(rows, device=device))
            writer.append(torch.tensor(tokens, device=device))
    texts = [w[0][1] for w in waiting]
    longest = max(map(len, texts))
    padded = [text + [pad_id] * (longest - len(text)) for text in texts]
    first = writer.tokens.view(batch, -1, writer.tokens.shape[1])[:, 0, :begin]
    return torch.cat([first, torch.tensor(padded, device=device)], 1)


def _config(model, given, *names):
    """What was given, or the first of the config's values under these names, or None."""
    config = getattr(model, "config", None)
    for name in names if given is None else ():
        given = getattr(config, name, None)
        if given is not None:
            break
    return given


def _check(input_ids, attention_mask, max_new_tokens, temperature, top_k, top_p, beams, penalty):
    if input_ids.ndim != 2 or input_ids.dtype != torch.int64 or 0 in input_ids.shape:
        raise ValueError(
            "input_ids must be int64 (batch, tokens) with at least one of each: got "
            f"{input_ids.dtype} {tuple(input_ids.shape)}"
        )
    if attention_mask is not None and attention_mask.shape != input_ids.shape:
        raise ValueError(
            f"attention_mask must have input_ids' shape {tuple(input_ids.shape)}: got "
            f"{tuple(attention_mask.shape)}"
        )
    for name, value in (("max_new_tokens", max_new_tokens), ("beams", beams), ("top_k", top_k)):
        if name == "top_k" and value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1: got {value!r}")
    if not 0 <= temperature < math.inf:
        raise ValueError(f"temperature must be at least 0: got {temperature}")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p must be above 0 and at most 1: got {top_p}")
    if temperature == 0 and (top_k is not None or top_p is not None):
        raise ValueError("top_k and top_p cut what is sampled: set temperature above 0")
    if beams > 1 and temperature != 0:
        raise ValueError("beam search does not sample: set temperature=0 or beams=1")
    if not 0 <= penalty < math.inf:
        raise ValueError(f"length_penalty must be at least 0: got {penalty}")
