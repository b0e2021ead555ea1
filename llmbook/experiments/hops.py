"""Following a chain: sixteen symbols in a ring, and the question which one is k steps on.

    prompt   f(0) … f(15)   style   k   start        19 tokens; a place's number is a symbol, too
    answer   f(f(start)) … fᵏ(start)   end           every step written, or the last one alone

One step is one lookup: the token says at which place of the prompt the next one stands. The ring
is new in each prompt, so nothing can be known by heart. What counts as the answer is the last
symbol before the end.

Styles ask for a way of answering: "steps", "once", "tool" (a call, to which the environment
answers with the symbol four steps on) or "free". What a model saw of "free" is of mixed quality:
one half in steps, a quarter at once, a quarter walks that end anywhere.
"""

import torch
import torch.nn.functional as F

from llmbook import checks
from llmbook.experiments.fit import fit as train
from llmbook.losses import IGNORED
from llmbook.models.gpt import GPT, GPTConfig
from llmbook.seeds import generator

SYMBOLS, MOST, JUMP = 16, 8, 4  # symbols in a ring; the longest question; how far a call goes
END, DOT, CALL = SYMBOLS, SYMBOLS + 1, SYMBOLS + 2
STYLES = {"steps": 19, "once": 20, "free": 21, "tool": 22}
COUNT = 22  # the token of k is COUNT + k
VOCAB = COUNT + MOST + 1
PROMPT, LONGEST = SYMBOLS + 3, 12  # tokens of a prompt, and of an answer at most
NAMES = "ABCDEFGHIJKLMNOP"
ARMS = ("once", "dots", "written")
LESSONS, STEPS = 100, 500


# --- questions


def rings(n, gen, hops=tuple(range(1, MOST + 1))):
    """n questions: prompts without a style (n, 18) int64, k (n,), paths (n, 8).

    paths[:, j] is j + 1 steps on, further than asked for where j ≥ k.
    """
    order = torch.rand(n, SYMBOLS, generator=gen).argsort(-1)
    ring = torch.empty_like(order).scatter_(1, order, order.roll(-1, 1))
    here = torch.randint(SYMBOLS, (n, 1), generator=gen)
    k = torch.tensor(hops)[torch.randint(len(hops), (n,), generator=gen)]
    path = [here]
    for _ in range(MOST):
        path.append(ring.gather(1, path[-1]))
    return torch.cat([ring, COUNT + k[:, None], here], 1), k, torch.cat(path[1:], 1)


def prompts_of(questions, style):
    """Questions with a style, one name or ids (n,): (n, PROMPT)."""
    if isinstance(style, str):
        checks.one_of("style", style, STYLES)
        style = torch.full((len(questions),), STYLES[style])
    return torch.cat([questions[:, :SYMBOLS], style[:, None], questions[:, SYMBOLS:]], 1)


def solution(prompt):
    """The right answer to a prompt, a list of PROMPT ids, and all steps to it."""
    here, steps = prompt[-1], []
    for _ in range(prompt[-2] - COUNT):
        here = prompt[here]
        steps.append(here)
    return here, steps


def answer_of(tokens):
    """The answer in a list of written ids: its last symbol, or None without one."""
    symbols = [i for i in tokens if i < SYMBOLS]
    return symbols[-1] if symbols else None


def told(tokens):
    """Ids of an answer as letters."""
    return " ".join(NAMES[i] if i < SYMBOLS else {DOT: "·", CALL: "→"}.get(i, "?") for i in tokens)


# --- demonstrations


def ended(written, count):
    """The first `count` of written (n, MOST), then END, then IGNORED: (n, MOST + 1)."""
    place = torch.arange(MOST + 1)
    room = torch.where(place == count[:, None], END, F.pad(written, (0, 1)))
    return torch.where(place > count[:, None], IGNORED, room)


def at_once(k, path):
    """The last step alone."""
    return ended(path.gather(1, k[:, None] - 1).expand_as(path), torch.ones_like(k))


def in_dots(k, path):
    """As many tokens as there are steps, all dots but the last."""
    last = torch.arange(MOST) == k[:, None] - 1
    return ended(torch.where(last, path, DOT), k)


