"""Checks of the exercises on scaling laws: constants unlike the chapter's, unreachable losses."""

import math

import torch

from llmbook.book.check import NotYet, agree, call, exercise, number
from llmbook.experiments import scaling as lab
from llmbook.scaling import PUBLISHED, Law, fit, line

OTHER = (Law(1.3, 300.0, 900.0, 0.31, 0.37), Law(2.0, 50.0, 4000.0, 0.42, 0.29))


def _constants(law):
    return law.E, law.A, law.B, law.alpha, law.beta


@exercise(
    "scaling/tokens_per_parameter", title="Tokens for each parameter", difficulty=1, minutes=10
)
def tokens_per_parameter(answer):
    for law in OTHER:
        for flops in (1e19, 1e24):
            n, d = law.optimum(flops)
            agree(
                call(answer, flops, *_constants(law)),
                d / n,
                "The best size times its tokens, times six, is the budget; the ratio is tokens "
                "over parameters. Which of the two do you divide by which, and where is the six?",
                tolerance=1e-4,
            )
    return "Right. Only where α = β does the ratio stay the same at every budget."


@exercise("scaling/excess_slope", title="An exponent, given E", difficulty=2, minutes=15)
def excess_slope(answer):
    generator = torch.Generator().manual_seed(0)
    for e, power in ((1.7, 0.33), (0.4, 0.21)):
        n = torch.logspace(4, 8, 7, dtype=torch.float64)
        noise = 0.02 * torch.randn(7, generator=generator, dtype=torch.float64)
        losses = e + 60 * n**-power * noise.exp()
        agree(
            call(answer, n.tolist(), losses.tolist(), e),
            line(n, losses - e)[0],
            "Subtract E first, then take the logarithm of what is left and of the size; the slope "
            "of a line is Σ(x − x̄)(y − ȳ) / Σ(x − x̄)².",
            tolerance=1e-4,
        )
    return "Right: a negative number, minus the exponent."


@exercise("scaling/tokens_needed", title="How much text is enough?", difficulty=2, minutes=15)
def tokens_needed(answer):
    for law in OTHER:
        for n in (1e8, 1e10):
            best = law.E + law.A / n**law.alpha
            agree(
                call(answer, best + 0.1, n, *_constants(law)),
                (law.B / 0.1) ** (1 / law.beta),
                "Solve L = E + A/N^α + B/D^β for D: first take away what does not depend on D.",
                tolerance=1e-4,
            )
            got = number(call(answer, best - 0.01, n, *_constants(law)))
            if got != math.inf:
                raise NotYet(
                    "A model of this size never gets there, however long it reads: say so with "
                    f"math.inf. Now it is {got:.3g}."
                )
    return "Right. Beyond a certain loss only size helps."


@exercise(
    "scaling/hundredfold",
    title="A hundred times the compute",
    difficulty=1,
    minutes=5,
    kind="predict",
)
def hundredfold(answer):
    want = 100 ** PUBLISHED["Besiroglu et al. 2024"].exponents[0]
    if abs(number(answer) / want - 1) > 0.15:
        raise NotYet(
            "N* grows as a power of C; the exponent β/(α + β) of the refit is printed in the "
            "first box. A hundred to that power is …?"
        )
    return f"Right: {want:.1f} times the parameters, and about as many times the text."


@exercise("scaling/served", title="The model that serves", difficulty=2, minutes=10, kind="figure")
def served(answer):
    law = PUBLISHED["Besiroglu et al. 2024"]
    n, d, _ = law.cheapest(law.loss(*law.optimum(1e24)), 1e14)
    if abs(number(answer) / (d / n) - 1) > 0.08:
        raise NotYet(
            "Set the planner to the refit's constants, 10²⁴ FLOPs, 10¹⁴ tokens to serve. The "
            "second sentence below it tells the tokens a parameter of the cheapest model."
        )
    return "Right. Served that much, it reads many times the twenty tokens of the valley."


@exercise(
    "scaling/without_small",
    title="Leave out the smallest",
    difficulty=2,
    minutes=15,
    kind="experiment",
)
def without_small(answer):
    runs = lab.recorded()["sweep"]
    smallest = sorted({run["width"] for run in runs})[:2]
    kept = [run for run in runs if run["width"] not in smallest]
    sizes = [run["blocks"] + run["embeddings"] for run in kept]
    law = fit(sizes, [r["tokens"] for r in kept], [r["loss"] for r in kept])
    if abs(number(answer) - law.exponents[0]) > 0.006:
        raise NotYet(
            "Keep the runs whose width is above the two smallest, fit E, A, B, α, β to them with "
            "all parameters counted, and give β/(α + β), the exponent of N."
        )
    return "Right. Compare it with the band of the bootstrap: the two smallest sizes weigh much."
