"""What demonstrations teach: wrong labels, a loss on other tokens, two manners of answering."""

import random
import statistics
from dataclasses import replace

from llmbook.alignment import chat, sft
from llmbook.data.verifiable import SEEN, mixture
from llmbook.evaluation import evaluate, questions
from llmbook.experiments.sft.recipe import ASKED, BATCH, fit
from llmbook.experiments.small_chat import start
from llmbook.seeds import number

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
    report = evaluate(model, tokenizer, questions(SEEN, ASKED))
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
    report = evaluate(model, tokenizer, asked)
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
    sampled = evaluate(model, tokenizer, asked, temperature=1.0, seed=seed)
    greedy = evaluate(model, tokenizer, asked)
    polite = [a.text.startswith(COURTESY) for a in sampled.answers]
    right = [a.example.check(a.text.removeprefix(COURTESY)) and a.ended for a in greedy.answers]
    return {
        "polite, sampled": statistics.fmean(polite),
        "polite, greedy": statistics.fmean(a.text.startswith(COURTESY) for a in greedy.answers),
        "right, greedy": statistics.fmean(right),
    }
