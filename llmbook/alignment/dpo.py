"""DPO: learn from preferred pairs without a reward model and without sampling.

The best policy under max E[r] − β KL(π ‖ ρ) is π*(y) ∝ ρ(y) exp(r(y)/β). Solved for the reward,
r(y) = β log π*(y)/ρ(y) + a constant of the prompt, which cancels in a pair's difference. Put into
the Bradley–Terry loss (reward.py) that is a loss of the policy itself:

    loss = −log σ(β [(log π − log ρ)(chosen) − (log π − log ρ)(rejected)])

log π of an answer is a sum over its tokens, not a mean. Only the margin counts: the loss falls
just as well while both probabilities fall, the rejected one faster. Shapes: rows are pairs, and
[:, 0] is the chosen answer, [:, 1] the rejected; T tokens. Source: Rafailov et al. 2023.
"""

import torch
import torch.nn.functional as F

from llmbook import checks
from llmbook.alignment.collapse import Collapsed, Watch
from llmbook.alignment.rollouts import (
    NotFinite,
    answer_token_log_probs,
    check_reference,
    pad_right,
    reference_log_probs,
    roll_out,
    scores,
)
from llmbook.decoding.generate import evaluating
from llmbook.losses import IGNORED
from llmbook.seeds import generator


def dpo_loss(log_probs, reference, beta, noise=0.0, weights=None):
    """The loss, a scalar, and what there is to tell of it.

    log_probs (rows, 2), with gradients, and reference (rows, 2): log π and log ρ of the chosen and
    the rejected answer, sums over their tokens. beta above 0: how dear it is to leave ρ. noise:
    the share of pairs that are thought to be labelled the wrong way round, below ½. weights
    (rows,): 0 for a pair that doesn't count. Told: the implicit rewards β (log π − log ρ) of both,
    and the share of pairs in the right order.
    """
    checks.positive("beta", beta)
    checks.number("noise", noise, least=0, below=0.5)
    checks.tensor("log_probs", log_probs, "rows 2")
    checks.tensor("reference", reference, "rows 2", rows=len(log_probs))
    rewards = beta * (log_probs - reference)
    margin = rewards[:, 0] - rewards[:, 1]
    each = -(1 - noise) * F.logsigmoid(margin) - noise * F.logsigmoid(-margin)
    weights = torch.ones_like(each) if weights is None else weights
    told = {
        "chosen": rewards[:, 0].detach().mean(),
        "rejected": rewards[:, 1].detach().mean(),
        "accuracy": (margin.detach() > 0).double().mean(),
    }
    return (weights * each).sum() / weights.sum().clamp(min=1), told


def preference_batch(prompts, chosen, rejected, end_id=None):
    """input_ids, targets (rows, 2, T) int64 and attention_mask alike, of lists of ids.

    The prompt's targets are IGNORED, and so is padding, on the right; end_id is added to each
    answer where given. Raises ValueError where a chosen answer is the rejected one, or an answer
    has no token.
    """
    end, texts, begins = [] if end_id is None else [end_id], [], []
    for row, (prompt, good, bad) in enumerate(zip(prompts, chosen, rejected, strict=True)):
        if list(good) == list(bad):
            raise ValueError(
                f"chosen and rejected must differ: got the same answer twice in row {row}"
            )
        for answer in (good, bad):
            if not [*answer, *end]:
                raise ValueError(f"an answer must have at least one token: got none in row {row}")
            texts.append([*prompt, *answer, *end])
            begins.append(len(prompt))
    ids, mask = pad_right(texts)
    counts = mask & (torch.arange(ids.shape[1]) >= torch.tensor(begins)[:, None])
    targets = torch.where(counts, ids, IGNORED)[:, 1:]
    return tuple(t.unflatten(0, (-1, 2)) for t in (ids[:, :-1], targets, mask[:, :-1]))


