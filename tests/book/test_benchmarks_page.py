"""The page of benchmarks: every recorded case is drawn, and where peers win is said."""

import re

from helpers.built_book import book  # noqa: F401 - a fixture

from llmbook.book import benchmarks
from llmbook.book.directives import Benchmarks


def outcome(case, median, peer="torch"):
    speed = {"median": median, "p20": 0.9 * median, "p80": 1.1 * median}
    return {"case": case, "ours": "fast", "peer": peer, "speed": speed}


FOUND = {
    "hardware": "a machine",
    "versions": {"torch": "2"},
    "peers": {"transformers": "5"},
    "threads": 2,
    "date": "2026-01-02T03:04:05",
    "commit": "0123456789abcdef",
    "waiting": 3.2,
    "cores": 2,
    "races": {
        "one": {
            "outcomes": [outcome("A", 2.0), outcome("B", 0.5)],
            "wrong": {},
            "note": "",
            "seconds": 60.0,
        },
        "two": {"outcomes": [outcome("C", 0.25)], "wrong": {"D": "off"}, "note": "", "seconds": 6},
        "three": {"outcomes": [], "wrong": {}, "note": "not installed: x", "seconds": 6.0},
    },
}


def test_lost_cases_come_worst_first_and_are_counted():
    assert [one["case"] for _, one in benchmarks.lost(FOUND)] == ["C", "B"]
    said = Benchmarks.lost(FOUND).astext()
    assert "faster in 2 of 3 cases; in 0 of these" in said and said.index(" C ") < said.index(
        " B "
    )
    assert Benchmarks.lost({"races": {"one": {"outcomes": [outcome("A", 1.0)]}}}).astext() == (
        "The peer is faster in 0 of 1 cases"
    )


def test_where_and_when_are_told_and_that_the_machine_was_shared():
    said = Benchmarks.where(FOUND).astext()
    for word in (
        "2026-01-02",
        "0123456789ab",
        "a machine",
        "2 threads",
        "torch 2",
        "transformers 5",
        "1.2 min",
    ):
        assert word in said, word
    assert "was shared: 3 other" in said
    assert "shared" not in Benchmarks.where(FOUND | {"waiting": 0.2}).astext()
    assert "shared" not in Benchmarks.where(FOUND | {"cores": 64}).astext()
    assert "shared" not in Benchmarks.where(FOUND | {"waiting": None}).astext()


def test_what_was_not_raced_or_was_wrong_is_listed():
    said = " ".join(node.astext() for node in Benchmarks.others(FOUND))
    assert "three: not installed: x" in said and "D: wrong result, no speed: off" in said


def test_a_case_is_drawn_on_an_axis_that_is_equal_in_the_middle():
    def places(median):
        drawn = benchmarks.picture(outcome("A", median)["speed"])
        return float(re.search(r'cx="([\d.]+)"', drawn).group(1)), drawn

    middle, drawn = places(1.0)
    assert middle == benchmarks.WIDTH / 2 and "ratio-even" in drawn
    (right, _), (left, drawn) = places(4.0), places(0.25)
    assert right - middle == middle - left > 10 and "ratio-peers" in drawn
    assert "ratio-even" in places(0.95)[1] and "ratio-even" in places(1.05)[1]
    assert places(1e6)[0] <= benchmarks.WIDTH and places(0.0)[0] >= 0


def test_the_page_has_a_row_for_each_recorded_case(book):
    page = (book / "chapters/benchmarks.html").read_text(encoding="utf-8")
    found = benchmarks.recorded()
    assert page.count('<svg class="ratio ') == len(benchmarks.cases(found)) > 20
    assert f"faster in {len(benchmarks.lost(found))} of {len(benchmarks.cases(found))}" in page
    assert found["commit"][:12] in page and not found["commit"].endswith("dirty")
