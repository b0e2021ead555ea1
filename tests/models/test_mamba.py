"""What is Mamba's and Mamba-2's own; what holds for every decoder is tested there."""

import copy

import pytest
import torch
from helpers.model_oracles import batch, close, loaded, parameter_count, randomised, transformers

from llmbook.decoding import generate
from llmbook.models.mamba import Mamba, MambaConfig, short_convolution
from llmbook.models.mamba2 import Mamba2, Mamba2Config
from llmbook.models.pretrained.layout import stored_tensors
from llmbook.ragged import Texts

SMALL = MambaConfig(vocab_size=50, d_model=16, n_layers=2, d_state=3)
SMALL2 = Mamba2Config(vocab_size=50, d_model=16, n_layers=2, d_state=3, head_dim=8, n_groups=2)
both = pytest.mark.parametrize(("cls", "config"), [(Mamba, SMALL), (Mamba2, SMALL2)])


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def test_the_rank_that_some_expect_is_written_as_theirs():
    own = transformers().Mamba2Config(vocab_size=50, hidden_size=40, num_heads=10, head_dim=8)
    written = Mamba2(Mamba2Config(vocab_size=50, d_model=40, n_layers=1, head_dim=8)).config_to()
    assert written["time_step_rank"] == own.time_step_rank == 3


def test_the_published_size_has_its_number_of_parameters():
    assert parameter_count(Mamba, MambaConfig()) == 129_135_360


@both
@torch.no_grad()
def test_generate_writes_what_the_uncached_model_would(cls, config):
    model = randomised(cls(config))
    ids, _ = batch(50, rows=2, tokens=5, lengths=(5, 5))
    written = generate(model, ids, max_new_tokens=6)
    for _ in range(6):
        ids = torch.cat([ids, model(ids)[:, -1:].argmax(-1)], 1)
    assert torch.equal(written, ids)


@both
@torch.no_grad()
def test_the_cache_has_one_size_for_every_length_and_a_float32_state(cls, config):
    model = cls(config)
    assert model.new_cache(2, 10).nbytes == model.new_cache(2, 10_000).nbytes
    half = copy.deepcopy(model).bfloat16()
    cache = half.new_cache(1, 9)
    half(torch.ones(1, 4, dtype=torch.int64), cache=cache)
    assert cache[0]["state"].dtype == torch.float32
    assert cache[0]["conv"].dtype == torch.bfloat16


@torch.no_grad()
def test_several_tokens_onto_a_warm_cache_equal_theirs_one_at_a_time(tmp_path):
    library = transformers()
    config = library.MambaConfig(vocab_size=50, hidden_size=16, num_hidden_layers=2, state_size=4)
    theirs = randomised(library.MambaForCausalLM(config))
    ours = loaded(theirs, tmp_path)
    ids, _ = batch(50)
    past, logits = None, []
    for t in range(9):
        out = theirs(ids[:, t : t + 1], cache_params=past, use_cache=True)
        past = out.cache_params
        logits.append(out.logits)
    cache = ours.new_cache(3, 9)
    pieces = [ours(ids[:, a:b], cache=cache) for a, b in ((0, 2), (2, 7), (7, 9))]
    close(torch.cat(pieces, 1), torch.cat(logits, 1))


@both
@torch.no_grad()
def test_a_half_precision_state_is_refused(cls, config):
    model = cls(config)
    cache = model.new_cache(1, 4)
    cache[0].states["state"] = cache[0]["state"].half()
    with pytest.raises(TypeError, match="initial_state must be float32"):
        model(torch.ones(1, 4, dtype=torch.int64), cache=cache)


@both
def test_a_prompt_is_not_shared_by_texts_that_are_read_in_order(cls, config):
    ids, all_of_it = torch.ones(2, 4, dtype=torch.int64), torch.ones(2, 4, dtype=torch.bool)
    prompts = torch.tensor([[True, True, False, False]] * 2)
    documents = Texts.of_answers(ids, all_of_it, prompts)
    with pytest.raises(ValueError, match=f"must share no prompt: {cls.__name__} reads a row in"):
        cls(config)(ids, documents=documents)


