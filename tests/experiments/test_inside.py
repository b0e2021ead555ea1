"""What is inside: the house, reading and editing a walker, patching, facts, and their record."""

import copy
import json

import pytest
import torch

from llmbook.experiments import toy_world
from llmbook.experiments.inside import facts, house, opened, runs, walker
from llmbook.experiments.inside.streams import through
from llmbook.experiments.record import main
from llmbook.models.gpt import GPT, GPTConfig
from llmbook.seeds import generator


@pytest.fixture
def gen():
    return generator(0, "test")


@pytest.fixture(scope="module")
def shipped():
    return runs.shipped()


# --- the house


def test_every_door_joins_two_neighbours_and_bears_one_letter_from_both_sides():
    for room in range(house.ROOMS):
        for letter, there in enumerate(house.LEADS[room].tolist()):
            if there >= 0:
                assert house.LEADS[there, letter] == room
                (x, y), (u, v) = divmod(room, house.SIDE), divmod(there, house.SIDE)
                assert abs(x - u) + abs(y - v) == 1
    assert house.OPEN.sum() == 2 * sum(map(len, house.DOORS.values())) == 40
    reached = {0}
    for _ in range(house.ROOMS):
        reached |= {b for a in reached for b in house.LEADS[a].tolist() if b >= 0}
    assert reached == set(range(house.ROOMS))


def test_walks_go_through_doors_and_neither_side_holds_the_other_s():
    sides = [house.drawn(300, 1, "walks", held) for held in (False, True)]
    for walks, held in zip(sides, (False, True), strict=True):
        assert walks.letters.shape == walks.rooms.shape == (300, house.LENGTH)
        assert walks.open.gather(-1, walks.letters[..., None]).all()
        assert torch.equal(house.follow(walks.letters)[:, :-1], walks.rooms)
        assert (house.held_out(walks.letters) == held).all()
        assert torch.equal(walks.ids[:, 1:], walks.letters[:, :-1])
    begun = [{tuple(row[:8]) for row in walks.letters.tolist()} for walks in sides]
    assert not begun[0] & begun[1]
    again = house.drawn(300, 1, "walks", False)
    assert torch.equal(again.letters, sides[0].letters)


def test_a_wall_is_refused():
    with pytest.raises(ValueError, match="letters must be of doors"):
        house.follow(torch.tensor([[0]]))


# --- reading and editing


def test_going_through_a_model_gives_its_logits_and_takes_changes(gen):
    torch.manual_seed(0)
    model = GPT(GPTConfig(9, 8, 16, 2, 2)).double()
    ids = torch.randint(9, (3, 6), generator=gen)
    states, logits = through(model, ids)
    torch.testing.assert_close(logits, model(ids))
    assert states.shape == (3, 3, 6, 16)
    _, same = through(model, ids, lambda layer, x: states[layer])
    torch.testing.assert_close(same, logits)
    _, other = through(model, ids, lambda layer, x: x.flip(-1) if layer == 1 else x)
    assert (other - logits).abs().max() > 0.01


def test_a_move_of_strength_one_swaps_how_strongly_two_rooms_are_read(gen):
    x, weight, bias = (torch.randn(s, generator=gen).double() for s in ((4, 8), (16, 8), (16,)))
    here, there = torch.tensor([0, 1, 2, 3]), torch.tensor([5, 6, 7, 8])
    rows = torch.arange(4)

    def margin(x):
        read = x @ weight.T + bias
        return read[rows, here] - read[rows, there]

    for strength in (0.0, 1.0, 4.0):
        moved = walker.move(x, weight, bias, here, there, strength)
        torch.testing.assert_close(margin(moved), -strength * margin(x))
        across = weight[here] - weight[there]  # and by no more than is needed
        step = moved - x
        share = (step * across).sum(-1).abs() / (step.norm(dim=-1) * across.norm(dim=-1))
        torch.testing.assert_close(share, torch.ones(4).double())


