"""Scaling laws: the closed forms against search, fits against known laws and another optimiser."""

import math

import pytest
import torch

from llmbook.scaling import PUBLISHED, TABLE_OPTIMA, Law, bootstrap, constants, fit, line, valley

TRUE = Law(1.5, 300.0, 800.0, 0.36, 0.31)


def runs(law=TRUE, noise=0.0, seed=0):
    n, d = torch.meshgrid(torch.logspace(4, 8, 6), torch.logspace(6, 10, 6), indexing="ij")
    n, d = n.flatten().double(), d.flatten().double()
    generator = torch.Generator().manual_seed(seed)
    factor = (noise * torch.randn(len(n), generator=generator, dtype=torch.float64)).exp()
    return n, d, law.loss(n, d) * factor


@pytest.mark.parametrize("law", PUBLISHED.values(), ids=PUBLISHED)
def test_the_optimum_is_the_one_that_a_search_finds(law):
    flops = 5.76e23
    n, d = law.optimum(flops)
    assert 6 * n * d == pytest.approx(flops)
    tried = torch.logspace(8, 13, 200_001, dtype=torch.float64)
    found = tried[law.loss(tried, flops / (6 * tried)).argmin()].item()
    assert n == pytest.approx(found, rel=1e-3)


def test_published_constants_advise_what_was_published():
    """At Gopher's budget 32, 40 and 72 billion; at GPT-3's 87, 56, 19 tokens a parameter."""
    sizes = [round(law.optimum(5.76e23)[0] / 1e9) for law in PUBLISHED.values()]
    assert sizes == [32, 40, 72]
    ratios = [d / n for n, d in (law.optimum(3.15e23) for law in PUBLISHED.values())]
    assert ratios == pytest.approx([87.4, 56.0, 18.7], abs=0.1)
    assert [sum(law.exponents) for law in PUBLISHED.values()] == pytest.approx([1, 1, 1])


def test_the_exponents_are_how_the_optimum_grows():
    (n1, d1), (n2, d2) = TRUE.optimum(1e20), TRUE.optimum(1e22)
    a, b = TRUE.exponents
    assert math.log(n2 / n1, 100) == pytest.approx(a) and math.log(d2 / d1, 100) == pytest.approx(
        b
    )


def test_a_fit_finds_the_law_that_made_the_losses():
    assert list(constants(fit(*runs())).values()) == pytest.approx(
        list(constants(TRUE).values()), rel=2e-3
    )


def test_a_fit_is_as_good_as_another_optimisers_and_some_outliers_do_not_move_it():
    n, d, loss = runs(noise=0.002)
    spoiled = loss.clone()
    spoiled[::7] *= 1.3
    law, robust = fit(n, d, loss), fit(n, d, spoiled)
    assert law.exponents[0] == pytest.approx(TRUE.exponents[0], abs=0.02)
    assert robust.E == pytest.approx(law.E, abs=0.03)

    theta = torch.tensor([0.4, 5.7, 6.7, 0.36, 0.31], dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [theta], max_iter=500, tolerance_change=1e-15, line_search_fn="strong_wolfe"
    )

    def huber(e, a, b, alpha, beta):
        logs = torch.stack([e.expand(len(n)), a - alpha * n.log(), b - beta * d.log()])
        each = torch.nn.functional.huber_loss(
            logs.logsumexp(0), loss.log(), reduction="sum", delta=1e-3
        )
        return each

    def closure():
        optimiser.zero_grad()
        value = 1e6 * huber(*theta)
        value.backward()
        return value

    optimiser.step(closure)
    ours = torch.tensor([law.E, law.A, law.B], dtype=torch.float64).log()
    ours = torch.cat([ours, torch.tensor([law.alpha, law.beta], dtype=torch.float64)])
    with torch.no_grad():
        assert huber(*ours) <= huber(*theta) * 1.001


def test_without_an_irreducible_term_the_fit_is_worse_and_its_exponents_smaller():
    n, d, loss = runs()
    without = fit(n, d, loss, irreducible=False)
    assert without.E == 0 and without.alpha < TRUE.alpha and without.beta < TRUE.beta
    assert (without.loss(n, d) / loss - 1).abs().max() > 0.01


def test_weights_count_runs_and_rows_of_weights_are_fits():
    n, d, loss = runs(noise=0.01)
    twice = torch.ones(len(n))
    twice[:9] = 2
    repeated = [torch.cat([x, x[:9]]) for x in (n, d, loss)]
    one, two = fit(n, d, loss, weights=torch.stack([torch.ones(len(n)), twice]))
    assert constants(one) == pytest.approx(constants(fit(n, d, loss)), rel=1e-2)
    assert constants(two) == pytest.approx(constants(fit(*repeated)), rel=1e-2)


def test_the_bootstraps_band_covers_the_truth_and_narrows_with_less_noise():
    width = []
    for noise in (0.02, 0.002):
        a = sorted(law.exponents[0] for law in bootstrap(*runs(noise=noise), fits=60))
        assert a[0] <= TRUE.exponents[0] <= a[-1]
        width.append(a[-3] - a[2])
    assert width[1] < width[0] / 3


def test_serving_makes_the_cheapest_model_smaller_and_trained_longer():
    n, d = TRUE.optimum(1e21)
    loss = TRUE.loss(n, d)
    same_n, same_d, flops = TRUE.cheapest(loss)
    assert (same_n, same_d, flops) == pytest.approx((n, d, 1e21), rel=2e-2)
    small_n, small_d, _ = TRUE.cheapest(loss, served=1e13)
    assert small_n < 0.8 * n and small_d > 1.2 * d
    assert TRUE.loss(small_n, small_d) == pytest.approx(loss)


def test_a_line_and_a_valley_are_found_exactly():
    x = [1.0, 10.0, 100.0, 1000.0]
    assert line(x, [3 * v**-0.25 for v in x]) == pytest.approx((-0.25, math.log(3), 1.0))
    sizes = [10.0, 30.0, 100.0, 300.0, 1000.0]
    losses = [2 + 0.1 * math.log(s / 77) ** 2 for s in sizes]
    assert valley(sizes, losses) == pytest.approx((77, 2, 0.1))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: Law(1, -2, 1, 0.3, 0.3), "A must be a number at least 0: got -2"),
        (lambda: fit([1, 2], [1, 2], [1, 2]), "at least 5: got 2, 2, 2"),
        (lambda: fit([1] * 6, [1] * 6, [0] * 6), "must be above 0"),
        (lambda: fit([1] * 6, [1] * 6, [1] * 6, starts=0), "starts must be"),
        (lambda: TRUE.cheapest(1.0), "loss must be above E = 1.5: got 1.0"),
        (lambda: valley([1, 2], [1, 2]), "at least 3 sizes: got 2"),
        (lambda: valley([1, 2, 4], [1, 2, 1]), "no lowest point"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message.replace("+", r"\+")):
        call()


@pytest.mark.data
def test_the_table_s_best_sizes_are_the_lowest_points_of_its_parabolas():
    from llmbook.data import isoflops

    by_budget = {}
    for row in isoflops():
        by_budget.setdefault(row["compute_budget"], []).append(row)
    for budget, best in TABLE_OPTIMA:
        rows = by_budget.pop(budget)
        lowest, *_ = valley(*([r[k] for r in rows] for k in ("parameters", "final_loss")))
        assert lowest == pytest.approx(best, rel=2e-3)
    assert not by_budget
