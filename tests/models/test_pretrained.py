"""Loading and saving: which class, whole or in shards, damaged or unsafe folders, hub names."""

import json
import os
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file

from llmbook.data import DownloadFailed
from llmbook.models import load, pretrained, shipped
from llmbook.models.bert import Bert, BertConfig, BertForMaskedLM
from llmbook.models.gpt import GPT, GPTConfig
from llmbook.models.llama import Llama, LlamaConfig
from llmbook.models.pretrained.files import CONFIG, INDEX, SINGLE, write_checkpoint
from llmbook.models.pretrained.generation import generation_from, generation_to

IDS = torch.tensor([[5, 3, 8, 1], [2, 2, 9, 0]])


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def gpt(**changes):
    return GPT(
        GPTConfig(
            **{
                "vocab_size": 21,
                "max_len": 9,
                "d_model": 12,
                "n_layers": 2,
                "n_heads": 2,
                **changes,
            }
        )
    ).eval()


@pytest.fixture
def saved(tmp_path):
    model, folder = gpt(), tmp_path / "gpt"
    model.save(folder)
    return model, folder


def same(a, b):
    with torch.no_grad():
        return torch.equal(a(IDS), b(IDS))


def edit(path, **changes):
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, **changes}))


# --- what stands beside the weights


@pytest.mark.parametrize("existing", [False, True])
def test_how_to_generate_is_written_beside_a_model_and_read_again(existing, tmp_path):
    model = gpt()
    if existing:
        model.save(tmp_path / "a")
    model.generation_config, model.generation_in_config = {"top_k": 3, "new": [1]}, False
    model.save(tmp_path / "a")
    again = load(tmp_path / "a")
    assert again.generation_config == {"top_k": 3, "new": [1]} and not again.generation_in_config


def test_how_to_generate_goes_back_to_where_it_stood(tmp_path):
    assert generation_from(tmp_path, {"top_k": 3, "n_embd": 12}) == ({"top_k": 3}, True)
    assert generation_from(tmp_path, {"n_embd": 12}) == (None, True)
    config = {"n_embd": 12}
    assert generation_to(None, True, config) == (None, config)
    assert generation_to({"top_k": 3}, False, config) == ({"top_k": 3}, config)
    assert generation_to({"top_k": 3}, True, config) == (None, {"n_embd": 12, "top_k": 3})
    both = {"top_k": 3, "new": 1}  # what config.json has no place for needs the file
    assert generation_to(both, True, config) == (both, {"n_embd": 12, "top_k": 3})


def test_the_mode_of_new_files_stays_this_process_s(tmp_path):
    before = os.umask(0o027)
    try:
        gpt().save(tmp_path / "a")
        assert os.umask(0o027) == 0o027
        assert (tmp_path / "a" / SINGLE).stat().st_mode & 0o777 == 0o640
    finally:
        os.umask(before)


def test_a_class_without_a_config_says_so_and_files_are_cut_at_five_gigabytes():
    with pytest.raises(NotImplementedError):
        pretrained.Pretrained.config_from({})
    with pytest.raises(NotImplementedError):
        pretrained.Pretrained().config_to()
    assert pretrained.SHARD_BYTES == 5 * 10**9


# --- whole folders


def test_a_saved_model_loads_the_same(saved):
    model, folder = saved
    again = load(folder)
    assert type(again) is GPT and again.config == model.config and not again.training
    assert same(again, model)
    assert sorted(p.name for p in folder.iterdir()) == [CONFIG, SINGLE]
    assert same(load(str(folder)), model)
    with pytest.raises(ValueError, match="is no Llama|unknown"):
        edit(folder / CONFIG, architectures=["LlamaForCausalLM"], model_type="llama")
        load(folder)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Llama(LlamaConfig(21, 9, 12, 2, 2, d_ff=20)),
        lambda: BertForMaskedLM(BertConfig(21, 9, 12, 2, 2, 20)),
    ],
)
def test_other_families_load_the_same(make, tmp_path):
    model = make().eval()
    model.save(tmp_path / "m")
    again = load(tmp_path / "m")
    assert type(again) is type(model) and again.config == model.config and same(again, model)


