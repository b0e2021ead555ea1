"""What supervised fine-tuning gives, and what it does not: short runs from the small base model.

    few-shot    what the base model does with worked examples in its prompt, in four layouts
    kinds       1, 2, 4, 8 or 16 kinds seen, the same steps: exact answers to kinds never seen
    lora        rank by rank beside all weights: loss reached, weights changed, forgetting
    mixing      how much old text among the conversations: forgetting, and what it costs
    labels      a small clean set, a large one with wrong answers, a large clean one
    masks       what is left out of the loss, or the end token left out: what is lost
    manner      two ways of answering in some proportion: in which one does the model answer?

A run is a function of its key, so that a killed recording goes on with the next key.
"""

import random
import statistics
from dataclasses import replace

import torch

from llmbook.alignment import chat, sft
from llmbook.alignment.lora import LoRA, LoRAConfig
from llmbook.data.corpus import documentation
from llmbook.data.packing import Windows, pack
from llmbook.data.verifiable import SEEN, UNSEEN, examples, mixture
from llmbook.decoding import generate
from llmbook.evaluation import base_nats, base_text, examine, questions
from llmbook.experiments.record import RECORDED, recorded
from llmbook.experiments.small_chat import start
from llmbook.models import load
from llmbook.models.pretrained import SHIPPED
from llmbook.seeds import number
from llmbook.tokenization import BPETokenizer
from llmbook.training import TrainConfig, train
from llmbook.training.log import Log

SEEDS = (1, 2, 3, 4, 5)
SIZES = (1, 2, 4, 8, 16)
RANKS = (1, 2, 4, 8, 16, 32)
SHARES = (0.0, 0.1, 0.25, 0.5)
BATCH, ROW = 32, 128
ASKED = 32  # held-out questions a kind
OUT, GOES_ON = RECORDED / "sft_runs.json", True


def config_of(steps, seed, optimizer="muon", lr=3e-3):
    """Short: a fast rise of the rate, and a straight fall to 0."""
    return TrainConfig(
        steps=steps,
        batch_size=BATCH,
        optimizer=optimizer,
        lr=lr,
        weight_decay=0.05,
        schedule="linear",
        warmup=20,
        final_lr=0.0,
        log_every=10,
        evaluate_every=0,
        checkpoint_every=0,
        seed=seed,
    )


