"""The training race runs, fetches nothing, and shows no speed for updates that are not AdamW's."""

import dataclasses
import json

import pytest
import torch
from helpers.training_subject import tiny_model

from llmbook.bench import main, memory
from llmbook.bench import training as training_race
from llmbook.training import Update
from llmbook.training.optim import clip_gradients

TINY = ["training", "--quick", "--device", "cpu", "--threads", "1"]

# A checkout as the race expects it: the same names and calls, and a model that computes the same.
STAND_IN = """
from dataclasses import dataclass
import torch
from torch import nn
from torch.nn import functional as F


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.heads = c.n_head
        self.c_attn = nn.Linear(c.n_embd, 3 * c.n_embd, bias=c.bias)
        self.c_proj = nn.Linear(c.n_embd, c.n_embd, bias=c.bias)

    def forward(self, x):
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2)
                   for t in self.c_attn(x).chunk(3, -1))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.c_proj(mixed.transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(c.n_embd), nn.LayerNorm(c.n_embd)
        self.attn = Attention(c)
        self.mlp = nn.Module()
        self.mlp.c_fc = nn.Linear(c.n_embd, 4 * c.n_embd)
        self.mlp.c_proj = nn.Linear(4 * c.n_embd, c.n_embd)

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp.c_proj(F.gelu(self.mlp.c_fc(self.ln_2(x))))


@dataclass
class GPTConfig:
    block_size: int = 8
    vocab_size: int = 65
    n_layer: int = 1
    n_head: int = 1
    n_embd: int = 8
    dropout: float = 0.0
    bias: bool = True


class GPT(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.transformer = nn.ModuleDict({
            "wte": nn.Embedding(c.vocab_size, c.n_embd),
            "wpe": nn.Embedding(c.block_size, c.n_embd),
            "h": nn.ModuleList(Block(c) for _ in range(c.n_layer)),
            "ln_f": nn.LayerNorm(c.n_embd)})
        self.lm_head = nn.Linear(c.n_embd, c.vocab_size, bias=False)
        self.transformer["wte"].weight = self.lm_head.weight
        print("a model that talks")

    def forward(self, ids, targets):
        t = self.transformer
        x = t["wte"](ids) + t["wpe"].weight[: ids.shape[1]]
        for block in t["h"]:
            x = block(x)
        logits = self.lm_head(t["ln_f"](x))
        return logits, F.cross_entropy(logits.flatten(0, 1), targets.flatten())

    def configure_optimizers(self, weight_decay, learning_rate, betas, device_type):
        print("an optimiser that talks")
        groups = [{"params": [p for p in self.parameters() if (p.dim() > 1) == matrix],
                   "weight_decay": weight_decay * matrix} for matrix in (True, False)]
        return torch.optim.AdamW(groups, lr=learning_rate, betas=betas)
"""


@pytest.fixture
def checkout(tmp_path):
    (tmp_path / "model.py").write_text(STAND_IN, encoding="utf-8")
    return tmp_path


def race(tmp_path, *more):
    file = tmp_path / "race.json"
    status = main([*TINY, *more, "--json", str(file)])
    record = json.loads(file.read_text())
    return status, record["outcomes"], record["wrong"]


@pytest.mark.parametrize("dropout", ["0", "0.2"])
def test_the_race_against_torch_nn_runs_and_records(tmp_path, capsys, dropout):
    status, (outcome,), _ = race(tmp_path, "--dropout", dropout)
    assert status == 0 and (outcome["ours"], outcome["peer"]) == ("ours", "torch.nn")
    assert 0 < max(outcome["errors"].values()) < 1e-4 and outcome["speed"]["median"] > 0
    printed = capsys.readouterr().out
    assert "vs torch.nn" in printed and "git clone" in printed and "--nanogpt" in printed


def test_the_race_against_a_checkout_of_nanogpt_runs_and_records(tmp_path, checkout, capsys):
    status, (outcome,), _ = race(tmp_path, "--nanogpt", str(checkout))
    assert status == 0 and outcome["peer"] == "nanoGPT"
    assert 0 < max(outcome["errors"].values()) < 1e-4
    printed = capsys.readouterr().out
    assert "vs nanoGPT" in printed and "talks" not in printed and "git clone" not in printed


def test_half_precision_is_gated_in_float32_and_then_by_what_16_bits_can_tell(
    tmp_path, checkout, monkeypatch
):
    monkeypatch.setenv("LLMBOOK_DEVICE_PROFILE", "t4")
    status, (outcome,), _ = race(tmp_path, "--nanogpt", str(checkout))
    assert status == 0 and all(1e-4 < error < 0.2 for error in outcome["errors"].values())


def change_groups(which=slice(None), **values):
    """A fault in the optimiser: other values in some of its groups of parameters."""

    def apply(update):
        for group in update.optimizers[0].param_groups[which]:
            group.update(values)

    return apply


def scale_rate(update):
    for group in update.optimizers[0].param_groups:
        group["lr"] *= 1.05


