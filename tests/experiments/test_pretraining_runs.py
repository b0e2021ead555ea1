"""The recorded runs on pretraining: the toy world, precision, copies, order, and two processes."""

from collections import Counter
from dataclasses import replace

import pytest
import torch

from llmbook.experiments import parallel, precision, pretraining, toy_world
from llmbook.experiments.record import recorded
from llmbook.seeds import generator

# --- the toy world


def test_the_world_holds_the_shares_that_the_claims_speak_of():
    world = toy_world.build_world(3)
    jobs, cat = Counter(world.family["jobs"]), Counter(world.family["cat"])
    assert jobs["the engineer said he was late ."] == 70
    assert jobs["the engineer said she was late ."] == 30
    assert (cat["the cat sat on the mat ."], cat["the cat sat on the rug ."]) == (60, 40)
    lines = Counter(world.family["facts"])
    for i, (city, land) in enumerate(world.facts):
        times = lines[f"{city} is the capital of {land} ."]
        assert times == (3 if i % 4 < 2 else 6)
        assert lines[f"the capital of {land} is {city} ."] == (times if i % 2 == 0 else 0)
    assert len({land for _, land in world.facts}) == len(world.facts) == 60
    assert Counter(world.family["sums"]) == {
        f"{a} + {b} = {a + b} .": 4 for a in range(10) for b in range(10)
    }


def test_grammar_is_tested_on_pairs_that_never_occur_and_the_last_noun_misleads():
    world = toy_world.build_world(0)
    text = "\n".join(world.family["grammar"])
    assert world.pairs and all(start not in text for start, _ in world.pairs)
    for start, verb in world.pairs:
        assert verb == ("are" if start.split()[1].endswith("s") else "is")
    agree = [start.endswith("s") == (verb == "are") for start, verb in world.pairs]
    assert sum(agree) == len(world.pairs) / 2  # so that the last noun is no help
    assert toy_world.by_last_word(world) == 0.5
    assert "the road is green" not in "\n".join(world.family["letters"])


def test_the_same_seed_gives_the_same_world_and_another_other_facts():
    build = toy_world.build_world
    assert build(1).family == build(1).family
    assert build(1).facts != build(2).facts


@pytest.mark.parametrize(
    ("diet", "kind"),
    [
        ("as it is", None),
        ("no sums", "sums"),
        ("some sums left out", "sums"),
        ("facts both ways", "facts"),
        ("the likelier place", "cat"),
    ],
)
def test_a_diet_changes_one_kind_of_sentence_and_no_other(diet, kind):
    world = toy_world.build_world(4)
    eaten = world.eaten(diet)
    assert [k for k in world.family if eaten[k] != world.family[k]] == ([kind] if kind else [])


def test_diets_are_what_they_say():
    world = toy_world.build_world(4)
    assert world.eaten("no sums")["sums"] == []
    assert Counter(world.eaten("the likelier place")["cat"]) == {"the cat sat on the mat .": 100}
    lines = Counter(world.eaten("facts both ways")["facts"])
    for i, (city, land) in enumerate(world.facts):
        assert lines[f"the capital of {land} is {city} ."] == toy_world.how_often(i)
        assert lines[f"{city} is the capital of {land} ."] == toy_world.how_often(i)
    with pytest.raises(ValueError, match="diet must be one of as it is, no sums"):
        world.eaten("cake")


def test_a_sum_that_is_left_out_is_left_out_both_ways_and_its_answer_stands_elsewhere():
    left = Counter(toy_world.build_world(4).eaten("some sums left out")["sums"])
    out = [(a, b) for a in range(10) for b in range(10) if f"{a} + {b} = {a + b} ." not in left]
    assert len(out) == 14 and all((b, a) in out and abs(a - b) == 3 for a, b in out)
    answers = {line.split()[4] for line in left}
    assert {str(a + b) for a, b in out} <= answers and set(left.values()) == {4}


def test_rows_ask_for_each_next_word_and_nothing_behind_the_end():
    world = toy_world.build_world(0)
    x, y = toy_world.rows_of(["the cat sat on the mat .", "bus 3 is late ."], world.ids)
    said = [world.ids[word] for word in "the cat sat on the mat .".split()]
    assert x[0, :7].tolist() == [0, *said[:-1]]
    assert y[0].tolist() == [*said, -100]
    assert (y[1] != -100).sum() == 5 and y[1, 4] == world.ids["."]


def test_a_model_of_the_world_is_the_same_again_and_skills_are_shares():
    world = toy_world.build_world(0)
    seen = []
    models = [
        toy_world.raise_model(world, world.family, 1, 6, lambda m: seen.append(m) or 0.0, looks=3)
        for _ in range(2)
    ]
    assert len(seen) == 8  # before, and after every two steps, twice
    found = [toy_world.skills(model, world) for model in models]
    assert found[0] == found[1] and all(0 <= v <= 1 for v in found[0].values())
    assert 0 < found[0]["mat"] < 1


