"""The alignment race: a GRPO iteration and a DPO update against trl's trainers, from one model.

A GRPO iteration is prompts to answers of a forced length, a reward of each answer's text, one
update: β is 0, float32, no dropout, nothing logged or saved; the start of trl's trainer is left
out. After the race each side is timed once more in its three parts. trl's answers are kept from
ending by `min_new_tokens`, ours by a model without an end token. Beside it: how fast rollouts
come, against greedy decoding of as many tokens, which samples nothing and keeps no probabilities.
A DPO update is the reference's reading of the pairs, forward, backward, clipping and AdamW.
trl is an extra: `pip install llmbook[oracles]`.

The gates: the gradients of every matrix, by one batch, against ours in float64; the log
probabilities that rollouts keep, against a pass over the whole answers in float64.
"""

import dataclasses

import torch

from llmbook.alignment.dpo import DPO, preference_batch, with_reference
from llmbook.alignment.grpo import GRPO, GRPOConfig
from llmbook.alignment.rollouts import pad_left, reference_log_probs, roll_out
from llmbook.bench.memory import Peak, in_fresh_process
from llmbook.bench.race import relative_error, run_pair
from llmbook.bench.sft import gradient_of, load_double, their_gradient
from llmbook.bench.trl_peer import (
    Clock,
    Size,
    TheirIteration,
    library_of,
    questions,
    settings_of,
    share_of_vowels,
    trl_and_datasets,
    update_of,
)
from llmbook.data.corpus import question_answers
from llmbook.decoding import generate
from llmbook.models import load
from llmbook.models.gpt import GPT, GPTConfig
from llmbook.models.pretrained import SHIPPED
from llmbook.tokenization import BPETokenizer
from llmbook.training import TrainConfig, Update

TOLERANCE = 1e-4


SIZES = {"quick": Size(8, 4, 8, 4), "cpu": Size(32, 8, 32, 16), "gpu": Size(512, 8, 96, 128)}


def add_arguments(parser):
    """How much an iteration does."""
    parser.add_argument("--size", choices=list(SIZES), help="default: cpu; quick: quick")
    parser.add_argument(
        "--memory",
        action="store_true",
        help="no race: peak memory of one iteration, at GPT-2's smallest shape",
    )


def run(options, report):
    """The three races of one size; `report` prints and records."""
    if options.memory:
        peaks = {
            side: in_fresh_process(peak_of_iterations, side) / 2**20 for side in ("ours", "trl")
        }
        print(
            f"GRPO, GPT-2's 124 M shape, 4 answers of 32 tokens, AdamW: peak above the weights "
            f"{peaks['ours']:,.0f} MiB, trl's {peaks['trl']:,.0f} MiB"
        )
        return
    gpu = options.device.type == "cuda"
    size = SIZES[options.size or ("quick" if options.quick else "gpu" if gpu else "cpu")]
    shape = f"{size.rows} × {size.tokens}"
    report(f"rollouts, {shape}", lambda: [_rollouts(f"rollouts, {shape}", size, options)])
    report(f"GRPO iteration, {shape}", lambda: [_grpo(f"GRPO iteration, {shape}", size, options)])
    case = f"DPO update, {size.pairs} pairs"
    report(case, lambda: [_dpo(case, size, options)])


# --- what both sides get


def subject(device):
    """The small model without an end token, and its tokenizer."""
    model = load("small")
    model.config = dataclasses.replace(model.config, eos_id=None)
    return model.to(device), BPETokenizer.load(SHIPPED / "small")


def _settings(group=1):
    return TrainConfig(
        steps=10**9, schedule="constant", warmup=0, lr=1e-5, precision="float32", batch_size=group
    )


def _race(case, contestants, errors, options):
    return run_pair(
        case,
        contestants,
        errors,
        tolerance=TOLERANCE,
        device=options.device,
        repeats=options.repeats,
        warmup=options.warmup,
    )


# --- rollouts