def test_the_class_comes_from_architectures_and_else_from_model_type(saved, tmp_path):
    _, folder = saved
    edit(folder / CONFIG, architectures=None)
    assert type(load(folder)) is GPT
    Bert(BertConfig(21, 9, 12, 2, 2, 20)).save(tmp_path / "bert")
    edit(tmp_path / "bert" / CONFIG, architectures=["GPT2LMHeadModel"])
    with pytest.raises(ValueError, match="is no GPT: it lacks .*it holds the unknown"):
        load(tmp_path / "bert")
    for change in (
        {"architectures": ["RwkvForCausalLM"]},
        {"architectures": None, "model_type": "rwkv"},
    ):
        edit(folder / CONFIG, **change)
        with pytest.raises(ValueError, match="unknown architecture .*(Rwkv|rwkv)"):
            load(folder)
    for change in (
        {"architectures": ["MBartForConditionalGeneration"]},
        {"architectures": None, "model_type": "mbart"},
    ):
        edit(folder / CONFIG, **change)
        with pytest.raises(ValueError, match="config.json: MBart.* not supported: it normalises"):
            load(folder)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_files(dtype, saved, tmp_path):
    model, _ = saved
    name = str(dtype).removeprefix("torch.")
    model.save(tmp_path / "half", dtype=name)
    assert {t.dtype for t in load_file(tmp_path / "half" / SINGLE).values()} == {dtype}
    assert json.loads((tmp_path / "half" / CONFIG).read_text())["dtype"] == name
    assert {p.dtype for p in load(tmp_path / "half").parameters()} == {torch.float32}
    assert {p.dtype for p in load(tmp_path / "half", dtype="auto").parameters()} == {dtype}
    assert {p.dtype for p in load(tmp_path / "half", dtype="float64").parameters()} == {
        torch.float64
    }
    rounded = gpt()
    rounded.load_state_dict({k: v.to(dtype) for k, v in model.state_dict().items()})
    assert same(load(tmp_path / "half"), rounded)
    with pytest.raises(ValueError, match="dtype must be a floating-point dtype .*'int8'"):
        load(tmp_path / "half", dtype="int8")
    with pytest.raises(ValueError, match="dtype must be"):
        model.save(tmp_path / "other", dtype="half-ish")
    assert not (tmp_path / "other").exists()


def test_loading_and_counting_leave_the_random_numbers_alone(saved):
    _, folder = saved
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    load(folder)
    with torch.device("meta"):
        assert gpt().n_parameters == sum(p.numel() for p in gpt().parameters())
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("name", ["small", "encoder", "encoder_decoder"])
def test_a_first_load_does_not_wait_for_the_compiler(name, fresh):
    # Drawing weights on the meta device imports torch._dynamo: a second, for values that the files
    # are about to give.
    code = (
        "import sys, torch, llmbook.models; "
        f"llmbook.models.load({name!r}); print('torch._dynamo' in sys.modules)"
    )
    assert fresh(code).stdout.split() == ["False"]


# --- shards


def test_what_changes_a_loaded_weight_stays_in_memory(tmp_path):
    folder = tmp_path / "llama"
    Llama(LlamaConfig(16, 8, 12, 1, 2, d_ff=16)).save(folder)
    first, second = (load(folder).blocks[0].ffn.up.weight for _ in range(2))
    before = first.clone()
    with torch.no_grad():
        first.mul_(2)
    assert torch.equal(second, before)
    assert torch.equal(load(folder).blocks[0].ffn.up.weight, before)


def test_a_model_outlives_its_folder_and_is_saved_over_it(saved, tmp_path):
    _, folder = saved
    model = load(folder)
    want = model(IDS)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(0.5)
    half = model(IDS)
    model.save(folder)
    assert torch.equal(load(folder)(IDS), half)
    for path in folder.iterdir():
        path.unlink()
    assert torch.equal(model(IDS), half) and not torch.equal(half, want)
    model.save(tmp_path / "again")
    assert torch.equal(load(tmp_path / "again")(IDS), half)


def test_shards_load_the_same_and_transformers_reads_them(saved, tmp_path):
    model, _ = saved
    folder = tmp_path / "sharded"
    model.save(folder, shard_bytes=2000)
    index = json.loads((folder / INDEX).read_text())
    files = set(index["weight_map"].values())
    assert len(files) > 2 and {p.name for p in folder.iterdir()} == {CONFIG, INDEX, *files}
    assert index["metadata"]["total_size"] == 4 * model.n_parameters
    assert same(load(folder), model)

    from transformers import GPT2LMHeadModel

    theirs = GPT2LMHeadModel.from_pretrained(folder)
    with torch.no_grad():
        torch.testing.assert_close(theirs(IDS).logits, model(IDS), rtol=0, atol=1e-5)


def test_saving_over_a_model_leaves_only_the_new_one(tmp_path):
    folder, models = tmp_path / "m", [gpt() for _ in range(5)]
    for model, limit in zip(models, [10**9, 2000, 2000, 1500, 10**9], strict=True):
        model.save(folder, shard_bytes=limit)
        (folder / "tokenizer.json").write_text("{}")
        assert same(load(folder), model)
        names = {p.name for p in folder.iterdir()} - {CONFIG, "tokenizer.json"}
        if limit == 10**9:
            assert names == {SINGLE}
        else:
            held = set(json.loads((folder / INDEX).read_text())["weight_map"].values())
            assert names == {INDEX, *held}
    assert (folder / "tokenizer.json").exists()


