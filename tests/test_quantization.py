"""Quantised weights: within half a step of their own, a quarter or an eighth of the bytes."""

import pytest
import torch
from helpers.decoding_subject import sharpened
from torch import nn

from llmbook.decoding import generate
from llmbook.models.gpt import GPT, GPTConfig
from llmbook.models.llama import Llama, LlamaConfig
from llmbook.models.transformer import Transformer, TransformerConfig
from llmbook.quantization import (
    QuantizedLinear,
    block_scaled,
    hadamard,
    load_quantized,
    quantize,
    quantize_weight,
    save_quantized,
)

IDS = torch.tensor([[5, 9, 3, 11], [4, 7, 1, 2]])


def gpt(**options):
    torch.manual_seed(0)
    return sharpened(GPT(GPTConfig(17, 40, 24, 2, 3, **options)))


def llama():
    torch.manual_seed(0)
    sizes = {"d_model": 24, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "d_ff": 37}
    return sharpened(Llama(LlamaConfig(vocab_size=17, max_len=40, **sizes)))


@pytest.mark.parametrize("bits, group", [(8, 32), (4, 8), (4, 5), (4, 64)])
@pytest.mark.parametrize("d_in", [1, 24, 33])
def test_every_weight_is_within_half_a_step_of_its_own(bits, group, d_in):
    g = torch.Generator().manual_seed(0)
    weight = torch.randn(7, d_in, generator=g) * torch.logspace(-3, 3, 7)[:, None]
    weight[2] = 0
    layer = QuantizedLinear(weight, bits=bits, group=group)
    most, size = (127, d_in) if bits == 8 else (7, group)
    for channel in range(7):
        for begin in range(0, d_in, size):
            own = weight[channel, begin : begin + size]
            got = layer.dequantized()[channel, begin : begin + size]
            step = own.abs().max() / most
            assert ((own - got).abs() <= step / 2 * (1 + 1e-5)).all()
            torch.testing.assert_close(got.abs().max(), own.abs().max())  # the largest is exact
    q, _ = quantize_weight(weight, bits, group)
    assert q.abs().max() == most and q.dtype == torch.int8


