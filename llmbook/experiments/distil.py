"""A small model from a large one: students of the shipped `small`, and the draft that guesses.

    text        cross-entropy of the text
    teacher     KL(teacher ‖ student) on the text: Hinton et al. 2015
    own         KL(student ‖ teacher) on what the student writes itself: Agarwal et al. 2024

`python -m llmbook record inference` records these runs with its own; the draft ships as `draft`.
Shapes: texts are (ROWS, WINDOW) ids, distributions (ROWS, WINDOW, vocab_size).
"""

import copy

import torch
import torch.nn.functional as F

from llmbook.decoding import generate
from llmbook.experiments.fit import fit
from llmbook.models import load
from llmbook.models.gpt import GPT, GPTConfig
from llmbook.models.pretrained import SHIPPED
from llmbook.seeds import generator

WINDOW, ROWS = 96, 8  # tokens of a training text, and how many a step
STUDENT = GPTConfig(vocab_size=384, max_len=256, d_model=64, n_layers=2, n_heads=4, eos_id=0)
FIRST, SECOND, DRAFT = 1200, 300, 1500  # steps: of every student, from there on, of the draft
PROMPT = 24  # tokens of the text that a student continues itself
RATE, LATER = 4e-3, 1e-3


def student(seed):
    """A GPT of 139,000 weights, a ninth of its teacher's."""
    torch.manual_seed(seed)
    return GPT(STUDENT)


def windows(ids, gen, tokens=WINDOW):
    """ROWS random windows of a stream: inputs and the token after each, (ROWS, tokens)."""
    starts = torch.randint(len(ids) - tokens, (ROWS, 1), generator=gen)
    rows = ids[starts + torch.arange(tokens + 1)].long()
    return rows[:, :-1], rows[:, 1:]


def forward_kl(logits, teacher):
    """Σ p_T log(p_T / p_S), in nats a token: covers whatever the teacher thinks possible."""
    log_p, log_q = teacher.log_softmax(-1), logits.log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1).mean()


def reverse_kl(logits, teacher):
    """Σ p_S log(p_S / p_T): avoids whatever the teacher thinks impossible."""
    return forward_kl(teacher, logits)


def train_student(model, kind, text, teacher, gen, steps, rate):
    """Train a student from "text", from the "teacher" on text, or on its "own" continuations."""

    def loss_at(_):
        x, y = windows(text.train, gen)
        if kind == "text":
            return F.cross_entropy(model(x).flatten(0, 1), y.flatten())
        if kind == "own":
            x = generate(
                model,
                x[:, :PROMPT],
                max_new_tokens=WINDOW - PROMPT,
                temperature=1.0,
                seed=gen,
                eos_id=(),
            )
        with torch.no_grad():
            wanted = teacher(x)
        if kind == "own":
            return reverse_kl(model(x)[:, PROMPT - 1 :], wanted[:, PROMPT - 1 :])
        return forward_kl(model(x), wanted)

    return fit(model.train(), loss_at, steps, rate)


@torch.no_grad()
def measure(model, text, teacher, rows=64):
    """Held-out loss, how near the teacher's distribution, and what the teacher thinks of samples.

    In nats a token: loss; KL(teacher ‖ student) on held-out text; the teacher's surprise at 72
    tokens that the student wrote at temperature 1, and the student's own at these.
    """
    model.eval()
    gen = generator(0, "held out")
    x, y = (
        torch.cat(part)
        for part in zip(*(windows(text.validation, gen) for _ in range(rows // ROWS)), strict=True)
    )
    logits, wanted = model(x), teacher(x)
    own = generate(
        model, x[:, :PROMPT], max_new_tokens=WINDOW - PROMPT, temperature=1.0, eos_id=()
    )
    surprise = [
        F.cross_entropy(
            one(own)[:, PROMPT - 1 : -1].flatten(0, 1), own[:, PROMPT:].flatten()
        ).item()
        for one in (teacher, model)
    ]
    return {
        "loss": F.cross_entropy(logits.flatten(0, 1), y.flatten()).item(),
        "from teacher": forward_kl(logits, wanted).item(),
        "teacher's surprise": surprise[0],
        "own surprise": surprise[1],
    }


def distil_run(seed, text, teacher, first=FIRST, second=SECOND):
    """Four students of one beginning: text; teacher; teacher, then more of it; then on its own."""
    result = {"the teacher itself": measure(teacher, text, teacher)}
    for kind in ("text", "teacher"):
        model = student(seed)
        seconds = train_student(model, kind, text, teacher, generator(seed, "text"), first, RATE)
        result[kind] = {**measure(model, text, teacher), "seconds": round(seconds, 1)}
    for kind in ("teacher", "own"):
        later, gen = copy.deepcopy(model), generator(seed, "later")
        seconds = train_student(later, kind, text, teacher, gen, second, LATER)
        name = f"teacher, then {'more of it' if kind == 'teacher' else 'on its own texts'}"
        result[name] = {**measure(later, text, teacher), "seconds": round(seconds, 1)}
    return result


def draft_run(text, teacher, steps=DRAFT, folder=SHIPPED / "draft"):
    """The student that guesses for its teacher: trained longer, kept in float16."""
    model = student(0)
    gen = generator(0, "draft")
    seconds = train_student(model, "teacher", text, teacher, gen, steps, RATE)
    model.save(folder, dtype="float16")
    return {**measure(load(folder), text, teacher), "steps": steps, "seconds": round(seconds, 1)}


def card(found, text, record):
    """What is told of the shipped draft."""
    return {
        "model": f"GPT, {student(0).n_parameters:,} parameters",
        "objective": "the next-token distribution of `small`, whose tokenizer it shares",
        "tokens": found["steps"] * ROWS * WINDOW,
        "data": text.about,
        **record.about(),
        **found,
        "licence": "Apache-2.0; trained on documentation under the licences of Python's",
    }
