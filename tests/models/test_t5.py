"""T5 and BART: those of `transformers` on the same weights, their caches, the hub's layouts."""

import pytest
import torch
from helpers.model_oracles import (
    batch,
    close,
    close_gradients,
    loaded,
    parameter_count,
    randomised,
    returned,
    transformers,
)
from safetensors.torch import load_file, save_file

from llmbook.models import load
from llmbook.models.bart import Bart, BartConfig
from llmbook.models.encoder_decoder import shift_right
from llmbook.models.t5 import T5, T5Config

SMALL_T5 = {
    "vocab_size": 101,
    "d_model": 24,
    "d_kv": 6,
    "num_heads": 4,
    "d_ff": 37,
    "num_layers": 2,
    "decoder_start_token_id": 0,
}
SMALL_BART = {
    "vocab_size": 101,
    "d_model": 24,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 37,
    "decoder_ffn_dim": 37,
    "max_position_embeddings": 40,
}
CONFIGS = {
    "T5 1.0": SMALL_T5,
    "T5 1.0, other depths, odd sizes, buckets, eps": {
        **SMALL_T5,
        "d_model": 21,
        "d_kv": 5,
        "num_heads": 3,
        "num_decoder_layers": 3,
        "relative_attention_num_buckets": 8,
        "relative_attention_max_distance": 20,
        "layer_norm_epsilon": 1e-2,
        "vocab_size": 77,
    },
    "T5 1.1": {**SMALL_T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    "mT5 1.1": {**SMALL_T5, "feed_forward_proj": "gated-gelu"},
    "T5 gated-silu": {**SMALL_T5, "feed_forward_proj": "gated-silu"},
    "BART": SMALL_BART,
    "BART untied, scaled, relu": {
        **SMALL_BART,
        "tie_word_embeddings": False,
        "scale_embedding": True,
        "activation_function": "relu",
    },
    "BART, other depths, odd sizes": {
        **SMALL_BART,
        "d_model": 21,
        "encoder_layers": 1,
        "decoder_layers": 3,
        "encoder_attention_heads": 3,
        "decoder_attention_heads": 7,
        "encoder_ffn_dim": 29,
        "activation_function": "gelu_new",
        "vocab_size": 77,
    },
}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def theirs(case):
    library, family = transformers(), case[:2]
    family = {"T5": "T5", "mT": "MT5", "BA": "Bart"}[family]
    config = getattr(library, f"{family}Config")(**CONFIGS[case])
    model = randomised(getattr(library, f"{family}ForConditionalGeneration")(config))
    if "1.1" in case:  # tied by 5.23, and untied again by a file whose head differs
        model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight))
    return model


def pair(vocab_size, sources=30, targets=8):
    ids, mask = batch(vocab_size, tokens=sources, lengths=(sources, 4, 17))
    return ids, mask, torch.randint(3, vocab_size, (3, targets))


@pytest.mark.parametrize("case", CONFIGS)
@torch.no_grad()
def test_logits_and_hidden_states_equal_theirs_in_both_directions(case, tmp_path):
    model = theirs(case)
    ours = loaded(model, tmp_path / "theirs")
    ids, mask, targets = pair(model.config.vocab_size)
    assert not model(input_ids=ids, decoder_input_ids=targets).logits.allclose(torch.zeros(()))
    for seen in (None, mask):
        expected = model(ids, attention_mask=seen, decoder_input_ids=targets)
        close(ours(ids, targets, seen), expected.logits)
        memory, _ = ours.encode(ids, seen)
        close(memory, expected.encoder_last_hidden_state, where=seen)

    back = returned(ours, type(model), tmp_path / "ours")
    expected = model(ids, attention_mask=mask, decoder_input_ids=targets).logits
    assert torch.equal(back(ids, attention_mask=mask, decoder_input_ids=targets).logits, expected)
    assert load(tmp_path / "ours").config == ours.config
    assert ours.config.tied == ("1.1" not in case and "untied" not in case)


@torch.no_grad()
@pytest.mark.parametrize("case", ["T5 1.0", "T5 1.1", "BART"])
def test_cached_logits_equal_uncached_logits(case, tmp_path):
    ours = loaded(theirs(case), tmp_path)
    ids, mask, targets = pair(101)
    full, cache, logits = ours(ids, targets, mask), ours.new_cache(3, 10), []
    for part in targets.split([3, 1, 1, 3], dim=1):
        logits.append(ours(ids if not logits else None, part, mask, cache=cache))
    close(torch.cat(logits, 1), full)

    cache.crop(5)
    close(ours(None, targets[:, 5:], cache=cache), full[:, 5:])
    rows = torch.tensor([2, 2, 0, 1])
    cache.reorder(rows)
    cache.crop(5)
    close(ours(None, targets[rows, 5:], cache=cache), full[rows, 5:])


