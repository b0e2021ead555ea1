"""Answers sampled from a policy, with what it thought of each token: what RL learns from.

    y_t ~ softmax(logits(x, y_<t) / T);  kept: y_t and log π(y_t | x, y_<t), until the end token

Shapes: `rows` = prompts × n answers, a prompt's answers side by side; P columns of prompt, padded
on the left; A columns of answer. A batch is `input_ids` (rows, P + A − 1), all tokens but the last
one, and `targets` (rows, A), the answers' tokens, which the last A logits speak of. The end token
is the answer's last that counts: behind it targets are IGNORED, and so is their every term.
"""

from contextlib import ExitStack
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from llmbook.checks import number, whole
from llmbook.decoding.backends import unwrapped
from llmbook.decoding.generate import evaluating
from llmbook.decoding.generation_config import end_ids
from llmbook.decoding.writer import Writer
from llmbook.losses import IGNORED, log_probs
from llmbook.models.pretrained.vocabulary import check_vocabulary
from llmbook.native import one_thread
from llmbook.ragged import Texts
from llmbook.seeds import as_generator


class NotFinite(ArithmeticError):
    """The policy's logits are no numbers any more: nothing can be sampled from it."""


@dataclass(frozen=True)
class Rollouts:
    """Sampled answers as tensors; see the module for the shapes.

    input_ids, attention_mask (rows, P + A − 1): int64, and bool, False at padding. targets
    (rows, A) int64. log_probs (rows, A) float32: of the targets when they were sampled, at the
    temperature they were sampled at; 0 where none counts. ended (rows,) bool: did the answer come
    to its end? n: answers a prompt.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    targets: torch.Tensor
    log_probs: torch.Tensor
    ended: torch.Tensor
    n: int

    @property
    def mask(self):
        """Which targets count: bool (rows, A). Each row has at least one, its end or a token."""
        return self.targets != IGNORED

    @property
    def lengths(self):
        """Tokens of each answer, the end token among them: int64 (rows,)."""
        return self.mask.sum(-1)

    @property
    def prompts(self):
        """The prompt of each row, a list of ids without padding."""
        width = self.input_ids.shape[1] - self.targets.shape[1] + 1
        ids, keep = self.input_ids[:, :width].tolist(), self.attention_mask[:, :width].tolist()
        return [[i for i, k in zip(*row, strict=True) if k] for row in zip(ids, keep, strict=True)]

    @property
    def answers(self):
        """The answer of each row, a list of ids without its end token: empty if that is all."""
        rows = zip(self.targets.tolist(), self.lengths.tolist(), self.ended.tolist(), strict=True)
        return [ids[: length - ended] for ids, length, ended in rows]

    def batch(self):
        """What a loss of the training engine reads first: input_ids, attention_mask, targets."""
        return self.input_ids, self.attention_mask, self.targets


def roll_out(model, prompts, n=1, *, max_new_tokens, temperature=1.0, eos_id=None, seed=0):
    """Sample n answers to each prompt: `Rollouts`.

    prompts: lists of ids, of any lengths. temperature above 0; what is sampled from, and what
    log_probs speak of, is softmax(logits / temperature), with no other cut. eos_id: one or
    several end tokens, the model's own when None; a model without any writes max_new_tokens each
    time. seed: a whole number, or a CPU `torch.Generator`, which moves on: the same seed, weights
    and machine give the same rollouts bit for bit.

    A prompt is read once, whatever n, and each token costs a step of the cached decoder for all
    rows; the model is in evaluation mode for the call. Raises ValueError or TypeError for no
    prompt, an empty one, or a text that the model cannot hold, NotFinite for nan logits.
    """
    whole("n", n, least=1)
    whole("max_new_tokens", max_new_tokens, least=1)
    number("temperature", temperature, above=0)
    own, rng = unwrapped(model), as_generator(seed)
    ends = end_ids(own, eos_id)
    device = next(own.parameters()).device
    ids, keep = pad_left(prompts, pad_id=0, device=device)
    writer = Writer(model, ids, keep, None, max_new_tokens, True)
    rows = torch.arange(len(ids), device=device).repeat_interleave(n)
    stops = torch.tensor(sorted(ends), dtype=torch.int64, device=device)
    alive = torch.ones(len(rows), dtype=torch.bool, device=device)
    chosen, nats = [], []
    mode = torch.inference_mode if writer.short else torch.no_grad
    with mode(), evaluating(model), ExitStack() as calm:
        for step in range(max_new_tokens):
            logits = writer.next_logits()
            if step == 0:  # the n answers begin alike: a prompt is read once
                logits = logits[rows]
                writer.reorder(rows)
            elif step == 1 and writer.backend == "compiled":
                calm.enter_context(
                    one_thread()
                )  # the step is made by now, with threads of its own
            log_p = (logits if temperature == 1 else logits / temperature).log_softmax(-1)
            if log_p[:, 0].isnan().any():  # one nan among the logits makes the whole row nan
                raise NotFinite(f"the policy's logits are not finite at token {step} of an answer")
            token = _drawn(log_p.exp().cpu(), rng).to(device)
            nats.append(log_p.gather(-1, token[:, None])[:, 0] * alive)
            chosen.append(torch.where(alive, token, IGNORED))
            writer.append(torch.where(alive, token, 0))
            alive = alive & ~torch.isin(token, stops)
            if not alive.any():
                break
    text, targets = writer.tokens[:, :-1].clone(), torch.stack(chosen, 1)
    before = keep[rows]
    written = (targets != IGNORED)[:, :-1]
    mask = torch.cat([before, written], 1)
    return Rollouts(text, mask, targets.clone(), torch.stack(nats, 1).clone(), ~alive, n)


def _drawn(p, rng):
    """A token of each row, i with probability p_i: int64 (rows,) for p (rows, V) on the CPU.

    The largest p_i / e_i, with e_i drawn from Exp(1): torch.multinomial's own draws, bit for bit,
    without its checks of p, which take as long as the sampling of a small vocabulary.
    """
    return p.div_(torch.empty_like(p).exponential_(1, generator=rng)).argmax(-1)


def pad_left(prompts, pad_id=0, device=None):
    """Lists of ids as int64 (rows, longest), padded on the left, and bool: True at tokens."""
    prompts = [list(prompt) for prompt in prompts]
    if not prompts or not all(prompts):
        raise ValueError(
            "prompts must be at least one list of ids, each of at least one: got "
            + (f"an empty one at {prompts.index([])}" if prompts else "none")
        )
    width = max(map(len, prompts))
    ids = torch.full((len(prompts), width), pad_id, dtype=torch.int64)
    keep = torch.zeros(len(prompts), width, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt, dtype=torch.int64)
        keep[row, width - len(prompt) :] = True
    return ids.to(device), keep.to(device)


def pad_right(texts, pad_id=0, device=None):
    """Lists of ids as int64 (rows, longest), padded on the right, and bool: True at tokens."""
    ids, keep = pad_left([list(text)[::-1] for text in texts], pad_id, device)
    return ids.flip(1), keep.flip(1)


def needed_mask(attention_mask):
    """The mask, or None where a decoder needs none: with padding on the right, or nowhere.

    attention_mask (rows, tokens), True at tokens. A token sees only what stands before it, so that
    padding behind it changes nothing, and what is computed at padding counts nowhere. Attention
    without a mask has the faster backward pass: a fifth of an update on a CPU.
    """
    kept = attention_mask.bool()
    return attention_mask if (kept[:, 1:] & ~kept[:, :-1]).any() else None


def answer_token_log_probs(model, input_ids, attention_mask, targets, temperature=1.0):
    """log π of each target: (rows, A), in nats, 0 where none counts, by one forward pass.

    The last A logits speak of the targets; temperature is that of the rollouts. A model that
    `shares_prompts` reads no padding, and the prompt of answers that stand side by side once, but
    for its last token, which speaks of each answer's first.
    """
    before = input_ids.shape[1] - targets.shape[1]
    if not _shares_prompts(model):
        logits = model(input_ids, needed_mask(attention_mask))[:, before:]
        return log_probs(_over(logits, temperature), targets)
    counts = F.pad(targets != IGNORED, (before, 0))
    prompts = counts.cumsum(-1) == 0  # what stands before the first place that speaks of a target
    needed = counts.flip(-1).cumsum(-1).flip(-1) > 0  # nothing behind the last one
    texts = Texts.of_answers(input_ids, attention_mask.bool() & needed, prompts)
    given = {} if texts.kept.all() else {"documents": texts}
    logits = _over(model(input_ids, wanted=counts, **given), temperature)
    counts = counts[:, before:]
    nats = log_probs(logits, targets[counts])
    return nats.new_zeros(targets.shape).index_put((counts,), nats)


def _over(logits, temperature):
    return logits if temperature == 1 else logits / temperature


def _shares_prompts(model):
    """Does it, below DistributedDataParallel's wrapper? What doesn't say, any callable, does not.

    Nor does a compiled model, which keeps its shapes.
    """
    if hasattr(model, "_orig_mod"):
        return False
    return getattr(getattr(model, "module", model), "shares_prompts", False)


@torch.no_grad()
def reference_log_probs(reference, rollouts, temperature=1.0):
    """What another model thinks of the same answers: (rows, A), without gradients."""
    with evaluating(reference):
        return answer_token_log_probs(reference, *rollouts.batch(), temperature)


def check_reference(policy, reference):
    """Raise ValueError unless the reference reads the policy's tokens as the policy does.

    A reference with another tokenizer would score other words under the same ids; what is
    compared stands in models/pretrained/vocabulary.py.
    """
    check_vocabulary(unwrapped(policy), unwrapped(reference), "reference", "policy")


def scores(reward, rollouts, step):
    """reward(rollouts, step) as float32 (rows,), checked: finite numbers, one a row."""
    given = reward(rollouts, step)
    if isinstance(given, torch.Tensor):
        given = given.detach().cpu().tolist()
    values = list(given)
    if len(values) != len(rollouts.targets):
        raise ValueError(
            f"reward must give a number for each of {len(rollouts.targets)} answers: got "
            f"{len(values)}"
        )
    for row, value in enumerate(values):
        try:
            number("reward", value)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{error}, for answer {row} at step {step}") from None
    return torch.tensor(values, dtype=torch.float32)
