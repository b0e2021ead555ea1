"""The layout's table: tensors that are cut into rows, stacked, or both, there and back."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from llmbook.models.pretrained.files import Checkpoint
from llmbook.models.pretrained.layout import Layout, fill, slots, stored_tensors

STORED = {
    "body.layers.0.gate.weight": (3, 4),
    "body.layers.1.gate.weight": (3, 4),
    **{
        f"body.layers.{layer}.experts.{expert}.{name}.weight": shape
        for layer in range(2)
        for expert in range(3)
        for name, shape in {"w1": (5, 4), "w3": (5, 4), "w2": (4, 5)}.items()
    },
    **{
        f"body.layers.{i}.{name}.weight": (n, 4)
        for i in range(2)
        for name, n in (("q", 6), ("k", 2))
    },
}


class Experts(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate_and_up = nn.Parameter(torch.randn(3, 10, 4))
        self.down = nn.Parameter(torch.randn(3, 4, 5))


class Uneven(nn.Module):
    def __init__(self):
        super().__init__()
        self.packed = nn.Linear(4, 8, bias=False)

    def stored_rows(self):
        return 6, 2


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.router, self.experts, self.uneven = nn.Linear(4, 3, bias=False), Experts(), Uneven()


class Model(nn.Module):
    layout = Layout(
        {
            "layers.*.router": "body.layers.*.gate",
            "layers.*.experts.gate_and_up": (
                "body.layers.*.experts.*.w1.weight",
                "body.layers.*.experts.*.w3.weight",
            ),
            "layers.*.experts.down": "body.layers.*.experts.*.w2.weight",
            "layers.*.uneven.packed": ("body.layers.*.q", "body.layers.*.k"),
        },
        prefix="body.",
    )

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(Layer() for _ in range(2))


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def test_stacked_and_cut_tensors_are_written_one_by_one(tmp_path):
    model = Model()
    stored = stored_tensors(model)
    assert {name: tuple(t.shape) for name, t in stored.items()} == STORED
    experts = model.layers[1].experts
    assert torch.equal(stored["body.layers.1.experts.2.w1.weight"], experts.gate_and_up[2, :5])
    assert torch.equal(stored["body.layers.1.experts.2.w3.weight"], experts.gate_and_up[2, 5:])
    assert torch.equal(stored["body.layers.1.experts.0.w2.weight"], experts.down[0])
    packed = model.layers[0].uneven.packed.weight
    assert torch.equal(stored["body.layers.0.q.weight"], packed[:6])
    assert torch.equal(stored["body.layers.0.k.weight"], packed[6:])
    assert stored["body.layers.0.q.weight"].data_ptr() == packed.data_ptr()  # nothing is copied
    save_file(stored, tmp_path / "parts.safetensors")
    again = load_file(tmp_path / "parts.safetensors")
    assert all(torch.equal(again[name], t) for name, t in stored.items())
    whole = sum(t.nbytes for t in stored.values())
    head = int.from_bytes((tmp_path / "parts.safetensors").read_bytes()[:8], "little")
    assert (tmp_path / "parts.safetensors").stat().st_size == 8 + head + whole


@pytest.mark.parametrize("prefix", ["body.", ""])
def test_what_was_written_is_read_back(prefix, tmp_path):
    model = Model()
    stored = {prefix + k.removeprefix("body."): v for k, v in stored_tensors(model).items()}
    save_file(stored, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    with torch.device("meta"):
        again = Model()
    with Checkpoint(tmp_path) as checkpoint:
        fill(again, checkpoint, torch.float32, torch.device("cpu"))
    for (name, mine), held in zip(model.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(mine, held), name


def test_a_missing_a_further_a_doubled_and_a_misshapen_expert_are_named(tmp_path):
    stored = stored_tensors(Model())
    (tmp_path / "config.json").write_text("{}")
    name = "body.layers.1.experts.2.w1.weight"
    further = name.replace("experts.2", "experts.3")
    for change, message in (
        ({name: None}, f"lacks {name}"),
        ({further: stored[name].clone()}, f"holds the unknown {further}"),
        ({name.removeprefix("body."): stored[name].clone()}, rf"one tensor twice: .*{name[5:]}"),
        ({name: torch.zeros(4, 5)}, rf"{name} .*its shape is \(4, 5\), expected \(5, 4\)"),
    ):
        changed = {k: v for k, v in {**stored, **change}.items() if v is not None}
        save_file(changed, tmp_path / "model.safetensors")
        assert set(load_file(tmp_path / "model.safetensors")) == set(changed)
        with torch.device("meta"):
            model = Model()
        with Checkpoint(tmp_path) as checkpoint, pytest.raises(ValueError, match=message):
            fill(model, checkpoint, torch.float32, torch.device("cpu"))


def test_a_tensor_without_a_line_is_named():
    model = Model()
    model.layers[0].further = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="layout has no line for layers.0.further.weight"):
        slots(model)
