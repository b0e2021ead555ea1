"""trl's side of the alignment race: its GRPOTrainer and DPOTrainer, one update at a time."""

import dataclasses
import tempfile
import time
from pathlib import Path

import torch

from llmbook.alignment.dpo import preference_batch
from llmbook.data.corpus import question_answers


@dataclasses.dataclass(frozen=True)
class Size:
    """Answers an iteration, in groups; tokens of each; pairs of a DPO update."""

    rows: int
    group: int
    tokens: int
    pairs: int


def share_of_vowels(completions, **_):
    """A reward that costs nothing to compute: the share of vowels in each text."""
    return [sum(c in "aeiou" for c in text) / max(1, len(text)) for text in completions]


def questions(n, tokenizer, tokens=12):
    """n different prompts of as many tokens each.

    Of one length, since trl's pass over left-padded answers lets GPT-2 count positions from the
    padding on, and its log-probabilities are then not those of the answers that were sampled.
    """
    texts = dict.fromkeys(f"{pair.name}:" for pair in question_answers("train", "quick"))
    found = [text for text in texts if len(tokenizer.encode(text)) == tokens]
    if len(found) < n:
        raise ValueError(f"there are {len(found)} prompts of {tokens} tokens: {n} are asked for")
    return found[:n]


class Clock:
    """Times the parts of one iteration: what is wrapped by `timed`, and the rest."""

    def __init__(self):
        self.seconds = {}

    def timed(self, name, function):
        def run(*args, **kwargs):
            begin = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[name] = time.perf_counter() - begin

        return run

    def parts(self, whole):
        self.timed("update", whole)()
        self.seconds["update"] -= self.seconds["rollout"] + self.seconds["reward"]
        return self.seconds


class TheirIteration:
    """trl's side: `iteration()` is one `training_step` of its GRPOTrainer and an update."""

    def __init__(self, model, tokenizer, size, seed=0):
        trl, datasets = trl_and_datasets()
        self.model, library, folder = library_of(model, tokenizer)
        texts = [
            t for t in questions(size.rows // size.group, tokenizer) for _ in range(size.group)
        ]
        self.rows = [{"prompt": text} for text in texts]
        args = trl.GRPOConfig(
            **settings_of(folder, model, size.rows, seed),
            num_generations=size.group,
            max_completion_length=size.tokens,
            generation_kwargs={"min_new_tokens": size.tokens},
            beta=0.0,
            loss_type="grpo",
            temperature=1.0,
        )
        self.trainer = trl.GRPOTrainer(
            model=self.model,
            reward_funcs=share_of_vowels,
            args=args,
            train_dataset=datasets.Dataset.from_list(self.rows),
            processing_class=library,
        )
        self.update = update_of(self.trainer, self.model, lambda: self.rows)

    def __call__(self):
        """One iteration."""
        self.update()

    def parts(self):
        """Seconds of one more iteration: {"rollout", "reward", "update"}."""
        clock, trainer = Clock(), self.trainer
        trainer._generate = clock.timed("rollout", trainer._generate)
        trainer._calculate_rewards = clock.timed("reward", trainer._calculate_rewards)
        return clock.parts(self)


def preferences(n):
    """n pairs of answers: rows of {"prompt", "chosen", "rejected"}, texts."""
    pairs = question_answers("train", "quick")[: n + 1]
    return [
        {"prompt": f"{a.name}:", "chosen": " " + a.answer[:80], "rejected": " " + b.answer[:80]}
        for a, b in zip(pairs, pairs[1:], strict=False)
    ]


def preference(tokenizer, row):
    """A row of `preferences` as ids: prompt, chosen, rejected."""
    return [tokenizer.encode(row[name]) for name in ("prompt", "chosen", "rejected")]


class TheirDPOUpdate:
    """trl's side: `update()` is one `training_step` of its DPOTrainer and an update."""

    def __init__(self, model, tokenizer, pairs, seed=0):
        trl, datasets = trl_and_datasets()
        self.model, library, folder = library_of(model, tokenizer)
        settings = settings_of(folder, model, pairs, seed)
        rows = preferences(pairs)
        self.trainer = trl.DPOTrainer(
            model=self.model,
            ref_model=library_of(model, tokenizer)[0],
            args=trl.DPOConfig(**settings, beta=0.1, max_length=None),
            train_dataset=datasets.Dataset.from_list(rows),
            processing_class=library,
        )
        self.held = [self.trainer.train_dataset[i] for i in range(len(rows))]
        device = next(model.parameters()).device
        collated = self.trainer.data_collator(self.held)
        self.collated = {name: t.to(device) for name, t in collated.items()}
        self.update = update_of(self.trainer, self.model, lambda: dict(self.collated))

    def __call__(self):
        """One update."""
        self.update()

    def loss(self):
        """The loss of the pairs, with gradients."""
        return self.trainer.compute_loss(self.model, dict(self.collated))

    def pairs(self):
        """The same pairs as our side takes them: a `preference_batch`."""
        columns = (
            [row[name] for row in self.held]
            for name in ("prompt_ids", "chosen_ids", "rejected_ids")
        )
        device = next(self.model.parameters()).device
        return tuple(t.to(device) for t in preference_batch(*columns))


def trl_and_datasets():
    try:
        import datasets
        import trl
    except ImportError as error:
        raise ValueError("this race needs trl: pip install llmbook[oracles]") from error
    return trl, datasets


def library_of(model, tokenizer):
    """The same model and tokenizer in transformers, and the folder they were read from."""
    import transformers

    folder = Path(tempfile.mkdtemp())
    model.save(folder)
    tokenizer.save(folder)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    library = transformers.AutoTokenizer.from_pretrained(folder)
    library.eos_token = library.pad_token = "<|endoftext|>"
    return theirs.to(next(model.parameters()).device), library, folder


def settings_of(folder, model, rows, seed):
    return {
        "output_dir": str(folder / "out"),
        "per_device_train_batch_size": rows,
        "gradient_accumulation_steps": 1,
        "use_cpu": next(model.parameters()).device.type == "cpu",
        "bf16": False,
        "gradient_checkpointing": False,
        "learning_rate": 1e-5,
        "weight_decay": 0.1,
        "logging_strategy": "no",
        "save_strategy": "no",
        "report_to": [],
        "seed": seed,
    }


def update_of(trainer, model, batch):
    """One update of a trainer as a function: its step, clipping, its optimiser's step."""
    trainer.create_optimizer_and_scheduler(10**6)
    trainer.current_gradient_accumulation_steps = 1  # its own loop would set it
    model.train()

    def update():
        trainer.training_step(model, batch(), None)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        trainer.optimizer.step()
        trainer.optimizer.zero_grad()

    return update