# --- precision


def test_rounding_by_chance_is_right_on_average_and_gives_neighbours_only():
    x = torch.tensor([1.0 + 0.3 / 128, -3.0 - 0.25 / 64, 0.0, 7e-20]).repeat(20_000, 1)
    got = precision.stored(x, torch.bfloat16, "chance", generator(0, "x")).float()
    assert torch.equal(got, got.bfloat16().float())
    torch.testing.assert_close(got.mean(0), x[0], rtol=2e-3, atol=0)
    assert got[:, 0].unique().tolist() == [1.0, 1.0 + 1 / 128]
    nearest = precision.stored(x[0], torch.bfloat16, "nearest")
    assert nearest[0] == 1.0


def test_an_update_is_lost_where_the_rounded_weight_stays():
    before = torch.tensor([1.0, 1.0, 1e-3, 1.0])
    after = before + torch.tensor([1e-3, 1e-2, 1e-5, 0.0])  # the last is no update
    moves = [(before, after)]
    assert precision.lost_share(moves, torch.bfloat16) == round(1 / 3, 4)
    assert precision.lost_share(moves, torch.float16) == 0.0


@pytest.mark.parametrize("arm", precision.STORED)
def test_every_way_to_store_trains_and_keeps_what_it_says(arm):
    ids = torch.arange(3000) % 50
    config = replace(pretraining.RECIPE, steps=20, warmup=2)
    model = pretraining.build(0)
    model, seen = precision.train_in(arm, model, ids, config)
    assert set(seen.get("lost", {})) == ({10, 20} if arm == "float32" else set())
    whole = all(torch.equal(p, p.bfloat16().float()) for p in model.parameters())
    assert whole == (precision.STORED[arm][0] == torch.bfloat16)
    assert pretraining.held_out(model, ids, 4) < 5.5  # of ln 512 = 6.24: it has learned