@pytest.mark.parametrize("before", [10**9, 6000])
@pytest.mark.parametrize("after", [10**9, 6000])
def test_killed_at_any_moment_a_folder_holds_the_old_or_the_new(before, after, tmp_path):
    """Every file operation of a save is made the last one."""
    old, new = gpt(), gpt()
    outcomes = set()
    for n in range(40):
        folder = tmp_path / str(n)
        old.save(folder, shard_bytes=before)
        if not _killed(new, folder, after, n):
            break
        again = load(folder)
        assert same(again, old) or same(again, new), n
        outcomes.add(same(again, new))
    assert n >= 2 and same(load(folder), new)
    assert False in outcomes
    new.save(folder, shard_bytes=after)
    assert same(load(folder), new)


def _killed(model, folder, shard_bytes, n):
    """Save, and stop dead at the n-th rename or removal, before it is done."""
    from pathlib import Path

    class Killed(BaseException):
        pass

    calls = [0]

    def counted(function):
        def call(*args, **kwargs):
            calls[0] += 1
            if calls[0] > n:
                raise Killed
            return function(*args, **kwargs)

        return call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", counted(os.replace))
        patch.setattr(Path, "unlink", counted(Path.unlink))
        try:
            model.save(folder, shard_bytes=shard_bytes)
        except Killed:
            return True
    return False


def test_a_new_folder_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError("no space left")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OSError, match="no space"):
        gpt().save(tmp_path / "new")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="path must be a folder: got the file"):
        gpt().save(tmp_path / "file")


# --- damaged and unsafe folders


def test_a_missing_file_is_named(saved):
    _, folder = saved
    (folder / SINGLE).rename(folder / "elsewhere")
    with pytest.raises(ValueError, match="has no model.safetensors and no"):
        load(folder)
    (folder / CONFIG).unlink()
    with pytest.raises(ValueError, match="has no config.json"):
        load(folder)


@pytest.mark.parametrize("keep", [0, 4, 100, 0.5, -1])
def test_a_truncated_file_is_refused(keep, saved):
    _, folder = saved
    whole = (folder / SINGLE).read_bytes()
    keep = int(keep * len(whole)) if isinstance(keep, float) else keep
    (folder / SINGLE).write_bytes(whole[:keep])
    with pytest.raises(ValueError, match="model.safetensors is cut off, damaged"):
        load(folder)


def test_a_head_that_promises_more_than_there_is_is_refused(saved):
    _, folder = saved
    (folder / SINGLE).write_bytes(struct.pack("<Q", 2**62) + b"{}")
    with pytest.raises(ValueError, match="is cut off, damaged"):
        load(folder)


def test_a_broken_config_is_named(saved):
    _, folder = saved
    good = json.loads((folder / CONFIG).read_text())
    for text, message in [("{", "is no JSON"), ("[1]", "must hold a JSON object: got list")]:
        (folder / CONFIG).write_text(text)
        with pytest.raises(ValueError, match=message):
            load(folder)
    for change, message in [
        ({"n_head": 5}, "config.json: n_head must divide n_embd: got n_embd=12, n_head=5"),
        ({"n_embd": "wide"}, "config.json: n_embd must be a whole number: got 'wide'"),
        ({"n_embd": 24}, r"wte.weight .*doesn't fit config.json: its shape is \(21, 12\)"),
        ({"n_layer": 3}, "is no GPT: it lacks transformer.h.2.attn.c_attn.bias"),
        ({"n_layer": 1}, "it holds the unknown transformer.h.1.attn.c_attn.bias.* and 7 more"),
        ({"quantization_config": {"bits": 4}}, "quantised weights are not supported"),
    ]:
        (folder / CONFIG).write_text(json.dumps({**good, **change}))
        with pytest.raises(ValueError, match=message):
            load(folder)


