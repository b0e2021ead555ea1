"""The encoder–decoder Transformer: torch's layers on the same weights, and a cache that agrees."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from llmbook.losses import label_smoothing
from llmbook.models.transformer import DecoderLayer, EncoderLayer, Transformer, TransformerConfig


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


ENCODER = {
    "self_attn.": "attend.sublayer.",
    "norm1.": "attend.norm.",
    "linear1.": "transform.sublayer.up.",
    "linear2.": "transform.sublayer.down.",
    "norm2.": "transform.norm.",
}
DECODER = {
    **ENCODER,
    "multihead_attn.": "cross.sublayer.",
    "norm2.": "cross.norm.",
    "norm3.": "transform.norm.",
}


def renamed(state, names):
    """torch's names for a layer's weights turned into ours."""
    old = {key: next(n for n in names if key.startswith(n)) for key in state}
    return {names[old[key]] + key[len(old[key]) :]: value for key, value in state.items()}


def small(**options):
    sizes = {"d_ff": 40, "n_encoder_layers": 2, "n_decoder_layers": 2, "dropout": 0.0, **options}
    model = Transformer(TransformerConfig(23, 24, 3, **sizes)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))  # biases and norms say something
    return model


def torchs(kind, config):
    layer = kind(
        config.d_model,
        config.n_heads,
        config.d_ff,
        dropout=0.0,
        activation=config.activation,
        batch_first=True,
        norm_first=config.placement == "pre",
    ).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return layer


def compare(out, want, ours, theirs, inputs, names):
    """Outputs and the gradients of inputs and of every weight."""
    torch.testing.assert_close(out, want)
    upstream = torch.randn_like(out)
    got = torch.autograd.grad(out, [*inputs, *ours.parameters()], upstream)
    wanted = torch.autograd.grad(want, [*inputs, *theirs.parameters()], upstream)
    for a, b in zip(got[: len(inputs)], wanted[: len(inputs)], strict=True):
        torch.testing.assert_close(a, b)
    mine = dict(zip(dict(ours.named_parameters()), got[len(inputs) :], strict=True))
    other = dict(zip(dict(theirs.named_parameters()), wanted[len(inputs) :], strict=True))
    for name, value in renamed(other, names).items():
        torch.testing.assert_close(mine[name], value)


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("placement", ["post", "pre"])
def test_layers_equal_torchs_on_the_same_weights_gradients_too(placement, activation):
    config = TransformerConfig(
        23, 24, 3, d_ff=40, placement=placement, activation=activation, dropout=0.0
    )
    keep = torch.tensor([[1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0, 0]]).bool()
    x = torch.randn(2, 7, 24, dtype=torch.float64, requires_grad=True)
    theirs, ours = torchs(nn.TransformerEncoderLayer, config), EncoderLayer(config).double()
    ours.load_state_dict(renamed(theirs.state_dict(), ENCODER))
    out = ours(x, keep[:, None, None])
    compare(out, theirs(x, src_key_padding_mask=~keep), ours, theirs, [x], ENCODER)

    theirs, ours = torchs(nn.TransformerDecoderLayer, config), DecoderLayer(config).double()
    ours.load_state_dict(renamed(theirs.state_dict(), DECODER))
    y = torch.randn(2, 5, 24, dtype=torch.float64, requires_grad=True)
    future = torch.ones(5, 5).triu(1).bool()
    compare(
        ours(y, x, keep[:, None, None]),
        theirs(y, x, tgt_mask=future, memory_key_padding_mask=~keep),
        ours,
        theirs,
        [y, x],
        DECODER,
    )


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@pytest.mark.parametrize("placement", ["post", "pre"])
def test_whole_stacks_equal_torchs_transformer(placement):
    model = small(placement=placement)
    c = model.config
    theirs = (
        nn.Transformer(
            24, 3, 2, 2, 40, dropout=0.0, batch_first=True, norm_first=placement == "pre"
        )
        .double()
        .eval()
    )
    if placement == "post":  # torch ends its stacks with a norm in any case; the paper does not
        theirs.encoder.norm = theirs.decoder.norm = None
    else:
        for name in ("encoder", "decoder"):
            getattr(theirs, name).norm.load_state_dict(getattr(model, f"{name}_norm").state_dict())
    for stack, names in (("encoder", ENCODER), ("decoder", DECODER)):
        for mine, other in zip(getattr(model, stack), getattr(theirs, stack).layers, strict=True):
            mine.load_state_dict(renamed(other.state_dict(), names))
    ids, target = torch.randint(3, c.vocab_size, (2, 7)), torch.randint(3, c.vocab_size, (2, 5))
    from llmbook.positions import sinusoidal

    def embed(tokens):
        return 24**0.5 * model.tokens(tokens) + sinusoidal(tokens.shape[1], 24).double()

    future = torch.ones(5, 5).triu(1).bool()
    want = theirs(embed(ids), embed(target), tgt_mask=future) @ model.tokens.weight.T
    torch.testing.assert_close(model(ids, target), want, rtol=0, atol=1e-6)  # PE is float32


@pytest.mark.parametrize(
    "options",
    [{}, {"placement": "pre"}, {"placement": "pre", "activation": "swiglu", "tied": False}],
)
def test_cached_logits_equal_uncached_and_padding_changes_nothing(options):
    model = small(**options)
    ids, target = torch.randint(3, 23, (2, 6)), torch.randint(3, 23, (2, 9))
    keep = torch.tensor([[1] * 6, [1] * 4 + [0] * 2])
    whole = model(ids, target, keep)
    with torch.no_grad():
        cache = model.new_cache(2, 9)
        parts = [
            model(ids if i == 0 else ids[:, :0], target[:, i:j], keep, cache=cache)
            for i, j in ((0, 1), (1, 4), (4, 5), (5, 9))
        ]
    torch.testing.assert_close(torch.cat(parts, 1), whole)
    assert cache.length == 9
    head_dim = 24 // 3
    assert cache.nbytes == 2 * 2 * 2 * 3 * (9 + 6) * head_dim * 8  # layers, k and v, batch, heads
    torch.testing.assert_close(model(ids[1:, :4], target[1:]), whole[1:])
    left = ids.clone()
    left[1] = torch.cat([torch.zeros(2, dtype=torch.int64), ids[1, :4]])
    torch.testing.assert_close(model(left, target, keep.flip(1)), whole)


def test_a_cache_reordered_and_cropped_continues_the_right_rows():
    model = small(placement="pre")
    ids, target = torch.randint(3, 23, (2, 6)), torch.randint(3, 23, (2, 5))
    keep = torch.tensor([[1] * 6, [0] * 2 + [1] * 4])
    rows = torch.tensor([1, 1, 0])
    with torch.no_grad():
        cache = model.new_cache(2, 8)
        model(ids, target, keep, cache=cache)
        cache.reorder(rows)
        cache.crop(3)
        new = torch.randint(3, 23, (3, 2))
        got = model(ids[rows], new, keep[rows], cache=cache)
        want = model(ids[rows], torch.cat([target[rows, :3], new], 1), keep[rows])[:, 3:]
    torch.testing.assert_close(got, want)


def test_logits_depend_on_the_whole_source_and_on_no_later_target():
    model = small()
    x = torch.randn(1, 7, 24, dtype=torch.float64, requires_grad=True)
    y = torch.randn(1, 5, 24, dtype=torch.float64, requires_grad=True)
    memory, out = x, y
    for layer in model.encoder:
        memory = layer(memory)
    for layer in model.decoder:
        out = layer(out, memory)
    to_x, to_y = torch.autograd.grad(model.head(out)[0, 2, 4], (x, y))
    assert (to_y[:, 3:] == 0).all() and (to_y[:, :3].abs().amax(-1) > 0).all()
    assert (to_x.abs().amax(-1) > 0).all()


def test_embeddings_are_scaled_and_positions_added():
    model = small()
    ids = torch.tensor([[5, 5]])
    out = model.embed(model.tokens, ids, torch.arange(2))
    row = model.tokens.weight[5] * 24**0.5
    torch.testing.assert_close(out[0, 0], row + torch.tensor([0.0, 1.0] * 12).double())
    assert not torch.allclose(out[0, 1], out[0, 0])


@pytest.mark.parametrize("epsilon", [0.0, 0.1, 1.0])
def test_label_smoothing_equals_torchs_forward_and_gradient(epsilon):
    logits = torch.randn(11, 7, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(7, (11,))
    targets[[2, 5]] = -100
    ours = label_smoothing(logits, targets, epsilon)
    theirs = F.cross_entropy(logits, targets, label_smoothing=epsilon)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*(torch.autograd.grad(x, logits)[0] for x in (ours, theirs)))
    with pytest.raises(ValueError, match="smoothing must be a number from 0 to 1: got 1.5"):
        label_smoothing(logits, targets, 1.5)


def test_loss_is_the_cross_entropy_of_what_the_decoder_says_next():
    model = small()
    ids, keep = torch.randint(3, 23, (2, 6)), torch.ones(2, 6)
    targets = torch.tensor([[7, 9, 11, 2], [8, 2, -100, -100]])
    total = 0.0
    for row, n in ((0, 4), (1, 2)):
        start = torch.tensor([[1, *targets[row, : n - 1]]])
        log_p = model(ids[row : row + 1], start).log_softmax(-1)[0]
        total = total - log_p[range(n), targets[row, :n]].sum()
    torch.testing.assert_close(model.loss(ids, targets, keep), total.float() / 6)


def test_parameters_of_the_published_base_model_and_what_tying_saves():
    with torch.device("meta"):
        count = [
            Transformer(TransformerConfig(37_000, tied=tied)).n_parameters
            for tied in (True, False)
        ]
        relu, gated = (
            sum(
                p.numel()
                for p in EncoderLayer(
                    TransformerConfig(9, 48, 4, activation=a)
                ).transform.sublayer.parameters()
            )
            for a in ("relu", "swiglu")
        )
    encoder_layer = 12 * 512**2 + 4 * 512 + 2048 + 512 + 4 * 512
    decoder_layer = encoder_layer + 4 * 512**2 + 4 * 512 + 2 * 512
    assert count[0] == 37_000 * 512 + 6 * (encoder_layer + decoder_layer) == 63_082_496
    assert count[1] - count[0] == 2 * 37_000 * 512
    assert relu - gated == 4 * 48 + 48  # biases, which the gated network has none of


@pytest.mark.parametrize(
    "options", [{}, {"placement": "pre", "activation": "swiglu", "tied": False}]
)
def test_saved_and_loaded_it_says_the_same(tmp_path, options):
    from llmbook import models

    model = small(**options).float()
    model.save(tmp_path / "model")
    again = models.load(tmp_path / "model")
    ids = torch.randint(3, 23, (2, 6))
    assert again.config == model.config and not again.training
    assert again.config_to()["is_encoder_decoder"] is True  # as others ask it
    assert (again.head.weight is again.tokens.weight) is model.config.tied
    assert torch.equal(again(ids, ids), model(ids, ids))


def test_matrices_start_as_glorot_and_bengio_have_them_and_biases_at_0():
    model = Transformer(TransformerConfig(50, 64, 4, d_ff=256, n_encoder_layers=1))
    for layer in (*model.encoder, *model.decoder):
        weight = layer.transform.sublayer.down.weight
        bound = (6 / sum(weight.shape)) ** 0.5
        assert 0.95 * bound < weight.abs().max() <= bound
        assert abs(weight.std() / (bound / 3**0.5) - 1) < 0.03
    biases = [p for name, p in model.named_parameters() if name.endswith("bias")]
    assert biases and not any(bias.any() for bias in biases)


def test_the_same_seed_starts_the_same_and_dropout_is_only_for_training():
    config = TransformerConfig(23, 24, 3, d_ff=40, n_encoder_layers=1, n_decoder_layers=1)
    models = []
    for _ in range(2):
        torch.manual_seed(3)
        models.append(Transformer(config))
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(a, b)
    ids = torch.randint(3, 23, (2, 6))
    assert not torch.equal(models[0](ids, ids), models[0](ids, ids))
    models[0].eval()
    assert torch.equal(models[0](ids, ids), models[0](ids, ids))


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"vocab_size": 0}, ValueError, "vocab_size must be a whole number of at least 1: got 0"),
        ({"d_ff": 2.5}, TypeError, "d_ff must be a whole number of at least 1: got 2.5"),
        ({"n_heads": 5}, ValueError, "n_heads must divide d_model: got d_model=24, n_heads=5"),
        ({"d_model": 27, "n_heads": 3}, ValueError, "d_model must be even: got 27"),
        ({"placement": "middle"}, ValueError, "placement must be one of post, pre: got 'middle'"),
        ({"activation": "tanh"}, ValueError, "activation must be one of"),
        ({"dropout": 1.0}, ValueError, "dropout must be a number .*below 1: got 1.0"),
        ({"eos_id": 23}, ValueError, "eos_id must be a whole number from 0 to 22: got 23"),
    ],
)
def test_configs_that_make_no_sense_are_refused(wrong, error, message):
    with pytest.raises(error, match=message):
        TransformerConfig(**{"vocab_size": 23, "d_model": 24, "n_heads": 3, **wrong})


def test_inputs_that_do_not_fit_are_refused():
    model = small()
    ids = torch.randint(3, 23, (2, 6))
    for bad, error in ((ids.float(), TypeError), (ids[0], ValueError), (ids + 20, ValueError)):
        with pytest.raises(error, match="decoder_input_ids must be (int64|from 0 to .* = 22)"):
            model(ids, bad)
        with pytest.raises(error, match="^input_ids must be (int64|from 0 to .* = 22)"):
            model(bad, ids)
    with pytest.raises(ValueError, match=r"attention_mask must be .*=2, .*=6\): got .*\(2, 5\)"):
        model(ids, ids, torch.ones(2, 5))
    with pytest.raises(ValueError, match="the batch of the source: got 1, expected 2"):
        model(ids, ids[:1])