def fit(model, encoded, steps, seed, *, text=None, share=0.0, **config):
    """Train on conversations; the mean loss of the last tenth of the steps.

    text: a stream of old text, of which each step has rows beside its conversations, so that
    `share` of all rows are old text; every token of it counts.
    """
    batches = sft.Conversations(encoded, BATCH, length=ROW, seed=seed)
    if share:
        windows = Windows(text, ROW, seed)
        plain, batches = batches, lambda step: _with_text(plain(step), windows, step, share)
    history = train(
        model,
        batches,
        config_of(steps, seed, **config),
        loss=sft.sft_loss,
        log=Log(None, progress=False),
    )
    model.eval()
    last = history.losses[-max(1, len(history.losses) // 10) :]
    return statistics.fmean(last)


def _with_text(batch, windows, step, share):
    ids, targets, documents = batch
    n = max(1, round(len(ids) * share / (1 - share)))
    more, after = windows.batch(step, n)
    return (
        torch.cat([ids, more]),
        torch.cat([targets, after]),
        torch.cat([documents, torch.ones_like(more)]),
    )


# --- the base model, shown worked examples

LAYOUTS = {  # a worked example, and how the question stands
    "Q and A": ("Q: {p}\nA: {a}\n\n", "Q: {p}\nA:"),
    "arrow": ("{p} -> {a}\n", "{p} ->"),
    "doctest": (">>> {p}\n{a}\n", ">>> {p}\n"),
    "input = answer": ("{i} = {a}\n", "{i} ="),
}
SHOTS = (0, 2, 4)


@torch.no_grad()
def few_shot(layout, shots, kinds=UNSEEN, n=16):
    """Exact answers of the base model with worked examples of the same kind before the question.

    Its answer is what it writes up to the end of the line. {"mean", "by kind"}.
    """
    model, tokenizer = load("small"), BPETokenizer.load(SHIPPED / "small")
    shown, asked_as = LAYOUTS[layout]
    found = {}
    for kind in kinds:
        worked, right = examples(kind, n * max(1, shots), seed=9), 0
        for i, asked in enumerate(examples(kind, n, side="held-out")):
            before = worked[i * shots : (i + 1) * shots]
            text = "".join(shown.format(p=e.prompt, i=e.input, a=e.answer) for e in before)
            ids = tokenizer.encode(text + asked_as.format(p=asked.prompt, i=asked.input), ())
            ids = torch.tensor([ids[-235:]])
            new = generate(model, ids, max_new_tokens=20)[0, ids.shape[1] :]
            line = tokenizer.decode(new).lstrip(" ").split("\n")[0]
            right += asked.check(line)
        found[kind] = right / n
    return {"mean": statistics.fmean(found.values()), "by kind": found}


# --- kinds seen and kinds never seen


def kinds_of(size, seed):
    """Which kinds a run of `size` kinds sees: the first ones of the seed's own order."""
    order = list(SEEN)
    random.Random(number(seed, "kinds")).shuffle(order)
    return order[:size]


def kinds_run(size, seed, steps=150):
    """Train on `size` kinds: exact answers and errors of form, seen and unseen."""
    kinds = kinds_of(size, seed)
    model, tokenizer = start(seed)
    encoded = sft.encode_examples(tokenizer, mixture(kinds, steps * BATCH, seed=seed))
    loss = fit(model, encoded, steps, seed)
    seen = examine(model, tokenizer, questions(kinds, ASKED))
    unseen = examine(model, tokenizer, questions(UNSEEN, ASKED))
    return {
        "kinds": kinds,
        "loss": loss,
        "seen": seen.exact(),
        "unseen": unseen.exact(),
        "errors of form, unseen": unseen.errors_of_form(),
        "unseen by kind": unseen.by_kind(),
    }


# --- few weights, old text, wrong labels


def lora_run(rank, seed, steps=150):
    """An adapter of a rank on all matrices of the blocks; 0: all weights. AdamW for both."""
    model, tokenizer = start(seed)
    encoded = sft.encode_examples(tokenizer, mixture(SEEN, steps * BATCH, seed=seed))
    # The new tokens' rows must be learned by both: without, no adapter could know the template.
    tuned, trained = model, sum(p.numel() for p in model.parameters())
    if rank:
        tuned = LoRA(model, LoRAConfig(rank=rank, alpha=2.0 * rank, seed=seed))
        model.tokens.weight.requires_grad_(True)
        trained = tuned.n_trained
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    rate = 3e-3 if not rank else 1e-2
    loss = fit(tuned, encoded, steps, seed, optimizer="adamw", lr=rate)
    model = tuned.merged() if rank else tuned
    held = dict(model.named_parameters())
    blocks = [name for name in before if name.startswith("blocks")]
    with torch.no_grad():
        moved = sum((held[name] - before[name]).square().sum().item() for name in blocks)
        size = sum(before[name].square().sum().item() for name in blocks)
    return {
        "trained weights": trained,
        "loss": loss,
        "seen": examine(model, tokenizer, questions(SEEN, ASKED)).exact(),
        "blocks moved by": (moved / size) ** 0.5,
        "nats of old text": base_nats(model, base_text(tokenizer, 8000)),
    }


def untuned():
    """The base model on the same old text."""
    model, tokenizer = start(0)
    return {"seen": 0.0, "nats of old text": base_nats(model, base_text(tokenizer, 8000))}


def mixing_run(share, seed, steps=150):
    """A share of old text among the rows: exact answers, and nats a token of old text."""
    model, tokenizer = start(seed)
    encoded = sft.encode_examples(tokenizer, mixture(SEEN, steps * BATCH, seed=seed))
    end = tokenizer.special_tokens["<|endoftext|>"]
    old = documentation("train", "smoke")
    text = pack((tokenizer.encode(document.text, ()) for document in old), end)
    fit(model, encoded, steps, seed, text=text, share=share)
    return {
        "seen": examine(model, tokenizer, questions(SEEN, ASKED)).exact(),
        "nats of old text": base_nats(model, base_text(tokenizer, 8000)),
    }


LABELS = {  # conversations, share of wrong answers
    "small and clean": (400, 0.0),
    "large, half of it wrong": (4000, 0.5),
    "large and clean": (4000, 0.0),
}


def labels_run(which, seed, steps=80):
    """Answers of another question of the same kind, in some share of the training set."""
    size, wrong = LABELS[which]
    model, tokenizer = start(seed)
    shown = mixture(SEEN, size, seed=seed)
    draw = random.Random(number(seed, "labels"))
    spare = {kind: [e.answer for e in shown if e.kind == kind] for kind in SEEN}
    shown = [
        replace(e, answer=draw.choice(spare[e.kind])) if draw.random() < wrong else e
        for e in shown
    ]
    loss = fit(model, sft.encode_examples(tokenizer, shown), steps, seed)
    report = examine(model, tokenizer, questions(SEEN, ASKED))
    return {"seen": report.exact(), "errors of form": report.errors_of_form(), "loss": loss}


# --- what the loss counts

MASKS = ("answers", "everything", "no end")


def masks_run(which, seed, steps=150):
    """The loss on answers; on prompts as well; on answers without their end token."""
    model, tokenizer = start(seed)
    encoded = sft.encode_examples(tokenizer, mixture(SEEN, steps * BATCH, seed=seed))
    end = tokenizer.special_tokens[chat.END]
    if which == "everything":
        encoded = [replace(e, counts=[True] * len(e.ids)) for e in encoded]
    if which == "no end":
        encoded = [
            replace(e, counts=[c and i != end for i, c in zip(e.ids, e.counts)]) for e in encoded
        ]
    fit(model, encoded, steps, seed)
    asked = questions(SEEN, ASKED)
    report = examine(model, tokenizer, asked)
    begins = statistics.fmean(a.text.strip().startswith(a.example.answer) for a in report.answers)
    return {
        "seen": report.exact(),
        "ended": statistics.fmean(a.ended for a in report.answers),
        "begins with the answer": begins,
    }


# --- manner

MANNERS = (0.1, 0.5, 0.9)
COURTESY = "Gladly: "


def manner_run(share, seed, steps=70):
    """Some share of the demonstrations answer politely: what share of the replies do?"""
    model, tokenizer = start(seed)
    draw = random.Random(number(seed, "manner"))
    kinds = ("repeat", "first-word", "last-word", "swap")
    shown = [
        replace(e, answer=COURTESY + e.answer) if draw.random() < share else e
        for e in mixture(kinds, steps * BATCH, seed=seed)
    ]
    fit(model, sft.encode_examples(tokenizer, shown), steps, seed)
    asked = questions(kinds, 64)
    sampled = examine(model, tokenizer, asked, temperature=1.0, seed=seed)
    greedy = examine(model, tokenizer, asked)
    polite = [a.text.startswith(COURTESY) for a in sampled.answers]
    right = [a.example.check(a.text.removeprefix(COURTESY)) and a.ended for a in greedy.answers]
    return {
        "polite, sampled": statistics.fmean(polite),
        "polite, greedy": statistics.fmean(a.text.startswith(COURTESY) for a in greedy.answers),
        "right, greedy": statistics.fmean(right),
    }


# --- the record


def points():
    """Every run of the record: (part, key, function and arguments)."""
    for layout in LAYOUTS:
        for shots in SHOTS:
            yield "few-shot", f"{layout}/{shots}", (few_shot, layout, shots)
    for seed in SEEDS:
        for size in SIZES:
            yield "kinds", f"{size}/{seed}", (kinds_run, size, seed)
    for seed in SEEDS:
        for share in MANNERS:
            yield "manner", f"{share}/{seed}", (manner_run, share, seed)
        for which in LABELS:
            yield "labels", f"{which}/{seed}", (labels_run, which, seed)
    for which in MASKS[1:]:
        yield "masks", f"{which}/1", (masks_run, which, 1)
    for rank in (0, *RANKS):
        yield "lora", f"{rank}/1", (lora_run, rank, 1)
    yield "mixing", "base/1", (untuned,)
    for share in SHARES:
        yield "mixing", f"{share}/1", (mixing_run, share, 1)


def recorded_runs():
    """What is recorded: {part: {key: found}}; empty where nothing is."""
    return recorded(OUT)


def run(options, record):
    """Make every run that the record lacks, writing it after each."""
    record.make_missing(points())