def no_clipping(update):
    update.config = dataclasses.replace(update.config, clip=0.0)


def one_wrong_row(update):
    update.parameters[0].grad[0] *= 1.05


def doubled_vectors(update):
    for p in update.parameters:
        if p.ndim == 1:
            p.grad *= 2


@torch.no_grad()
def decay_one_norm(update):
    update.model.norm.weight *= 1 - 0.0005 * update.config.lr


def clip_while_scaled(update):
    if update.scaler is not None:
        clip_gradients(update.parameters, 1.0)


FAULTS = {
    "learning rate 5% off": scale_rate,
    "another beta1": change_groups(betas=(0.95, 0.95)),
    "another beta2": change_groups(betas=(0.9, 0.99)),
    "another epsilon": change_groups(eps=1e-5),
    "a decay 20% off": change_groups(slice(0, 1), weight_decay=0.12),
    "decay of biases and norms too": change_groups(slice(1, 2), weight_decay=0.1),
    "no decay": change_groups(weight_decay=0.0),
    "no clipping": no_clipping,
    "one token's gradient 5% off": one_wrong_row,
    "gradients of vectors counted twice": doubled_vectors,
    "a little decay of a single norm": decay_one_norm,
}


# In 16 bits a rate that is off by 5% could not be told: the look in float32 tells it.
HALF = {"learning rate 5% off": scale_rate, "clipped while scaled": clip_while_scaled}


@pytest.mark.parametrize(
    "fault, profile",
    [*((fault, "") for fault in FAULTS.values()), *((fault, "t4") for fault in HALF.values())],
    ids=[*FAULTS, *(f"float16, {name}" for name in HALF)],
)
def test_no_speed_is_shown_for_updates_that_are_wrong(
    fault, profile, tmp_path, monkeypatch, capsys
):
    apply = Update._apply

    def wrong(self):
        if self.config.optimizer != "adamw_reference":  # that one is the truth
            fault(self)
        return apply(self)

    if profile:
        monkeypatch.setenv("LLMBOOK_DEVICE_PROFILE", profile)
    monkeypatch.setattr(Update, "_apply", wrong)
    status, outcomes, message = race(tmp_path)
    assert status == 1 and outcomes == [] and "ours is wrong" in str(message)
    assert "vs torch.nn" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "right, wrong",
    [
        ("lr=learning_rate", "lr=1.05 * learning_rate"),
        ("betas=betas", "betas=(0.9, 0.99)"),
        ("weight_decay * matrix", "weight_decay"),
        ("F.gelu(", "F.relu("),
    ],
)
def test_no_speed_is_shown_against_a_peer_that_does_something_else(
    right, wrong, tmp_path, checkout, capsys
):
    (checkout / "model.py").write_text(STAND_IN.replace(right, wrong), encoding="utf-8")
    status, outcomes, message = race(tmp_path, "--nanogpt", str(checkout))
    assert status == 1 and outcomes == [] and "nanoGPT is wrong" in str(message)


def test_a_peer_with_other_weights_is_refused(tmp_path, checkout):
    lacking = STAND_IN.replace("bias=False", "bias=True").replace(
        'self.transformer["wte"].weight = self.lm_head.weight', ""
    )
    (checkout / "model.py").write_text(lacking, encoding="utf-8")
    with pytest.raises(ValueError, match="other weights than ours"):
        race(tmp_path, "--nanogpt", str(checkout))


def test_the_plain_peer_is_the_same_function():
    model = tiny_model(dropout=0.0, n_layers=2, activation="gelu")
    peer = training_race.PlainGPT(model.config)
    training_race._fill(peer, model, training_race._plain_names(2))
    ids, targets = torch.randint(17, (2, 3, 8))
    logits, loss = peer(ids, targets)
    torch.testing.assert_close(logits, model(ids))
    torch.testing.assert_close(loss, model.loss(ids, targets))


def test_a_folder_without_nanogpt_is_refused_with_the_way_to_get_it(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*TINY, "--nanogpt", str(tmp_path)])
    assert stop.value.code == 2
    message = capsys.readouterr().err
    assert "nanoGPT's model.py" in message and str(tmp_path) in message and "git clone" in message


@pytest.mark.skipif(not memory.is_told(), reason="this system does not tell a process's peak")
def test_the_peak_of_an_update_holds_gradients_and_the_optimizer_s_state(capsys):
    vocabulary, length, width, layers, _ = shape = (8000, 16, 256, 2, 2)
    weights = 4 * (vocabulary + length + layers * 12 * width) * width
    for side in ("ours", "torch.nn"):
        peak = memory.in_fresh_process(training_race.measured, side, None, shape, 2)
        assert 3 * weights < peak < 6 * weights, (side, peak / weights)
    assert main([*TINY, "--memory"]) == 0
    told = capsys.readouterr().out
    assert "peak memory of an update, GPT 1/2/8 T=8 batch=1: ours" in told and "torch.nn" in told
