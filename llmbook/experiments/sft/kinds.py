"""Kinds never seen: the base model with worked examples, and tuned on 1 to 16 other kinds."""

import random
import statistics

import torch

from llmbook.alignment import sft
from llmbook.data.verifiable import SEEN, UNSEEN, examples, mixture
from llmbook.decoding import generate
from llmbook.evaluation import evaluate, questions
from llmbook.experiments.sft.recipe import ASKED, BATCH, fit
from llmbook.experiments.small_chat import start
from llmbook.models import load
from llmbook.models.pretrained import SHIPPED
from llmbook.seeds import number
from llmbook.tokenization import BPETokenizer

SIZES = (1, 2, 4, 8, 16)


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
    seen = evaluate(model, tokenizer, questions(kinds, ASKED))
    unseen = evaluate(model, tokenizer, questions(UNSEEN, ASKED))
    return {
        "kinds": kinds,
        "loss": loss,
        "seen": seen.exact(),
        "unseen": unseen.exact(),
        "errors of form, unseen": unseen.errors_of_form(),
        "unseen by kind": unseen.by_kind(),
    }