def pair_log_probs(model, input_ids, targets, attention_mask):
    """log π of both answers of each pair: (rows, 2), sums over their tokens."""
    ids, targets, mask = (t.flatten(0, 1) for t in (input_ids, targets, attention_mask))
    return answer_token_log_probs(model, ids, mask, targets).sum(-1).unflatten(0, (-1, 2))


@torch.no_grad()
def with_reference(reference, batch):
    """A `preference_batch` and the reference's log-probabilities of it, once for all epochs."""
    with evaluating(reference):
        return *batch, pair_log_probs(reference, *batch)


class DPO:
    """DPO's loss for the training engine, on batches that carry the reference.

    dpo = DPO(beta=0.1, log=log)
    train(model, lambda step: with_reference(reference, batches[step]), settings,
          loss=dpo.loss, log=log)
    """

    def __init__(self, beta=0.1, noise=0.0, log=None):
        self.beta, self.noise = checks.positive("beta", beta), noise
        checks.number("noise", noise, least=0, below=0.5)
        self.log = log

    def loss(self, model, input_ids, targets, attention_mask, reference, weights=None):
        """The scalar that `train` differentiates."""
        ours = pair_log_probs(model, input_ids, targets, attention_mask)
        value, told = dpo_loss(ours, reference, self.beta, self.noise, weights)
        if self.log is not None:
            self.log.measure(**told)
        return value


class OnlineDPO(DPO):
    """DPO on pairs that the policy has just written, ordered by a judge: `batch_at` and `loss`.

    prompts_at(step): lists of ids. judge(rollouts, step): a number a row; of a prompt's n answers
    the best and the worst make a pair, which doesn't count where they are as good as each other.
    Nothing is learned about answers that the policy would never write. Source: Guo et al. 2024.
    """

    def __init__(self, model, reference, prompts_at, judge, *, n=2, beta=0.1, **settings):
        """settings: max_new_tokens, temperature, eos_id of `roll_out`; seed, log, watch.

        Noted of a step: reward, and kl, nats an answer, for which the reference reads all answers.
        """
        self.seed = checks.whole("seed", settings.pop("seed", 0), least=0)
        self.watch = settings.pop("watch", None) or Watch()
        super().__init__(beta, log=settings.pop("log", None))
        check_reference(model, reference)
        self.n = checks.whole("n", n, least=2)
        self.model, self.reference, self.settings = model, reference, settings
        self.prompts_at, self.judge, self.rollouts = prompts_at, judge, None

    def batch_at(self, step):
        """The tensors of a step: as many pairs as there are prompts."""
        rng = generator(self.seed, "rollouts", step)
        try:
            rollouts = roll_out(
                self.model, self.prompts_at(step), self.n, seed=rng, **self.settings
            )
        except NotFinite as error:
            raise Collapsed(str(error), step) from error
        given = scores(self.judge, rollouts, step)
        temperature = self.settings.get("temperature", 1.0)
        reference = reference_log_probs(self.reference, rollouts, temperature)
        kl = (rollouts.log_probs - reference).sum(-1).mean().item()
        self.watch(step, rollouts, given, kl)
        self.rollouts, groups = rollouts, given.view(-1, self.n)
        first = torch.arange(len(groups)) * self.n
        best, worst = first + groups.argmax(-1), first + groups.argmin(-1)
        if self.log is not None:
            self.log.note(step, reward=given.mean().item(), kl=kl)
        rows = torch.stack([best, worst], 1).flatten().to(reference.device)
        ids, mask, answers = (t[rows] for t in rollouts.batch())
        before = ids.shape[1] - answers.shape[1]
        targets = F.pad(answers, (before, 0), value=IGNORED)
        batch = tuple(t.unflatten(0, (-1, 2)) for t in (ids, targets, mask))
        weights = (groups.amax(-1) > groups.amin(-1)).to(rollouts.log_probs)
        if temperature != 1:  # the loss is that of the models as they are
            return *with_reference(self.reference, batch), weights
        return *batch, reference.sum(-1)[rows].unflatten(0, (-1, 2)), weights