def test_tensors_that_are_no_floats_are_refused(saved):
    _, folder = saved
    tensors = load_file(folder / SINGLE)
    tensors["transformer.ln_f.bias"] = torch.zeros(12, dtype=torch.int8)
    save_file(tensors, folder / SINGLE)
    with pytest.raises(ValueError, match="ln_f.bias .*must be one of BF16.*got I8"):
        load(folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pkl"])
def test_pickle_is_refused_unread(name, saved):
    _, folder = saved
    (folder / SINGLE).unlink()
    ran = folder / "ran"

    class Bomb:
        def __reduce__(self):
            return (open, (str(ran), "w"))

    torch.save(Bomb(), folder / name)
    with pytest.raises(ValueError, match=f"only as pickle .{name}., which is refused"):
        load(folder)
    with pytest.raises(ValueError, match="a pickle file, which is refused"):
        load(folder / name)
    assert not ran.exists()


@pytest.fixture
def sharded(tmp_path):
    folder = tmp_path / "sharded"
    gpt().save(folder, shard_bytes=2000)
    return folder, json.loads((folder / INDEX).read_text())["weight_map"]


def test_a_missing_shard_is_named(sharded):
    folder, weight_map = sharded
    shard = next(iter(weight_map.values()))
    (folder / shard).unlink()
    with pytest.raises(ValueError, match=f"names {shard}, which is not in"):
        load(folder)


def test_an_index_that_does_not_describe_its_shards_is_refused(sharded):
    folder, weight_map = sharded
    name = next(iter(weight_map))
    for wrong in (
        {k: v for k, v in weight_map.items() if k != name},
        {**weight_map, "transformer.h.9.attn.c_attn.bias": weight_map[name]},
        {**weight_map, name: next(v for v in weight_map.values() if v != weight_map[name])},
    ):
        edit(folder / INDEX, weight_map=wrong)
        with pytest.raises(ValueError, match="doesn't describe|names"):
            load(folder)
    for wrong in ({}, ["a"], None):
        edit(folder / INDEX, weight_map=wrong)
        with pytest.raises(ValueError, match="has no weight_map"):
            load(folder)


@pytest.mark.parametrize(
    "path",
    [
        "../secret.safetensors",
        "/elsewhere/secret.safetensors",
        "a/b.safetensors",
        "..",
        "..\\secret.safetensors",
        "model.bin",
        "",
        7,
    ],
)
def test_an_index_that_points_out_of_its_folder_is_refused(path, sharded, tmp_path):
    folder, weight_map = sharded
    save_file({"x": torch.zeros(1)}, tmp_path / "secret.safetensors")
    name = next(iter(weight_map))
    edit(folder / INDEX, weight_map={**weight_map, name: path})
    with pytest.raises(ValueError, match="must name .safetensors files in its own folder"):
        load(folder)
    before = (tmp_path / "secret.safetensors").read_bytes()
    with pytest.raises(ValueError, match="in its own folder"):
        gpt().save(folder)  # would remove what the index names
    assert (tmp_path / "secret.safetensors").read_bytes() == before


def test_a_read_that_fails_half_way_leaves_no_half_model(saved, monkeypatch):
    from llmbook.models.pretrained.files import Checkpoint

    _, folder = saved
    right, calls = Checkpoint.tensor, [0]

    def failing(self, name):
        calls[0] += 1
        if calls[0] == 9:
            raise OSError("the disk is gone")
        return right(self, name)

    monkeypatch.setattr(Checkpoint, "tensor", failing)
    with pytest.raises(OSError, match="disk is gone"):
        load(folder)


# --- names


def test_names_of_shipped_models_come_first(saved, tmp_path, monkeypatch):
    model, folder = saved
    monkeypatch.setattr(pretrained, "SHIPPED", tmp_path)
    assert shipped() == ["gpt"]
    monkeypatch.chdir(tmp_path)
    assert same(load("gpt"), model) and same(load("./gpt"), model)


def test_a_name_that_is_nowhere_says_where_it_was_looked_for(monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    asked = []

    def unreachable(name, **options):
        asked.append((name, options["revision"]))
        raise LocalEntryNotFoundError("cannot find the files and the Hub is out of reach")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(DownloadFailed, match="'openai/gpt-9' is no folder.*out of reach"):
        load("openai/gpt-9", revision="abc123")
    with pytest.raises(OSError, match="no folder here and no model that comes with the book"):
        load("nonsense")
    assert asked == [("openai/gpt-9", "abc123"), ("nonsense", None)]
    for path in ("./nonsense", "/no/such/folder", "a/b/c", "../x"):
        with pytest.raises(ValueError, match="there is no folder"):
            load(path)
    assert len(asked) == 2


def test_a_hub_name_loads_from_the_folder_that_the_hub_library_fetched(saved, monkeypatch):
    import huggingface_hub

    model, folder = saved
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(folder))
    assert same(load("someone/something"), model)


def test_importing_the_models_needs_neither_transformers_nor_the_hub(fresh):
    code = (
        "import sys, llmbook.models, llmbook.models.bert, llmbook.models.t5, llmbook.models.bart, "
        "llmbook.models.llama, llmbook.models.gpt\n"
        "print([m for m in ('transformers', 'huggingface_hub', 'triton', 'matplotlib') "
        "if m in sys.modules])"
    )
    done = fresh(code)
    assert done.stdout.strip() == "[]", done.stderr


def test_write_checkpoint_refuses_an_impossible_size(tmp_path):
    with pytest.raises(
        ValueError, match="shard_bytes must be a whole number of at least 1: got 0"
    ):
        write_checkpoint(tmp_path / "x", {}, {"a": torch.zeros(1)}, 0)
