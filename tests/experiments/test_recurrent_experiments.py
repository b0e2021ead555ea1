"""The recorded runs on recurrent networks: tasks, starts, held gates, record, weights."""

import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from llmbook.experiments import recall, recurrent
from llmbook.experiments.record import main
from llmbook.tokenization.characters import CharacterTokenizer


def g(seed=0):
    return torch.Generator().manual_seed(seed)


# --- recall


def test_starts_differ_from_one_another_only_in_what_their_name_says():
    states = {}
    for name, make in recall.STARTS.items():
        torch.manual_seed(3)
        states[name] = make().layer.state_dict()
    for one, two, differs in (
        ("tanh", "tanh, orthogonal", {"weight_hh_l0"}),
        ("ReLU", "ReLU, identity", {"weight_hh_l0"}),
        ("LSTM, forget 0", "LSTM, forget 4", {"bias_ih_l0"}),
        ("LSTM, forget 4", "LSTM, forget 4, input -4", {"bias_ih_l0"}),
        ("GRU, keep 0", "GRU, keep 3", {"bias_ih_l0"}),
    ):
        a, b = states[one], states[two]
        assert {k for k in a if not a[k].equal(b[k])} == differs, (one, two)
    W = states["tanh, orthogonal"]["weight_hh_l0"]
    torch.testing.assert_close(W @ W.T, torch.eye(32), atol=1e-5, rtol=0)
    assert states["ReLU, identity"]["weight_hh_l0"].equal(torch.eye(32))
    bias = states["LSTM, forget 4, input -4"]["bias_ih_l0"]
    assert (bias[:32] == -4).all() and (bias[32:64] == 4).all() and (bias[64:] == 0).all()


def test_fit_learns_a_short_recall_and_tells_norms_before_clipping():
    torch.manual_seed(1)
    net = recall.plain()()
    told = recall.fit(net, recall.recall(3), 300, seed=1, lr=5e-3, clip=1e-3)
    assert recall.accuracy(net, recall.recall(3, 500)) > 0.95
    assert max(told["norms"]) > 0.01 and len(told["losses"]) == len(told["norms"]) < 300


def test_without_clipping_gradients_stay_as_they_are():
    torch.manual_seed(1)
    start = recall.plain("orthogonal", 3.0)()
    clipped, free = (recall.plain("orthogonal", 3.0)() for _ in range(2))
    for net, clip in ((clipped, 1.0), (free, None)):
        net.load_state_dict(start.state_dict())
        recall.fit(net, recall.recall(9), 1, lr=0.1, clip=clip, make=torch.optim.SGD)
    moved = [
        sum(
            (a - b).square().sum() for a, b in zip(n.parameters(), start.parameters(), strict=True)
        )
        for n in (clipped, free)
    ]
    assert moved[0].sqrt() <= 0.1 + 1e-5 < moved[1].sqrt()


def test_agreement_labels_the_number_of_the_first_noun():
    x, y = recall.agreement(6, 200)(g())
    first = x[:, 0].argmax(-1)
    assert x.shape == (200, 7, 16) and (first < 8).all()
    assert torch.equal((first >= 4).long(), y) and 0.3 < y.double().mean() < 0.7


def test_a_net_that_nobody_holds_reads_as_its_layer_does():
    torch.manual_seed(2)
    net = recall.lstm(1.0)()
    x, _ = recall.recall(7, 5)(g())
    torch.testing.assert_close(recall.read_held(net, x), net(x).detach(), atol=1e-5, rtol=0)


def test_held_at_zero_and_cut_only_the_last_symbol_counts():
    torch.manual_seed(2)
    net = recall.lstm(1.0)()
    x, _ = recall.recall(7, 5)(g())
    y = x.clone()
    y[:, :-1] = x[:, :-1].roll(1, -1)
    how = {"forget": 0.0, "cut": True}
    torch.testing.assert_close(recall.read_held(net, x, **how), recall.read_held(net, y, **how))
    assert (recall.read_held(net, x, 0.0) - recall.read_held(net, y, 0.0)).abs().max() > 1e-3
    assert (
        recall.read_held(net, x, cut=True) - recall.read_held(net, y, cut=True)
    ).abs().max() > 0


def test_a_look_back_is_attention_of_the_last_symbol_and_knows_no_order():
    torch.manual_seed(0)
    net, x = recall.LooksBack(), recall.symbols("A cat that sits")
    q, k, v = net.parts(x)
    seen = F.scaled_dot_product_attention(q, k, v)[:, 0]
    torch.testing.assert_close(net(x), net.out(seen))
    turned = torch.cat([x[:, :-1].flip(1), x[:, -1:]], 1)  # all but the one that asks
    torch.testing.assert_close(net(turned), net(x))
    assert x.argmax(-1)[0, :4].tolist() == [0, 4, 7, 5]  # A; then codes modulo 4