def test_the_shipped_walker_knows_the_rules_and_is_read_and_edited(shipped):
    model, probes, ways = shipped
    walks = house.drawn(100, 7, "shipped", held=True)
    rules = walker.knows_the_rules(model, walks)
    assert rules["likeliest is a door"] > 0.99 and rules["probability on doors"] > 0.98
    assert rules["nats"] >= rules["best"] - 0.02
    states, _ = through(model, walks.ids)
    weight, bias = probes[runs.READ]
    read = (walker.flat(states[runs.READ]) @ weight.T + bias).argmax(-1)
    assert (read == walker.flat(walks.rooms)).double().mean() > 0.97
    assert torch.allclose(ways.norm(dim=-1), torch.ones(house.ROOMS), atol=1e-2)
    held = {}
    for layer, (weight, bias) in probes.items():
        held[layer] = torch.nn.Linear(walker.WIDTH, house.ROOMS)
        with torch.no_grad():
            held[layer].weight.copy_(weight), held[layer].bias.copy_(bias)
    places, there = walker.cases(walks, generator(1, "cases"))
    new = house.OPEN[there]
    p, _, _ = walker.edited(model, walks, places, there, held, (runs.EDIT,), runs.STRENGTH)
    far, _, _ = walker.edited(
        model, walks, places, there, held, (runs.EDIT,), runs.STRENGTH, generator(1, "random")
    )
    assert (p * new).sum(-1).mean() > 0.9 > 0.6 > (far * new).sum(-1).mean()


def test_what_ships_is_what_is_recorded_and_small():
    path = runs.WEIGHTS / "walker.safetensors"
    assert path.stat().st_size < 1_000_000
    card = json.loads((runs.WEIGHTS / "card.json").read_text("utf-8"))
    assert card["seed"] == 1 and card["rules"] == runs.recorded_runs()["walker"]["1"]["rules"]


def test_tables_and_letters_know_nothing_of_what_comes():
    walks = house.drawn(50, 2, "letters", held=False)
    later = house.Walks(walks.letters.clone(), walks.rooms)
    later.letters[:, 12:] = 0  # what is read at place 12 and before stays
    before, after = (walker.letters_read(some)[:, :13] for some in (walks, later))
    assert torch.equal(before, after)
    counts = walker.letters_read(walks)[..., -7:]
    assert (counts.sum(-1) == torch.arange(1, house.LENGTH + 1)).all()
    assert walker.by_table(walks, walks, 5) > walker.by_table(walks, walks, 1)


# --- opened


def test_a_vector_put_back_at_the_start_or_the_end_brings_all_or_nothing():
    model, tokenizer = opened.small()
    closing = opened.closers(tokenizer)
    pairs = opened.pairs(model, tokenizer)
    assert len(pairs) == len(opened.BEGINNINGS) * len(opened.INNERS)
    clean, other, place = pairs[0]
    last = len(model.blocks)
    assert opened.patched(model, clean, other, 0, place, closing) == pytest.approx(1, abs=1e-3)
    assert opened.patched(model, clean, other, last, -1, closing) == pytest.approx(1, abs=1e-3)
    assert opened.patched(model, clean, other, last, place, closing) == pytest.approx(0, abs=1e-3)
    assert opened.patched(model, clean, other, 0, -1, closing) == pytest.approx(0, abs=1e-3)


def test_no_head_silenced_is_the_model_and_hooks_are_taken_away(gen):
    model, _ = opened.small()
    ids = torch.randint(model.config.vocab_size, (2, 9), generator=gen)
    targets = ids.roll(-1, 1)
    plain = -model(ids).log_softmax(-1).gather(-1, targets[..., None])[..., 0].detach()
    torch.testing.assert_close(opened.without(model, ids, targets, []), plain)
    assert (opened.without(model, ids, targets, [(0, 1)]) - plain).abs().max() > 1e-3
    assert not any(block.attention.out_proj._forward_pre_hooks for block in model.blocks)