def test_a_short_convolution_in_documents_sees_its_own_alone():
    x, weight, bias = torch.randn(1, 11, 3), torch.randn(3, 1, 4), torch.randn(3)
    starts = torch.zeros(1, 11, dtype=torch.bool)
    starts[0, [0, 4, 5]] = True
    together, _ = short_convolution(x, weight, bias, starts=starts)
    for at, end in ((0, 4), (4, 5), (5, 11)):
        alone, _ = short_convolution(x[:, at:end], weight, bias)
        torch.testing.assert_close(together[:, at:end], alone)


@torch.no_grad()
def test_names_as_the_authors_wrote_them_are_read(tmp_path):
    from safetensors.torch import save_file

    from llmbook.models import load

    model = randomised(Mamba(SMALL))
    model.save(tmp_path)
    tensors = {
        name.replace("backbone.embeddings", "backbone.embedding"): tensor
        for name, tensor in stored_tensors(model).items()
    }
    save_file(tensors, tmp_path / "model.safetensors")
    ids, _ = batch(50)
    assert torch.equal(load(tmp_path)(ids), model(ids))


def test_a_short_convolution_in_pieces_equals_it_at_once():
    x, weight, bias = torch.randn(2, 11, 3), torch.randn(3, 1, 4), torch.randn(3)
    whole, end = short_convolution(x, weight, bias)
    past, ys = None, []
    for at in (slice(0, 1), slice(1, 3), slice(3, 11)):
        y, past = short_convolution(x[:, at], weight, bias, past)
        ys.append(y)
    torch.testing.assert_close(torch.cat(ys, 1), whole)
    assert torch.equal(past, end)
    torch.testing.assert_close(whole[:, 0], x[:, 0] * weight[:, 0, -1] + bias)


def test_fresh_states_are_the_papers():
    block = Mamba(SMALL).blocks[0]
    assert torch.allclose(-block.A_log.exp()[0], torch.tensor([-1.0, -2.0, -3.0]))
    steps = torch.nn.functional.softplus(Mamba(MambaConfig(vocab_size=9)).blocks[3].dt_proj.bias)
    assert 0.99e-3 < steps.min() < 2e-3
    assert 0.08 < steps.max() < 0.101
    assert -16 <= -Mamba2(SMALL2).blocks[0].A_log.exp().max() <= -1


@pytest.mark.parametrize(
    ("cls", "change", "error", "words"),
    [
        (MambaConfig, {"d_state": 0}, ValueError, "d_state must be a whole number of at least 1"),
        (MambaConfig, {"expand": 1.5}, TypeError, "expand must be a whole number"),
        (MambaConfig, {"dt_max": 1e-4}, ValueError, "dt_max must be"),
        (MambaConfig, {"activation": "x"}, ValueError, "activation must be one of"),
        (Mamba2Config, {"head_dim": 7}, ValueError, "head_dim must divide"),
        (Mamba2Config, {"n_groups": 5}, ValueError, "n_groups must divide n_heads"),
        (Mamba2Config, {"dt_low": 2.0, "dt_high": 1.0}, ValueError, "dt_low must be"),
    ],
)
def test_bad_configs_are_named(cls, change, error, words):
    with pytest.raises(error, match=words):
        cls(**change)


@pytest.mark.parametrize(
    ("cls", "change", "words"),
    [
        (Mamba, {"intermediate_size": 40}, "intermediate_size must be 32"),
        (Mamba, {"state_size": "16"}, "state_size must be a whole number"),
        (Mamba2, {"num_heads": 3}, "num_heads must be 4"),
        (Mamba2, {"time_step_limit": [0.0]}, "time_step_limit must be two numbers"),
        (Mamba2, {"time_step_limit": [0.0, "much"]}, "time_step_limit must be two numbers"),
    ],
)
def test_a_config_json_that_disagrees_is_named(cls, change, words):
    stored = cls(SMALL if cls is Mamba else SMALL2).config_to()
    with pytest.raises(ValueError, match=words):
        cls.config_from({**stored, **change})