def with_calls(k, path):
    """Calls as far as they go, then steps: (written, which of it the environment wrote)."""
    calls, rest = k // JUMP, k % JUMP
    place = torch.arange(MOST)
    inside = place < 2 * calls[:, None]
    steps = torch.where(
        inside, JUMP * (place // 2 + 1), JUMP * calls[:, None] + place - 2 * calls[:, None] + 1
    )
    written = path.gather(1, steps.clamp(1, MOST) - 1)
    written = torch.where(inside & (place % 2 == 0), CALL, written)
    return ended(written, 2 * calls + rest), F.pad(inside & (place % 2 == 1), (0, 1))


def demonstrations(n, gen, how, hops=tuple(range(1, MOST + 1))):
    """Texts and targets to learn from: (n, PROMPT + MOST) int64 each.

    how: an arm, or "mixed": all styles, half of them free. What the environment writes after a
    call is read and never a target.
    """
    questions, k, path = rings(n, gen, hops)
    theirs = torch.zeros(n, MOST + 1, dtype=torch.bool)
    if how == "mixed":
        kind, way = torch.rand(2, n, 1, generator=gen)
        anywhere = torch.randint(1, MOST + 1, (n,), generator=gen)
        style = torch.full((n, 1), STYLES["free"])
        style[kind < 0.5], style[kind < 0.25] = STYLES["tool"], STYLES["steps"]
        style[kind < 0.08] = STYLES["once"]
        free, tool = style == STYLES["free"], (style == STYLES["tool"]) & (way < 0.5)
        brief = (style == STYLES["once"]) | free & (way < 0.25)
        called, answers = with_calls(k, path)
        theirs = tool & answers
        written = torch.where(brief, at_once(k, path), ended(path, k))
        written = torch.where(free & (way > 0.75), ended(path, anywhere), written)
        written, style = torch.where(tool, called, written), style[:, 0]
    else:
        checks.one_of("how", how, ARMS)
        style = "free"
        written = {"once": at_once, "dots": in_dots, "written": lambda k, path: ended(path, k)}[
            how
        ](k, path)
    text = torch.cat([prompts_of(questions, style), written.clamp(min=0)], 1)
    before = torch.full((n, PROMPT - 1), IGNORED)
    return text[:, :-1], torch.cat([before, written.masked_fill(theirs, IGNORED)], 1)


def lookups(n, gen):
    """Single steps from symbols at random: what every model learns first."""
    questions, _, _ = rings(n, gen)
    asked = torch.randint(SYMBOLS, (n, MOST), generator=gen)
    text = torch.cat([prompts_of(questions, "free"), asked], 1)
    found = questions[:, :SYMBOLS].gather(1, text[:, PROMPT - 1 :])
    return text, torch.cat([torch.full((n, PROMPT - 1), IGNORED), found], 1)


# --- models


def fresh(seed, n_layers=2, d_model=64):
    """A small GPT in which a place and the symbol of its number begin as one vector.

    Queries and keys begin equal, too. Without such a beginning it has to find sixteen pairs one by
    one, and takes minutes where it now takes seconds.
    """
    torch.manual_seed(seed)
    model = GPT(GPTConfig(VOCAB, PROMPT + LONGEST, d_model, n_layers, 4, eos_id=END))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() > 1:
                weight *= 10 if "tokens" in name or "positions" in name else 5
        model.positions.weight[:SYMBOLS] = model.tokens.weight[:SYMBOLS]
        for block in model.blocks:
            packed = block.attention.in_proj_weight
            packed[d_model : 2 * d_model] = packed[:d_model]
    return model


def fit(how, seed, steps=STEPS, n_layers=2, batch=32, lr=3e-3):
    """Lookups, then demonstrations of 1 step, of 2, … of 8: the model, and CPU-seconds."""
    model, gen, lessons = fresh(seed, n_layers), generator(seed, "hops"), min(LESSONS, steps // 5)

    def loss_at(step):
        longest = min(MOST, 1 + int(2 * MOST * (step - lessons) / (steps - lessons)))
        if step < lessons:
            text, targets = lookups(batch, gen)
        else:
            text, targets = demonstrations(batch, gen, how, tuple(range(1, longest + 1)))
        logits = model(text)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED)

    seconds = train(model, loss_at, steps, lr)
    return model.eval(), seconds
