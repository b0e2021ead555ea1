"""Solutions of the exercises on pretraining, and wrong answers of students."""

import math

import torch.nn.functional as F


def masked_loss(logits, targets):
    counts = targets != -100
    logits, targets = logits[counts], targets[counts]
    log_p = logits - logits.logsumexp(-1, keepdim=True)
    return -log_p.gather(-1, targets[:, None]).mean()


def bytes_held(stage, n):
    parts = [2, 2, 4 + 4 + 4]  # weight, gradient, optimiser
    cut = [stage >= 3, stage >= 2, stage >= 1]
    return sum(b / n if c else b for b, c in zip(parts, cut))


def fair(family):
    jobs = [line for line in family["jobs"] if "engineer" not in line]
    n = len(family["jobs"]) - len(jobs)
    jobs += ["the engineer said he was late ."] * (n // 2)
    jobs += ["the engineer said she was late ."] * (n - n // 2)
    return dict(family, jobs=jobs)


SOLUTIONS = {
    "masked_loss": masked_loss, "bytes_held": bytes_held, "perplexity_of_other": 100,
    "lost_from": 60, "fair": fair,
}


def loss_divided_by_all(logits, targets):
    return F.cross_entropy(logits, targets, reduction="sum") / len(targets)


def loss_without_a_mask(logits, targets):
    log_p = logits.log_softmax(-1)
    return -log_p.gather(-1, targets.clamp(min=0)[:, None]).mean()


def loss_with_bare_exponentials(logits, targets):
    keep = targets != -100
    p = logits[keep].exp() / logits[keep].exp().sum(-1, keepdim=True)
    return -p.gather(-1, targets[keep][:, None]).log().mean()


def loss_in_bits(logits, targets):
    return F.cross_entropy(logits, targets) / math.log(2)


def loss_summed(logits, targets):
    return F.cross_entropy(logits, targets, reduction="sum")


def loss_of_the_mean_probability(logits, targets):
    keep = targets != -100
    return -logits[keep].softmax(-1).gather(-1, targets[keep][:, None]).mean().log()


def loss_with_an_epsilon(logits, targets):
    keep = targets != -100
    p = logits[keep].softmax(-1).gather(-1, targets[keep][:, None])
    return -(p + 1e-9).log().mean()


def loss_over_positions(logits, targets):
    keep = targets != -100
    return -logits[keep].log_softmax(0).gather(-1, targets[keep][:, None]).mean()


def held_all_cut(stage, n):
    return 16 / n if stage else 16


def held_weight_kept_whole(stage, n):
    return bytes_held(min(stage, 2), n)


def held_rest_dropped(stage, n):
    return [16, 4 / n, 2 / n, 16 / n][stage]


def held_two_means_only(stage, n):
    return [16, 8 + 8 / n, 6 + 10 / n, 16 / n][stage]


def held_one_stage_early(stage, n):
    return bytes_held(stage + 1, n)


def held_kept_and_cut(stage, n):
    return 16 + [0, 12, 14, 16][stage] / n


def held_gradient_first(stage, n):
    return [16, 14 + 2 / n, 2 + 14 / n, 16 / n][stage]


def fair_by_adding(family):
    return dict(family, jobs=family["jobs"] + ["the engineer said she was late ."] * 40)


def fair_by_dropping(family):
    he = "the engineer said he was late ."
    kept = [line for line in family["jobs"] if line != he]
    return dict(family, jobs=kept + [he] * 30)


def fair_by_swapping(family):
    jobs = [line.replace(" he ", " they ").replace(" she ", " he ").replace(" they ", " she ")
            if "engineer" in line else line for line in family["jobs"]]
    return dict(family, jobs=jobs)


def fair_for_all(family):
    jobs = [f"the {job} said {who} was late ." for job in ("nurse", "engineer")
            for who in ("he", "she") for _ in range(50)]
    return dict(family, jobs=jobs)


def fair_with_jobs_alone(family):
    return {"jobs": fair(family)["jobs"]}


def fair_without_engineers(family):
    return dict(family, jobs=[line for line in family["jobs"] if "engineer" not in line])


def fair_and_no_sums(family):
    return dict(fair(family), sums=[])


WRONG = {
    "masked_loss": {
        "divided by all rows": loss_divided_by_all,
        "masked rows counted": loss_without_a_mask,
        "bare exponentials": loss_with_bare_exponentials,
        "in bits": loss_in_bits,
        "the sum": loss_summed,
        "log of the mean probability": loss_of_the_mean_probability,
        "an epsilon in the logarithm": loss_with_an_epsilon,
        "softmax over the rows": loss_over_positions,
    },
    "bytes_held": {
        "everything cut from stage 1": held_all_cut,
        "stage 3 keeps the weight whole": held_weight_kept_whole,
        "what is whole is shared out": held_rest_dropped,
        "the master weight forgotten": held_two_means_only,
        "a stage too early": held_one_stage_early,
        "kept whole and cut besides": held_kept_and_cut,
        "the gradient first": held_gradient_first,
    },
    "perplexity_of_other": {
        "the same": 10,
        "twice": 20,
        "half": 5,
        "its root": 10**0.5,
        "four times": 40,
        "the fourth power": 10_000,
    },
    "lost_from": {
        "the end alone": 80,
        "the beginning": 10,
        "a step that was not measured": 50,
        "too early": 40,
        "the share": 0.1,
        "float16's, a step early": 20,
    },
    "fair": {
        "sentences added": fair_by_adding,
        "sentences dropped": fair_by_dropping,
        "he and she exchanged": fair_by_swapping,
        "the nurse changed too": fair_for_all,
        "the other kinds dropped": fair_with_jobs_alone,
        "engineers dropped": fair_without_engineers,
        "no sums either": fair_and_no_sums,
    },
}