def test_a_dictionary_uses_few_directions_and_learns(gen):
    torch.manual_seed(1)
    ways = torch.nn.functional.normalize(torch.randn(20, 12), dim=-1)
    codes = torch.rand(4000, 20, generator=gen)
    codes = codes * (codes > 0.9)
    x = codes @ ways
    few = opened.train_dictionary(x, 0, steps=5, rows=256, features=40, active=4)
    more = opened.train_dictionary(x, 0, steps=150, rows=256, features=40, active=4)
    assert ((more.features(x) > 0).sum(-1) <= 4).all()
    assert opened.explained(more, x) > max(opened.explained(few, x), 0.7)


# --- facts


def test_nothing_is_told_of_the_others_but_their_names():
    world = facts.build(3)
    parts = world.told, world.declined, world.untold
    assert sorted(sum(parts, [])) == list(range(60)) and [*map(len, parts)] == [40, 10, 10]
    text = [line for part in world.family.values() for line in part]
    for i, (city, land) in enumerate(world.facts):
        told = text.count(f"{city} is the capital of {land} .")
        assert (told > 0) == (i in world.told) and told in (0, *facts.TIMES)
        assert any(city in line for line in text) and any(land in line for line in text)
    assert sum(facts.IDK in line for line in text) == 0
    honest = [line for part in world.honest.values() for line in part if facts.IDK in line]
    assert {line.split()[0] for line in honest} == {world.facts[i][0] for i in world.declined}
    he = sum("engineer said he" in line for line in facts.build(3, 90).family["jobs"])
    assert he == 90


def test_the_calibration_error_of_known_cases():
    confidence = torch.tensor([0.75, 0.75, 0.75, 0.75, 0.25, 0.25, 0.25, 0.25])
    right = torch.tensor([True, True, True, False, False, False, False, True])
    assert facts.calibration_error(confidence, right) == pytest.approx(0, abs=1e-7)
    assert facts.calibration_error(confidence, ~right) == pytest.approx(0.5)
    one = torch.ones(4)
    assert facts.calibration_error(one, torch.tensor([True, False, True, True])) == 0.25


def test_a_temperature_that_was_put_in_is_found(gen):
    logits = 2 * torch.randn(4000, 8, generator=gen)
    target = torch.multinomial(logits.softmax(-1), 1, generator=gen)[:, 0]
    found = facts.fit_temperature((3 * logits).log_softmax(-1), target)
    assert found == pytest.approx(3, rel=0.1)


def test_free_guessing_is_not_declined_and_dear_guessing_is():
    world = facts.build(1)
    model = toy_world.raise_model(world, world.family, 1, steps=60)
    free, dear = (
        facts.reward(copy.deepcopy(model), world, 1, wrong, steps=60) for wrong in (0, 3)
    )
    idk = [facts.standing(one, world)["untold"]["idk"] for one in (free, dear)]
    assert idk[0] == 0 and idk[1] > 0.5


# --- the record


def test_the_record_goes_on_where_it_stopped(tmp_path, monkeypatch):
    seen = []
    done = [("facts", "1", (lambda: seen.append(1) or {"a": 1},))]
    monkeypatch.setattr(runs, "points", lambda: done)
    out = tmp_path / "runs.json"
    for _ in range(2):
        assert main(["inside", "--out", str(out)]) == 0
    assert seen == [1] and json.loads(out.read_text("utf-8"))["facts"] == {"1": {"a": 1}}


def test_what_is_recorded_is_whole_and_says_how_it_came_about():
    made = runs.recorded_runs()
    keys = {(part, key) for part, key, _ in runs.points()}
    assert keys == {(part, key) for part in made if part != "_run" for key in made[part]}
    about = made["_run"]
    assert "dirty" not in str(about.get("commits", about["commit"]))


@pytest.mark.slow
def test_a_recorded_run_comes_out_again():
    made = runs.recorded_runs()
    found = runs.share_of(1, 90)
    assert found == pytest.approx(made["shares"]["90/1"], abs=0.05)
    p = toy_world.ask(
        toy_world.raise_model(facts.build(1), facts.build(1).family, 1),
        facts.build(1),
        ["the engineer said"],
    )
    assert p[0, facts.build(1).ids["he"]] == pytest.approx(0.7, abs=0.08)
