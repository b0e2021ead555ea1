"""The classical errors, each put into the library once: the test that is there for it fails."""

import importlib
import importlib.util
import sys
import types
from pathlib import Path

import pytest

from llmbook.book.root import find_root

HERE = Path(__file__).parent
ROOT = find_root(HERE)
KL_NOTED = ("test_collapse", "test_the_divergence_noted_is_that_of_whole_answers_by_hand")
TRL = ("test_grpo", "test_losses_and_gradients_are_trl_s")
MUTATIONS = {  # name: (module, what stands there, the error, (file, test), the test's arguments)
    "sign of the KL, in PPO's reward": (
        "ppo",
        "-beta * (log_probs - reference_log_probs)",
        "beta * (log_probs - reference_log_probs)",
        ("test_ppo", "test_the_reward_stands_at_the_last_token_and_the_penalty_at_each"),
        {},
    ),
    "sign of the KL, in GRPO's loss": (
        "grpo",
        "terms + config.beta * kl",
        "terms - config.beta * kl",
        TRL,
        {"form": "grpo", "beta": 0.1, "weighted": False},
    ),
    "sign of the KL that GRPO notes": (
        "grpo",
        "(rollouts.log_probs - reference).sum(-1)",
        "(reference - rollouts.log_probs).sum(-1)",
        KL_NOTED,
        {"name": "grpo"},
    ),
    "missing detach, PPO's reward": (
        "ppo",
        ", 0.0).detach()\n",
        ", 0.0)\n",
        ("test_ppo", "test_the_reward_stands_at_the_last_token_and_the_penalty_at_each"),
        {},
    ),
    "missing detach, DPO's reference": (
        "dpo",
        "@torch.no_grad()\ndef with_reference",
        "def with_reference",
        ("test_dpo", "test_at_the_first_step_the_loss_is_log_2_and_the_rewards_are_0"),
        {},
    ),
    "mean for sum, an answer's log-probability": (
        "dpo",
        "targets).sum(-1).unflatten",
        "targets).mean(-1).unflatten",
        ("test_dpo", "test_a_batch_s_log_probs_are_sums_over_the_answer_and_its_end_alone"),
        {},
    ),
    "mean for sum, GRPO's KL": ("grpo", ".sum(-1).mean()", ".mean()", KL_NOTED, {"name": "grpo"}),
    "mean for sum, PPO's KL": ("ppo", ".sum(-1).mean()", ".mean()", KL_NOTED, {"name": "ppo"}),
    "mean for sum, online DPO's KL": (
        "dpo",
        ".sum(-1).mean()",
        ".mean()",
        KL_NOTED,
        {"name": "online"},
    ),
    "unmasked padding, GRPO": (
        "grpo",
        "terms = torch.where(mask, terms, 0.0)",
        "pass",
        TRL,
        {"form": "grpo", "beta": 0.0, "weighted": False},
    ),
    "unmasked padding, PPO's policy": (
        "ppo",
        "torch.where(mask, torch.max(free, cut), 0.0)",
        "torch.max(free, cut)",
        ("test_ppo", "test_padding_has_no_part_in_either_loss"),
        {},
    ),
    "unmasked padding, PPO's values": (
        "ppo",
        "torch.where(mask, error, 0.0)",
        "error",
        ("test_ppo", "test_padding_has_no_part_in_either_loss"),
        {},
    ),
    "unmasked padding, whitening": (
        "ppo",
        "torch.where(mask, x, 0.0).sum() / n",
        "x.sum() / n",
        ("test_ppo", "test_whitening_takes_the_mean_away_or_keeps_it_and_padding_has_no_part"),
        {},
    ),
    "GAE off by one, its own value ahead": (
        "ppo",
        "gamma * ahead - values[:, t]",
        "gamma * values[:, t] - values[:, t]",
        ("test_ppo", "test_a_second_example_by_hand"),
        {},
    ),
    "GAE off by one, the last value ahead": (
        "ppo",
        "ahead = advantage = torch.zeros_like(values[:, 0])",
        "ahead, advantage = values[:, -1], torch.zeros_like(values[:, 0])",
        ("test_ppo", "test_gae_on_worked_numbers"),
        {},
    ),
    "advantage not centred, GRPO": (
        "grpo",
        "groups - groups.mean(-1, keepdim=True)",
        "groups",
        ("test_grpo", "test_advantages_by_hand"),
        {},
    ),
    "advantage not centred, PPO": (
        "ppo",
        "white = (x - mean) / (",
        "white = x / (",
        ("test_ppo", "test_whitening_takes_the_mean_away_or_keeps_it_and_padding_has_no_part"),
        {},
    ),
}


def run(test, arguments):
    """A test of this folder, on the library as it stands in `sys.modules`."""
    file, name = test
    spec = importlib.util.spec_from_file_location(f"mutated_{file}", HERE / f"{file}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    getattr(module, name)(**arguments)


@pytest.mark.parametrize("error", MUTATIONS)
def test_a_classical_error_fails_the_test_that_is_there_for_it(error, monkeypatch):
    name, right, wrong, test, arguments = MUTATIONS[error]
    run(test, arguments)
    path = ROOT / "llmbook" / "alignment" / f"{name}.py"
    source = path.read_text(encoding="utf-8")
    assert source.count(right) == 1, f"{path} has changed: {right!r}"
    full = f"llmbook.alignment.{name}"
    mutant = types.ModuleType(full)
    monkeypatch.setitem(sys.modules, full, mutant)
    exec(compile(source.replace(right, wrong), path, "exec"), mutant.__dict__)
    with pytest.raises(AssertionError):
        run(test, arguments)