def test_the_output_is_that_of_the_rounded_weights():
    g = torch.Generator().manual_seed(1)
    weight, bias = torch.randn(9, 33, generator=g), torch.randn(9, generator=g)
    x = torch.randn(2, 3, 33, generator=g)
    for bits in (8, 4):
        layer = QuantizedLinear(weight, bias, bits=bits, group=8)
        want = x.double() @ layer.dequantized().double().T + bias.double()
        torch.testing.assert_close(layer(x).double(), want, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(layer(x[0, 0]), layer(x)[0, 0])
        some = layer(x, slice(2, 5))
        torch.testing.assert_close(some, layer(x)[..., 2:5])
        half = layer(x.bfloat16())
        assert half.dtype == torch.bfloat16
        torch.testing.assert_close(half.double(), want, atol=0.15, rtol=0.02)


@pytest.mark.parametrize("rows", [1, 3, 8])
@pytest.mark.parametrize("d_out, d_in", [(16, 32), (48, 96), (9, 33), (16, 24), (20, 32)])
def test_bfloat16_on_a_cpu_gives_the_same_by_the_kernel(d_out, d_in, rows):
    g = torch.Generator().manual_seed(1)
    layer = QuantizedLinear(torch.randn(d_out, d_in, generator=g), torch.randn(d_out, generator=g))
    x = torch.randn(rows, 2, d_in, generator=g).bfloat16()
    want = x.double() @ layer.dequantized().double().T + layer.bias.double()
    assert (layer(x).double() - want).abs().max() < 0.02 * want.abs().max()
    assert layer._fused(x, slice(None)) == (d_in % 32 == d_out % 16 == 0)


def test_bytes_are_a_quarter_and_an_eighth():
    weight = torch.randn(64, 128)
    for bits, numbers, scales in ((8, 64 * 128, 64), (4, 64 * 64, 64 * 4)):
        layer = QuantizedLinear(weight, bits=bits)
        got = sum(b.numel() * b.element_size() for b in layer.buffers())
        assert got == numbers + 4 * scales


@pytest.mark.parametrize("bits, off", [(8, 0.05), (4, 0.8)])
@pytest.mark.parametrize("build", [gpt, llama])
def test_a_model_stays_near_itself_and_writes(build, bits, off):
    model = build()
    before = model(IDS)
    names = {n for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    assert quantize(model, bits, group=8) is model
    assert names and not any(isinstance(m, nn.Linear) for m in model.modules())
    error = (model(IDS) - before).std() / before.std()
    assert 0 < error < off
    cached = generate(model, IDS, max_new_tokens=6)
    assert torch.equal(cached, generate(model, IDS, max_new_tokens=6, use_cache=False))


def test_cross_attention_is_quantised_too():
    torch.manual_seed(0)
    config = TransformerConfig(17, 24, 3, n_encoder_layers=1, n_decoder_layers=1)
    model = sharpened(Transformer(config))
    before = model(IDS, IDS)
    error = (quantize(model)(IDS, IDS) - before).std() / before.std()
    assert 0 < error < 0.05
    cached = generate(model, IDS, max_new_tokens=6)
    assert torch.equal(cached, generate(model, IDS, max_new_tokens=6, use_cache=False))


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("skip", [(), ("head",)])
@pytest.mark.parametrize("build", [gpt, llama])
def test_a_file_gives_back_the_same_model(build, skip, bits, tmp_path):
    model, file = quantize(build(), bits, group=8, skip=skip), tmp_path / "model.safetensors"
    save_quantized(model, file, skip=skip)
    fresh = build()
    for parameter in fresh.parameters():
        nn.init.normal_(parameter)
    other = load_quantized(fresh, file).eval()
    assert torch.equal(other(IDS), model(IDS))
    assert isinstance(other.head, nn.Linear) == bool(skip)
    whole = sum(p.numel() * p.element_size() for p in build().parameters())
    assert file.stat().st_size < whole


def test_a_change_of_dtype_leaves_the_scales():
    model = quantize(gpt()).bfloat16()
    layer = model.blocks[0].ffn.up
    assert layer.scale.dtype == torch.float32 and layer.weight.dtype == torch.int8
    assert model.new_cache(1, 3)[0].keys.dtype == torch.bfloat16
    assert model(IDS).dtype == torch.bfloat16
    assert generate(model, IDS, max_new_tokens=3).shape == (2, 7)


def test_what_makes_no_sense_is_refused(tmp_path):
    with pytest.raises(ValueError, match="bits must be one of 8, 4: got 3"):
        quantize(gpt(), 3)
    with pytest.raises(ValueError, match="group must be a whole number of at least 1: got 0"):
        quantize(gpt(), 4, group=0)
    with pytest.raises(ValueError, match="skip must name modules of the model: got 'tail'"):
        quantize(gpt(), skip=("tail",))
    with pytest.raises(ValueError, match="linear layers to quantise: got none"):
        quantize(quantize(gpt()))
    with pytest.raises(ValueError, match="model must be quantised"):
        save_quantized(gpt(), tmp_path / "a.safetensors")
    save_quantized(quantize(gpt()), tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="must be of this model's shape: they differ in"):
        load_quantized(llama(), tmp_path / "a.safetensors")
    (tmp_path / "b.safetensors").write_bytes(b"no")
    with pytest.raises(ValueError, match="b.safetensors is cut off, damaged"):
        load_quantized(gpt(), tmp_path / "b.safetensors")


# --- small floating-point numbers


def test_fp8_is_torch_s_float8_behind_a_power_of_two():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(50, 32, generator=g) * torch.exp(4 * torch.randn(50, 32, generator=g))
    scale = 2.0 ** (x.abs().amax(-1, keepdim=True).log2().floor() - 8)
    want = (x / scale).clamp(-448, 448).to(torch.float8_e4m3fn).float() * scale
    assert torch.equal(block_scaled(x, "fp8"), want)


def test_fp4_has_sixteen_numbers_and_takes_the_nearest():
    own = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
    fine = torch.linspace(-7.9, 7.9, 1000)
    x = torch.cat([fine[:, None], torch.full((1000, 1), 4.0)], 1)  # the 4 sets the scale to 1
    got = block_scaled(x, "fp4", 2)[:, 0]
    both = torch.cat([own, -own])
    nearest = (fine[:, None] - both).abs().amin(1)
    torch.testing.assert_close((fine - got).abs(), nearest)
    assert set(got.tolist()) <= set(both.tolist())
    ties = torch.tensor([[0.25, 0.75, 2.5, 5.0, 4.0]])  # to the number whose last bit is 0
    assert block_scaled(ties, "fp4", 5).tolist() == [[0.0, 1.0, 2.0, 4.0, 4.0]]


@pytest.mark.parametrize("form, error", [("fp8", 2**-3), ("fp4", 0.25)])
def test_each_block_has_its_own_scale_and_the_last_may_be_short(form, error):
    x = torch.randn(3, 5, 41, generator=torch.Generator().manual_seed(1))
    x[..., 16:32] *= 2.0**40
    x[..., 32:] *= 2.0**-40
    got = block_scaled(x, form, 16)
    assert got.shape == x.shape
    for i in range(0, 41, 16):
        part = slice(i, i + 16)
        assert torch.equal(got[..., part], block_scaled(x[..., part], form, 16))
        largest = x[..., part].abs().amax(-1, keepdim=True)
        assert ((got - x)[..., part].abs() <= error * largest).all()
    assert torch.equal(block_scaled(torch.zeros(2, 8)), torch.zeros(2, 8))
    assert torch.equal(block_scaled(got, form, 16), got)


def test_a_rotation_keeps_products_and_spreads_one_large_number():
    for n in (1, 2, 64):
        h = hadamard(n)
        torch.testing.assert_close(h @ h.T, torch.eye(n))
        assert torch.allclose(h.abs(), torch.full((n, n), n**-0.5))
    x, w = torch.randn(5, 64), torch.randn(7, 64)
    x[:, 3] += 40
    h = hadamard(64)
    torch.testing.assert_close((x @ h) @ (w @ h).T, x @ w.T, rtol=1e-4, atol=1e-4)
    plain, turned = ((z - block_scaled(z)).square().mean() for z in (x, x @ h))
    assert turned < 0.5 * plain


def test_bad_formats_are_refused():
    for call, message in (
        (lambda: block_scaled(torch.ones(2), "fp6"), "form must be one of"),
        (lambda: block_scaled(torch.ones(2), block=0), "block must be a whole number"),
        (lambda: hadamard(12), "power of two: got 12"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