@torch.no_grad()
def test_a_smoothed_loss_mixes_in_the_mean_over_the_vocabulary():
    for model in (
        T5(T5Config(50, 12, 2, 6, 24, 1, 1)),
        Bart(BartConfig(50, 9, 12, 1, 1, 2, 2, 24, 24)),
    ):
        ids, targets = torch.randint(3, 50, (2, 2, 5))
        plain, smooth = (model.eval().loss(ids, targets, smoothing=e) for e in (0.0, 0.3))
        read = shift_right(targets, model.config.start_id, model.config.pad_id)
        even = -model(ids, read).log_softmax(-1).mean()
        close(smooth, 0.7 * plain + 0.3 * even)


@torch.no_grad()
def test_t5_reads_a_padded_row_as_it_reads_it_alone(tmp_path):
    ours = loaded(theirs("T5 1.0"), tmp_path)
    ids, mask, targets = pair(101)
    alone = ours(ids[1:2, :4], targets[1:2])
    close(ours(ids, targets, mask)[1], alone[0])
    left = ids[1].roll(-4)  # padding on the left
    close(ours(left[None], targets[1:2], mask[1:2].flip(1)), alone)


@pytest.mark.parametrize("case", ["T5 1.0", "T5 1.1", "BART", "BART untied, scaled, relu"])
def test_losses_and_gradients_equal_theirs(case, tmp_path):
    model = theirs(case)
    ours = loaded(model, tmp_path)
    ids, mask, targets = pair(101)
    targets[0, 5:] = -100
    expected = model(ids, attention_mask=mask, labels=targets).loss
    loss = ours.loss(ids, targets, mask)
    close(loss, expected)
    expected.backward()
    loss.backward()
    close_gradients(ours, model)


def test_targets_are_read_shifted_by_one():
    targets = torch.tensor([[5, 6, 1], [7, 1, -100], [1, -100, -100]])
    assert shift_right(targets, 2, 0).tolist() == [[2, 5, 6], [2, 7, 1], [2, 1, 0]]


def test_published_sizes_have_the_published_number_of_parameters():
    assert parameter_count(T5, T5Config()) == 60_506_624
    base = T5Config(d_model=768, n_heads=12, d_ff=3072, n_encoder_layers=12, n_decoder_layers=12)
    assert parameter_count(T5, base) == 222_903_552
    assert parameter_count(Bart, BartConfig()) == 406_291_456


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_hubs_t5_loads(dtype, tmp_path):
    """Embeddings written three times, and a bias in cross-attention that nothing uses."""
    model = theirs("T5 1.0")
    model.save_pretrained(tmp_path)
    tensors = {k: v.to(dtype) for k, v in load_file(tmp_path / "model.safetensors").items()}
    for name in ("encoder.embed_tokens", "decoder.embed_tokens", "lm_head"):
        tensors[f"{name}.weight"] = tensors["shared.weight"].clone()
    unused = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    tensors[unused] = torch.ones(32, 4)
    save_file(tensors, tmp_path / "model.safetensors")
    ids, mask, targets = pair(101)
    model.to(dtype).float()
    expected = model(ids, attention_mask=mask, decoder_input_ids=targets).logits
    close(load(tmp_path)(ids, targets, mask), expected)
    assert load(tmp_path).config.tied

    del tensors["shared.weight"], tensors["lm_head.weight"]  # one of the copies is enough
    save_file(tensors, tmp_path / "model.safetensors")
    close(load(tmp_path)(ids, targets, mask), expected)
    tensors["decoder.embed_tokens.weight"] += 1
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="decoder.embed_tokens.weight .*differs from the weight"):
        load(tmp_path)