def _rollouts(case, size, options):
    model, tokenizer = subject(options.device)
    prompts = [tokenizer.encode(text) for text in questions(size.rows // size.group, tokenizer)]
    ids, keep = pad_left([p for p in prompts for _ in range(size.group)], device=options.device)

    def ours(seed=options.seed):
        return roll_out(model, prompts, size.group, max_new_tokens=size.tokens, seed=seed)

    def greedy():
        return generate(model, ids, keep, max_new_tokens=size.tokens, eos_id=())

    rollouts = ours()
    exact = reference_log_probs(load_double(model), rollouts)
    errors = {"rollouts": relative_error([rollouts.log_probs], [exact]), "greedy": 0.0}
    return _race(case, {"rollouts": ours, "greedy": greedy}, errors, options)


# --- GRPO


class Iteration:
    """Our side: `iteration()` samples, rewards and learns once."""

    def __init__(self, model, tokenizer, size, seed=0):
        prompts = [
            tokenizer.encode(text) for text in questions(size.rows // size.group, tokenizer)
        ]
        config = GRPOConfig(group=size.group, max_new_tokens=size.tokens, seed=seed)

        def reward(rollouts, step):
            return share_of_vowels([tokenizer.decode(answer) for answer in rollouts.answers])

        self.grpo = GRPO(model, lambda step: prompts, reward, config)
        self.update = Update(model.train(), _settings(size.rows), self.grpo.loss, self.grpo.count)
        self.step = 0

    def __call__(self):
        """One iteration."""
        self.update(self.grpo.batch_at(self.step))
        self.step += 1

    def parts(self):
        """Seconds of one more iteration: {"rollout", "reward", "update"}."""
        clock = Clock()
        self.grpo.sample = clock.timed("rollout", self.grpo.sample)
        self.grpo.reward = clock.timed("reward", self.grpo.reward)
        return clock.parts(self)


def _grpo(case, size, options):
    model, tokenizer = subject(options.device)
    theirs = TheirIteration(model, tokenizer, size, options.seed)
    ours = Iteration(model, tokenizer, size, options.seed)
    outcome = _race(case, {"ours": ours, "trl": theirs}, _grpo_errors(ours, theirs), options)
    for name, parts in (("ours", ours.parts()), ("trl", theirs.parts())):
        whole = sum(parts.values())
        told = ", ".join(f"{part} {seconds / whole:.0%}" for part, seconds in parts.items())
        print(f"  {name}: {told}", flush=True)
    return outcome


def _grpo_errors(ours, theirs):
    """Both gradients by the answers that trl has written, against ours in float64."""
    trainer, model = theirs.trainer, ours.update.model
    trainer.current_gradient_accumulation_steps = 1
    batch = trainer._generate_and_score_completions(theirs.rows)
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1).bool()
    given = (ids[:, :-1], mask[:, :-1], batch["completion_ids"], batch["advantages"])

    def loss(own):
        old = reference_log_probs(own, _Given(given[:3]))
        return ours.grpo.loss(own, *given[:3], given[3].to(old), old, old)

    truth = gradient_of(load_double(model), loss)
    their_loss = lambda: trainer.compute_loss(theirs.model, batch)
    return {
        "ours": relative_error([gradient_of(model, loss)], [truth]),
        "trl": relative_error([their_gradient(model, theirs.model, their_loss)], [truth]),
    }


@dataclasses.dataclass
class _Given:
    tensors: tuple

    def batch(self):
        return self.tensors


# --- DPO


def _dpo(case, size, options):
    model, tokenizer = subject(options.device)
    reference, _ = subject(options.device)
    trl, datasets = trl_and_datasets()
    pairs = question_answers("train", "quick")[: size.pairs + 1]
    rows = [
        {"prompt": f"{a.name}:", "chosen": " " + a.answer[:80], "rejected": " " + b.answer[:80]}
        for a, b in zip(pairs, pairs[1:], strict=False)
    ]
    their_model, library, folder = library_of(model, tokenizer)
    args = trl.DPOConfig(
        **settings_of(folder, model, size.pairs, options.seed), beta=0.1, max_length=None
    )
    trainer = trl.DPOTrainer(
        model=their_model,
        ref_model=library_of(model, tokenizer)[0],
        args=args,
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=library,
    )
    held = [trainer.train_dataset[i] for i in range(len(rows))]
    collated = trainer.data_collator(held)
    collated = {name: t.to(options.device) for name, t in collated.items()}
    columns = (
        [row[name] for row in held] for name in ("prompt_ids", "chosen_ids", "rejected_ids")
    )
    ours = tuple(t.to(options.device) for t in preference_batch(*columns))
    dpo = DPO(0.1)
    update = Update(model.train(), _settings(size.pairs), dpo.loss)

    def loss(own):
        same = with_reference(reference.to(next(own.parameters())), ours)
        return dpo.loss(own, *same)

    truth = gradient_of(load_double(model), loss)
    trainer.current_gradient_accumulation_steps = 1
    their_loss = lambda: trainer.compute_loss(their_model, dict(collated))
    errors = {
        "ours": relative_error([gradient_of(model, loss)], [truth]),
        "trl": relative_error([their_gradient(model, their_model, their_loss)], [truth]),
    }
    theirs = update_of(trainer, their_model, lambda: dict(collated))
    return _race(
        case,
        {"ours": lambda: update(with_reference(reference, ours)), "trl": theirs},
        errors,
        options,
    )


# --- memory


def peak_of_iterations(side, iterations=2):
    """Bytes by which two GRPO iterations raise the peak of this process's memory."""
    torch.manual_seed(0)
    tokenizer = BPETokenizer.load(SHIPPED / "small")
    shape = {"max_len": 1024, "d_model": 768, "n_layers": 12, "n_heads": 12}
    model = GPT(GPTConfig(vocab_size=50257, **shape))
    iteration = {"ours": Iteration, "trl": TheirIteration}[side](
        model, tokenizer, Size(4, 4, 32, 0)
    )
    if side == "trl":
        del model
    with Peak() as peak:
        for _ in range(iterations):
            iteration()
    return peak.bytes
