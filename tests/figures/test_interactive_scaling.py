"""The budget planner and the timeline: numbers in Python and as the browser draws them."""

import math

import pytest
from helpers.browser import browser, open_widget, widget_state  # noqa: F401 - fixtures

from llmbook.figures.budget import BudgetPlanner
from llmbook.figures.timeline import SYSTEMS, Timeline
from llmbook.scaling import PUBLISHED, Law

in_browser = pytest.mark.browser
PAPERS = {system[-1]: ["A Paper <b>", "https://example.org/a"] for system in SYSTEMS}
RUNS = [(10.0**e, {"smooth": 0.1 * e / 10, "sharp": 2.0 ** (e - 20)}) for e in range(10, 21)]


# --- in Python


def test_the_planner_reads_what_the_law_says():
    planner = BudgetPlanner(flops=math.log10(5.76e23), law=2)
    reading = planner.reading()
    n, d = PUBLISHED["Besiroglu et al. 2024"].optimum(5.76e23)
    assert (reading["n"], reading["d"]) == pytest.approx((n, d))
    assert reading["small_n"] == pytest.approx(n, rel=0.03)
    planner.served = 13.0
    served = planner.reading()
    assert served["small_n"] < 0.8 * n and served["small_d"] > d
    assert served["loss"] == reading["loss"]


def test_a_law_of_ones_own_is_offered_beside_the_published_ones():
    own = Law(1.0, 10.0, 20.0, 0.3, 0.3)
    planner = BudgetPlanner(own={"this page": own}, law=3)
    assert [row[0] for row in planner.laws][-1] == "this page"
    n, d = own.optimum(10**planner.flops)
    assert planner.reading()["n"] == pytest.approx(n)


@pytest.mark.parametrize("options", [{"flops": 30}, {"law": 3}, {"served": -1}, {"flops": 17}])
def test_settings_outside_their_sliders_are_refused(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} must be a (whole )?number from"):
        BudgetPlanner(**options)


def test_every_card_has_a_date_a_size_or_says_that_none_is_published_and_a_source():
    months = [system[1] for system in SYSTEMS]
    assert months == sorted(months) and all(len(system) == 8 for system in SYSTEMS)
    for _, _, size, active, tokens, reported, disputed, key in SYSTEMS:
        assert size is None or 1e8 < size < 1e13
        assert active is None or active < size
        assert tokens is None or tokens > size
        assert len(reported) > 20 and len(disputed) > 20 and key
    assert sum(system[2] is None for system in SYSTEMS) == 2


def test_a_sharp_measure_has_a_larger_step_than_a_smooth_one():
    timeline = Timeline(RUNS, PAPERS)
    assert timeline.steepest(0) == pytest.approx(0.1)
    assert timeline.steepest(1) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(
    "runs, papers, message",
    [
        ([], PAPERS, "at least one model"),
        (RUNS[::-1], PAPERS, "sorted by compute"),
        ([*RUNS, (1e30, {"other": 1.0})], PAPERS, "must all have the measures"),
        (RUNS, {}, "radford2018improving"),
    ],
)
def test_a_timeline_without_its_data_is_refused(runs, papers, message):
    with pytest.raises(ValueError, match=message):
        Timeline(runs, papers)


# --- in the browser


@in_browser
def test_the_browsers_numbers_are_pythons(open_widget):
    planner = BudgetPlanner(flops=23.0, law=0, served=13.0)
    page = open_widget(planner)
    want = planner.reading()
    [(n, d, loss)] = page.data(".optimum", "n", "d", "loss")
    assert (n, d, loss) == pytest.approx((want["n"], want["d"], want["loss"]))
    [(n, d, cost)] = page.data(".served", "n", "d", "cost")
    assert n == pytest.approx(want["small_n"], rel=0.02)
    assert cost == pytest.approx(want["cost"], rel=1e-3)
    page.slide("flops", 21)
    [n] = page.data(".optimum", "n")
    assert n == pytest.approx(PUBLISHED["Hoffmann et al. 2022, as printed"].optimum(1e21)[0])
    page.slide("served", 0)
    assert page.data(".served", "n") == [] and "serve" not in page.text(".readout")


@in_browser
def test_a_click_on_a_model_shows_its_card_and_its_text_is_never_markup(open_widget):
    page = open_widget(Timeline(RUNS, PAPERS))
    for place, system in enumerate(SYSTEMS):
        page.page.locator(f".system[data-i='{place}']").click()
        card = page.text(".card")
        assert system[0] in card and system[1] in card and "A Paper <b>" in card
        assert ("not published" in card) == (system[2] is None or system[4] is None)


@in_browser
def test_switching_the_measure_moves_the_jump(open_widget):
    page = open_widget(Timeline(RUNS, PAPERS))
    smooth = [y for _, y in page.data(".run", "x", "y")]
    assert smooth == pytest.approx([scores["smooth"] for _, scores in RUNS])
    page.page.get_by_text("sharp", exact=True).click()
    assert [y for _, y in page.data(".run", "x", "y")] == pytest.approx(
        [scores["sharp"] for _, scores in RUNS]
    )
    assert "50%" in page.text(".readout")
