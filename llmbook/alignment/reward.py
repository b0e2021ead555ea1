"""A reward model: a decoder with one number a text, learned from which answers people preferred.

    P(a ≻ b | x) = σ(r(x, a) − r(x, b))                     Bradley and Terry 1952
    loss = mean over the pairs of −log σ(r(better) − r(worse))

A ranking of K answers to one prompt gives K (K − 1)/2 pairs, ties left out. They share their
answers, so they stand in one batch and each answer is read once: as separate examples an answer
would be seen K − 1 times an epoch. The loss sees differences within a prompt alone: add any
function of the prompt to r and nothing changes, so scores of different prompts can't be compared.
Source: Ouyang et al. 2022. Shapes: rows are prompts, K answers each, T tokens.
"""

import torch
import torch.nn.functional as F
from einops import rearrange

from llmbook.alignment.rollouts import needed_mask, pad_right
from llmbook.checks import number, tensor
from llmbook.decoding.generate import evaluating


def bradley_terry(better, worse, margin=0.0):
    """−log σ(r(better) − r(worse) − margin): the shape of both, in nats.

    Its slope by the difference is −(1 − σ(difference)): a pair that is ordered with certainty
    teaches nothing more. margin: how much better at least, 0 in the model itself.
    """
    if better.shape != worse.shape:
        raise ValueError(
            f"better and worse must have one shape: got {tuple(better.shape)} and "
            f"{tuple(worse.shape)}"
        )
    return -F.logsigmoid(better - worse - margin)


def pairs_of(ranks):
    """Which answer is preferred to which: bool (rows, K, K), True at [i, j] for i before j.

    ranks (rows, K), the best lowest; equal ranks are a tie, which is no pair. K ranks without ties
    give K (K − 1)/2.
    """
    return ranks[:, :, None] < ranks[:, None, :]


def ranking_loss(scores, ranks):
    """Mean over the prompts of the mean Bradley–Terry loss of their pairs: a scalar.

    scores, ranks (rows, K). A prompt counts as one, however many pairs its ties leave; a prompt
    with ties alone counts nothing. Raises ValueError where no prompt has a pair.
    """
    tensor("scores", scores, "rows K")
    tensor("ranks", ranks, "rows K", rows=scores.shape[0], K=scores.shape[1])
    pairs = pairs_of(ranks)
    each = bradley_terry(*torch.broadcast_tensors(scores[:, :, None], scores[:, None, :]))
    n = pairs.sum((1, 2))
    if not n.any():
        raise ValueError("ranks must order two answers of some prompt at least: got ties alone")
    rows = (each * pairs).sum((1, 2)) / n.clamp(min=1)
    return rows.sum() / (n > 0).sum()


def pairwise_accuracy(scores, ranks):
    """The share of all pairs whose better answer has the higher score; equal scores are half."""
    pairs, gap = pairs_of(ranks), scores[:, :, None] - scores[:, None, :]
    right = (gap > 0).double() + 0.5 * (gap == 0)
    return (right * pairs).sum().item() / pairs.sum().item()


def ranked_batch(prompts, answers, ranks, end_id=None):
    """What `reward_loss` reads: input_ids (rows, K, T), attention_mask alike, ranks (rows, K).

    prompts: a list of ids a row. answers: K lists of ids a row, to which end_id is added where
    given. ranks: K numbers a row, the best lowest. Texts are padded on the right. Raises
    ValueError for rows of different K, fewer than two answers, an answer without a token, and for
    the same answer twice under different ranks, which no score can order.
    """
    sizes = {len(row) for row in answers}
    if len(sizes) != 1 or min(sizes) < 2:
        raise ValueError(
            f"answers must be equally many a row, at least 2: got {sorted(sizes) or 'no rows'}"
        )
    end, texts = [] if end_id is None else [end_id], []
    for row, (prompt, written, order) in enumerate(zip(prompts, answers, ranks, strict=True)):
        places = {}
        for answer, rank in zip(written, order, strict=True):
            if places.setdefault(tuple(answer), rank) != rank:
                raise ValueError(
                    f"chosen and rejected must differ: got the same answer under the ranks "
                    f"{places[tuple(answer)]} and {rank} in row {row}"
                )
            texts.append([*prompt, *answer, *end])
    ids, mask = pad_right(texts)
    k = min(sizes)
    ids, mask = (rearrange(t, "(rows k) t -> rows k t", k=k) for t in (ids, mask))
    return ids, mask, torch.tensor(ranks)


def reward_loss(model, input_ids, attention_mask, ranks):
    """The training engine's loss on a `ranked_batch`, of a `DecoderHead` with one output."""
    ids, mask = input_ids.flatten(0, 1), attention_mask.flatten(0, 1)
    scores = rearrange(_last(model, ids, mask), "(rows k) -> rows k", rows=len(ranks))
    return ranking_loss(scores, ranks)


@torch.no_grad()
def score_texts(model, texts, batch_size=128):
    """The reward of whole texts, lists of ids with their end: float32 (texts,), on the CPU."""
    device, found = next(model.parameters()).device, []
    with evaluating(model):
        for start in range(0, len(texts), batch_size):
            ids, mask = pad_right(texts[start : start + batch_size], device=device)
            found.append(_last(model, ids, mask).float().cpu())
    return torch.cat(found)


def score_rollouts(model, rollouts):
    """The reward of each answer of `Rollouts`, its prompt before it: float32 (rows,).

    An answer that did not end is scored as it stands, without an end token.
    """
    answers = [[i for i in row if i >= 0] for row in rollouts.targets.tolist()]
    return score_texts(model, [p + a for p, a in zip(rollouts.prompts, answers, strict=True)])


def centre(model, texts):
    """Shift the head's bias so that the mean reward of these texts is 0; the shift, in rewards.

    A constant that the loss can't see. PPO's value network then starts from the right height, and
    a reward above 0 means better than these.
    """
    mean = number("mean reward", score_texts(model, texts).mean().item())
    with torch.no_grad():
        model.output.bias -= mean
    return -mean


def _last(model, ids, mask):
    """The score of each text's last token, by a call of the model, so that FSDP takes part."""
    every = model(ids, needed_mask(mask))
    places = torch.arange(ids.shape[1], device=ids.device)
    last = (places * mask).argmax(-1)
    return every[torch.arange(len(ids), device=ids.device), last, 0]
