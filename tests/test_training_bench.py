"""The training race runs, is gated on the losses, and fetches nothing."""

import json

import pytest
import torch

from llmbook.bench import main
from llmbook.bench import training as training_race
from llmbook.training import Update
from training_subject import tiny_model

TINY = ["training", "--quick", "--device", "cpu", "--threads", "1"]


def test_the_race_against_torch_nn_runs_and_records(tmp_path, capsys):
    assert main([*TINY, "--json", str(tmp_path / "race.json")]) == 0
    (outcome,) = json.loads((tmp_path / "race.json").read_text())["outcomes"]
    assert (outcome["ours"], outcome["peer"]) == ("ours", "torch.nn")
    assert max(outcome["errors"].values()) < 1e-3 and outcome["speed"]["median"] > 0
    assert "vs torch.nn" in capsys.readouterr().out


@pytest.mark.parametrize("fault", ["gradient", "optimiser"])
def test_no_speed_is_shown_for_an_update_that_is_wrong(fault, monkeypatch, capsys):
    """The fall of the loss tells of gradients and of the optimiser as well."""
    apply = Update._apply

    def wrong(self):
        if self.config.optimizer == "adamw_reference":
            return apply(self)  # the truth
        if fault == "gradient":
            self.parameters[0].grad[0] *= -1
        else:
            self.optimizers[0].param_groups[0]["lr"] *= 1.05
        return apply(self)

    monkeypatch.setattr(Update, "_apply", wrong)
    assert main(TINY) == 1
    printed = capsys.readouterr().out
    assert "WRONG, so no speed is shown: ours is wrong" in printed and "vs" not in printed.split("WRONG")[1]


def test_the_plain_peer_is_the_same_function():
    model = tiny_model(dropout=0.0, n_layers=2, activation="gelu")
    peer = training_race.PlainGPT(model)
    ids, targets = torch.randint(17, (2, 3, 8))
    logits, loss = peer(ids, targets)
    torch.testing.assert_close(logits, model(ids))
    torch.testing.assert_close(loss, model.loss(ids, targets))


def test_a_folder_without_nanogpt_is_refused(tmp_path):
    with pytest.raises(SystemExit, match="nanoGPT's model.py"):
        main([*TINY, "--nanogpt", str(tmp_path)])