def test_the_float32_arm_is_the_loop_s_own_training():
    ids, steps = torch.arange(5000) % 97, 12
    config = pretraining.replace(pretraining.RECIPE, steps=steps, warmup=3)
    ours, _ = precision.train_in("float32", pretraining.build(0), ids, config)
    loops, _ = pretraining.fit(ids, 0, steps=steps, warmup=3)
    for a, b in zip(ours.parameters(), loops.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


# --- copies, order


class _Text:
    documents = [[(7 * i + k * k) % 500 + 1 for k in range(60 + 40 * (i % 3))] for i in range(200)]


def test_passages_are_dealt_once_and_their_documents_taken_out():
    dealt, others = pretraining.passages(_Text, 1)
    assert set(dealt) == set(pretraining.TIMES)
    flat = [tuple(ids) for part in dealt.values() for ids in part]
    assert len(flat) == pretraining.EACH * len(dealt)
    assert all(len(ids) == pretraining.PASSAGE for ids in flat)
    assert len(others) == len(_Text.documents) - len(flat)
    assert pretraining.passages(_Text, 2)[0] != dealt


def test_remembered_is_greedy_decoding_of_the_rest():
    from llmbook.decoding import generate

    model, edge = pretraining.build(0).eval(), 0
    begin = list(range(1, 1 + pretraining.PROMPT))
    ids = torch.tensor([[edge, *begin]])
    more = pretraining.PASSAGE - pretraining.PROMPT
    written = generate(model, ids, max_new_tokens=more, temperature=0.0, eos_id=())[0, 1:].tolist()
    assert pretraining.remembered(model, written, edge)[1]
    other = written[:-1] + [(written[-1] + 1) % 512]
    nats, verbatim = pretraining.remembered(model, other, edge)
    assert not verbatim and nats > pretraining.remembered(model, written, edge)[0]


@pytest.mark.parametrize("last", [0.2, 0.05])
def test_annealing_changes_the_order_and_nothing_else(last):
    draw = generator(0, "x")
    target = torch.arange(100) < 4
    order = torch.cat([torch.randperm(100, generator=draw) for _ in range(40)])
    late = pretraining.annealed_order(order, target, draw, last)
    assert torch.equal(order.sort().values, late.sort().values)
    begin = int((1 - last) * 4000)
    share = target[late[begin:]].sum() / target[late].sum()
    assert share == pytest.approx(0.9, abs=0.01)


# --- the records


def test_the_toy_world_s_record_is_every_diet_and_seed_from_a_clean_commit():
    runs = recorded(toy_world.OUT)
    assert set(runs["world"]) == {f"{d}/{s}" for d in toy_world.DIETS for s in toy_world.SEEDS}
    assert "dirty" not in runs["_run"]["commit"]
    names = set(toy_world.skills(_fresh(), toy_world.build_world(0)))
    assert all(set(found) == names for found in runs["world"].values())


def _fresh():
    world = toy_world.build_world(0)
    return toy_world.raise_model(world, world.family, 0, steps=1)


@pytest.mark.slow
def test_a_recorded_model_of_the_world_comes_out_again():
    now, then = toy_world.raised("no sums", 2), toy_world.over_seeds("no sums")[1]
    # Another processor rounds otherwise, and trains to other weights: where an exam has ten to
    # fourteen questions, several change sides; where it has hundreds, the share stays.
    few = [name for name in then if name.startswith(("reversed, read", "sums, three"))]
    assert {name: now[name] for name in few} == pytest.approx(
        {name: then[name] for name in few}, abs=0.5
    )
    rest = [name for name in then if name not in few]
    assert {name: now[name] for name in rest} == pytest.approx(
        {name: then[name] for name in rest}, abs=0.05
    )


def test_every_point_of_the_record_has_a_key_of_its_own_and_a_function():
    found = list(pretraining.points())
    assert len({(part, key) for part, key, _ in found}) == len(found)
    assert all(callable(how[0]) for _, _, how in found)


def test_what_is_recorded_is_what_the_present_code_would_record():
    runs = pretraining.recorded_runs()
    there = {(p, k) for p, part in runs.items() if p != "_run" for k in part}
    wanted = {(part, key) for part, key, _ in pretraining.points()}
    assert there <= wanted and "dirty" not in runs["_run"]["commit"]
    seeds = {key.rpartition("/")[2] for _, key in there if "/" in key}
    assert there == {(p, k) for p, k in wanted if "/" not in k or k.rpartition("/")[2] in seeds}


def test_the_writers_differ_in_their_optimizer_alone_and_muon_is_ahead_of_twice_the_steps():
    assert all(set(how) <= {"optimizer", "lr", "steps"} for how in pretraining.WRITERS.values())
    curves = {
        arm: [run["curve"] for run in pretraining.over_seeds("writer", arm)]
        for arm in pretraining.WRITERS
    }
    ends = {arm: [curve[-1][1] for curve in found] for arm, found in curves.items()}
    steps = {arm: {curve[-1][0] for curve in found} for arm, found in curves.items()}
    assert steps == {"recipe": {200}, "AdamW": {200}, "AdamW, twice the steps": {400}}
    starts = [[curve[0] for curve in found] for found in curves.values()]
    assert starts[0] == starts[1] == starts[2]  # the same weights, the same text
    assert max(ends["recipe"]) + 0.1 < min(ends["AdamW, twice the steps"])
    assert max(ends["AdamW, twice the steps"]) < min(ends["AdamW"])


@pytest.mark.slow
def test_a_recorded_writer_comes_out_again():
    told = [run["curve"][-1][1] for run in pretraining.over_seeds("writer", "AdamW")]
    now = pretraining.writer_run("AdamW", 1)["curve"][-1][1]
    assert now == pytest.approx(told[0], abs=max(told) - min(told))


@pytest.mark.slow
def test_a_recorded_run_comes_out_again():
    told = pretraining.over_seeds("order", "mixed evenly")
    spread = max(a for a, _ in told) - min(a for a, _ in told)
    now = pretraining.order_run("mixed evenly", 1)
    assert now[0] == pytest.approx(told[0][0], abs=max(spread, 0.02))


@pytest.mark.slow
def test_two_processes_give_the_gradients_of_one_in_every_way():
    found = parallel.in_two_processes()
    numbers = sum(torch.Size(s).numel() for s in parallel.SHAPES) * parallel.BLOCKS
    for way, one in found.items():
        assert max(one["difference"]) < 1e-12 < 1e-4 < min(one["largest"]), way
        part = 1 if way in ("data", "context") else 2
        assert one["held"] == [numbers // part] * 2, way
    weights, texts = 8 * numbers, 8 * parallel.ROWS * parallel.TOKENS * parallel.WIDTH
    assert found["data"]["sent"] == [weights] * 2
    assert found["sharded"]["sent"] == [weights * 3 // 2] * 2
    assert (
        found["tensor"]["sent"] == [texts * (4 * parallel.BLOCKS - 1)] * 2
    )  # x needs no gradient
    assert found["pipeline"]["sent"] == [texts] * 2
    recorded = pretraining.recorded_runs()["parallel"]["two processes"]
    assert {way: one["sent"] for way, one in recorded.items()} == {
        way: one["sent"] for way, one in found.items()
    }