@torch.no_grad()
def test_the_hubs_t5_1_1_loads(tmp_path):
    """Its config says tie_word_embeddings false, and nothing of scale_decoder_outputs."""
    import json

    model = theirs("T5 1.1")
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config.pop("scale_decoder_outputs", None)
    (tmp_path / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
    ids, mask, targets = pair(101)
    ours = load(tmp_path)
    expected = model(ids, attention_mask=mask, decoder_input_ids=targets).logits
    close(ours(ids, targets, mask), expected)
    assert not ours.config.scale_output and ours.config.activation == "gelu_tanh"


@torch.no_grad()
def test_the_hubs_bart_loads(tmp_path):
    """Written by the headless class: no `model.` prefix, no head, no final_logits_bias."""
    model = theirs("BART")
    model.final_logits_bias.zero_()
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors.pop("final_logits_bias", None)
    tensors = {k.removeprefix("model."): v for k, v in tensors.items()}
    for name in ("encoder", "decoder"):
        tensors[f"{name}.embed_tokens.weight"] = tensors["shared.weight"].clone()
        tensors[f"{name}.version"] = torch.tensor([3.0])
    save_file(tensors, tmp_path / "model.safetensors")
    text = (tmp_path / "config.json").read_text()
    text = text.replace("BartForConditionalGeneration", "BartModel")
    (tmp_path / "config.json").write_text(text)
    ids, mask, targets = pair(101)
    ours = load(tmp_path)
    expected = model(ids, attention_mask=mask, decoder_input_ids=targets).logits
    close(ours(ids, targets, mask), expected)
    tensors["encoder.layers.5.fc1.bias"] = torch.zeros(37)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="is no Bart: it holds the unknown encoder.layers.5.fc1"):
        load(tmp_path)


@pytest.mark.parametrize("case", ["T5 1.1", "BART"])
def test_initial_weights_are_spread_as_theirs(case):
    """The standard deviation of every weight matrix, for the model as it is born."""
    library, family = transformers(), "T5" if case.startswith("T5") else "Bart"
    sizes = {**CONFIGS[case], "d_model": 96, "vocab_size": 501}
    sizes |= {"d_kv": 24} if family == "T5" else {}
    born = getattr(library, f"{family}ForConditionalGeneration")(
        getattr(library, f"{family}Config")(**sizes)
    )
    config = {"T5": T5, "Bart": Bart}[family].config_from(born.config.to_dict())
    ours = {"T5": T5, "Bart": Bart}[family](config)
    from llmbook.models.pretrained.layout import stored_tensors

    expected, compared = dict(born.named_parameters()), 0
    for name, tensor in stored_tensors(ours).items():
        if tensor.ndim == 2 and tensor.numel() > 1000 and name in expected:
            assert 0.85 < tensor.std() / expected[name].std() < 1.15, name
            compared += 1
        elif "relative_attention_bias" in name:  # a small table
            assert 0.6 < tensor.std() / expected[name].std() < 1.6, name
    assert compared > 20


def test_dropout_only_while_training(tmp_path):
    for case in ("T5 1.0", "BART"):
        ours = loaded(theirs(case), tmp_path / case)
        ids, mask, targets = pair(101)
        assert torch.equal(ours(ids, targets, mask), ours(ids, targets, mask))
        ours.train()
        assert not torch.equal(ours(ids, targets, mask), ours(ids, targets, mask))


def test_bad_input_is_refused_with_what_it_was(tmp_path):
    t5 = T5(T5Config(50, 12, 2, 6, 24, 1, 1))
    bart = Bart(BartConfig(50, 9, 12, 1, 1, 2, 2, 24, 24))
    ids = torch.zeros(2, 10, dtype=torch.long)
    for model in (t5, bart):
        with pytest.raises(TypeError, match="input_ids must be int64"):
            model(ids.float(), ids)
        with pytest.raises(TypeError, match="decoder_input_ids must be a tensor, int64"):
            model(ids[:, :5], None)
        with pytest.raises(ValueError, match=r"attention_mask must .*=5\): got .*\(2, 4\)"):
            model(ids[:, :5], ids[:, :5], torch.ones(2, 4))
        with pytest.raises(ValueError, match="the batch of the source: got 1, expected 2"):
            model(ids[:, :5], ids[:1, :5])
    with pytest.raises(ValueError, match="input_ids must have at most max_len=9 tokens: got 10"):
        bart(ids, ids)
    with pytest.raises(ValueError, match="max_len must be a whole number from 1 to 9: got 10"):
        bart.new_cache(2, 10)
    with pytest.raises(ValueError, match="n_encoder_heads must divide d_model"):
        BartConfig(d_model=10, n_encoder_heads=3)
    theirs("T5 1.0").save_pretrained(tmp_path)
    text = (tmp_path / "config.json").read_text().replace('"relu"', '"halved-relu"')
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match="feed_forward_proj must be .*got 'halved-relu'"):
        load(tmp_path)