# --- the other tasks


def test_marks_lie_in_the_first_eight_places_and_the_label_says_which_came_first():
    for length in (8, 16):
        x, y = recurrent.marks(length, 300)(g())
        ids = x.argmax(-1)
        a, b = (ids == 0).nonzero()[:, 1], (ids == 1).nonzero()[:, 1]
        assert len(a) == len(b) == 300 and max(a.max(), b.max()) < 8
        assert torch.equal((a < b).long(), y)


def test_the_suitcase_hands_over_the_state_and_nothing_else():
    torch.manual_seed(0)
    net, ids = recurrent.Suitcase(8), torch.randint(8, (2, 6), generator=g())
    with torch.no_grad():
        first = net(ids)[:, 0]  # before it has been told anything
        for weight in net.encoder.parameters():
            weight.zero_()
        blind = net(ids)[:, 0]
    assert (first[0] - first[1]).abs().max() > 1e-4
    torch.testing.assert_close(blind[0], blind[1])


def test_sixteen_counters_are_sixteen_networks():
    torch.manual_seed(0)
    nets, (ids, target) = recurrent.Counters(nn.LSTM), recurrent.every_n(3)
    nets.layer.batch_first = True
    assert ids.tolist()[1] == [0, 1, 1, 2, 2, 0, 0] and target.tolist()[1][5:] == [-100, -100]
    out = nets(ids)
    (grad,) = torch.autograd.grad(out[..., 4, :].sum(), nets.layer.weight_hh_l0)
    touched = grad.unflatten(0, (4, 16, 8)).unflatten(-1, (16, 8)).abs().sum((0, 2, 4))
    assert touched.nonzero().tolist() == [[4, 4]]


def test_weights_that_ship_read_characters_better_than_a_trigram_table():
    ids = torch.tensor(
        CharacterTokenizer().encode("Return the number of items in the list.\n" * 20)
    )
    model = recurrent.Characters("RNN", 192, 96)
    model.load_state_dict(recurrent.shipped("characters"))
    assert recurrent.nats_of(model, ids, 200) < 1.5
    net = recall.lstm(4.0)()
    net.load_state_dict(recurrent.shipped("recall"))
    assert recall.accuracy(net, recall.recall(40, 300)) > 0.97
    size = sum(path.stat().st_size for path in recurrent.WEIGHTS.iterdir())
    assert size < 300_000


# --- the record


def test_the_record_goes_on_and_ships_what_it_names(tmp_path, monkeypatch):
    net = nn.Linear(2, 3)
    made = []

    def run(key):
        made.append(key)
        if len(made) == 2:
            raise KeyboardInterrupt
        return {"accuracy": 1.0}, net

    monkeypatch.setattr(recurrent, "points", lambda: [("p", k, (run, k)) for k in "abc"])
    monkeypatch.setattr(recurrent, "SHIPS", {"p/c": "tiny"})
    monkeypatch.setattr(recurrent, "WEIGHTS", tmp_path / "weights")
    out = tmp_path / "runs.json"
    with pytest.raises(KeyboardInterrupt):
        main(["recurrent", "--out", str(out)])
    assert main(["recurrent", "--out", str(out)]) == 0
    held = json.loads(out.read_text())
    assert set(held["p"]) == set("abc") and made == ["a", "b", "b", "c"]
    torch.testing.assert_close(
        recurrent.shipped("tiny")["weight"], net.weight.detach(), atol=1e-3, rtol=0
    )


def test_every_arm_is_recorded_for_five_seeds():
    runs = recurrent.recorded_runs()
    for part, key, _ in recurrent.points():
        assert key in runs[part], (part, key)
    assert len(recurrent.over_seeds("recall", "tanh/40")) == len(recall.SEEDS) == 5
    for part in ("recall", "suitcase"):
        assert all(0 <= v <= 1 for v in runs[part].values())


@pytest.mark.slow
@pytest.mark.parametrize(
    "key", ["LSTM, forget 4/40/1", "tanh, orthogonal/40/2", "LSTM, forget 1/40/3"]
)
def test_a_recorded_run_comes_out_again(key):
    start, T, seed = key.rsplit("/", 2)
    found, _ = recall.recalled(start, int(T), int(seed))
    assert found == pytest.approx(recurrent.recorded_runs()["recall"][key], abs=0.02)


def test_language_is_scored_in_rows_from_an_empty_state():
    torch.manual_seed(0)
    model, ids = recurrent.Characters("LSTM", 5, 7), torch.randint(7, (100,), generator=g())
    rows = ids[:99].view(3, 33)
    logits = torch.stack([model(row[None, :-1])[0][0] for row in rows]).detach()
    want = F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
    assert recurrent.nats_of(model, ids, 32) == pytest.approx(want.item(), abs=1e-5)
