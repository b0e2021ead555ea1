"""How good a model is on text it hasn't seen, in nats a token, and what it writes."""

import torch
import torch.nn.functional as F

from llmbook.checks import whole
from llmbook.decoding import generate
from llmbook.losses import IGNORED
from llmbook.training.precision import Precision


@torch.no_grad()
def validation_loss(model, ids, length, *, batch_size=32, windows=None, precision="auto"):
    """Mean loss over windows of a stream, in nats a token: quick, for a look during training.

    ids: (tokens,); length: tokens a window; windows: how many at most, spread over the stream.
    The first tokens of a window have little context, so that this lies above `stream_nats`.
    """
    device = next(model.parameters()).device
    count = (len(ids) - 1) // length
    if count < 1:
        raise ValueError(f"ids must hold length + 1 = {length + 1} tokens: got {len(ids)}")
    chosen = torch.arange(count)
    if windows is not None and windows < count:
        chosen = torch.arange(windows) * count // windows
    offsets, total = torch.arange(length + 1), 0.0
    for starts in (chosen * length).split(batch_size):
        window = ids[starts[:, None] + offsets].long().to(device)
        with Precision.choose(device, precision).autocast():
            loss = model.loss(window[:, :-1], window[:, 1:])
        total += loss.item() * len(starts)
    return total / len(chosen)


@torch.no_grad()
def stream_nats(model, ids, length, *, stride=None, batch_size=32, precision="auto"):
    """Mean of −log p over a whole stream, in nats a token: every token but the first, once.

    Windows of `length` tokens overlap; a token is scored in the one in which `length − stride` or
    more tokens stand before it (the first window scores all of its own). stride: length / 2 when
    None.
    """
    device = next(model.parameters()).device
    stride = max(1, length // 2) if stride is None else stride
    whole("stride", stride, least=1, most=length)
    targets_left, begin, spans = len(ids) - 1, 0, []
    while begin < targets_left:  # of each window (begin, scored, end), see _span_nats
        end = min(begin + length, targets_left)
        spans.append((begin, min(begin + length - stride, end) if begin else 0, end))
        begin = begin + stride if end < targets_left else targets_left
    total = 0.0
    for i in range(0, len(spans), batch_size):
        total += _span_nats(model, ids, spans[i : i + batch_size], length, device, precision)
    return total / targets_left


def _span_nats(model, ids, spans, length, device, precision):
    """Σ −log p over the targets of some windows, in nats.

    spans: (begin, scored, end) of each: it reads ids[begin:end] and is asked for the token after
    each of ids[scored:end]; up to ids[scored] an earlier window was asked.
    """
    inputs = torch.zeros(len(spans), length, dtype=torch.int64)
    targets = torch.full((len(spans), length), IGNORED)
    for row, (begin, scored, end) in enumerate(spans):
        inputs[row, : end - begin] = ids[begin:end]
        targets[row, scored - begin : end - begin] = ids[scored + 1 : end + 1]
    inputs, targets = inputs.to(device), targets.to(device)
    with Precision.choose(device, precision).autocast():
        logits = model(inputs)
    logits = logits.flatten(0, 1).float()
    return F.cross_entropy(logits, targets.flatten(), reduction="sum", ignore_index=IGNORED).item()


def sample_text(model, tokenizer, prompt_ids, tokens, *, temperature=0.8, seed=0):
    """What a model writes after some ids, to look at during training: at most `tokens` tokens."""
    device = next(model.parameters()).device
    prompt = torch.tensor([list(prompt_ids)], device=device)
    tokens = min(tokens, model.config.max_len - prompt.shape[1])
    ids = generate(model, prompt, max_new_tokens=tokens, temperature=temperature, seed=seed)
    return tokenizer.decode(ids[0, prompt.shape[1] :].tolist())
