"""The language model in the page: the same tokens, logits, cuts and greedy text as in Python."""

import base64
import json
import shutil
import subprocess

import numpy as np
import pytest
import torch
from helpers.browser import browser, open_widget  # noqa: F401 - fixtures

from llmbook.decoding import generate, probabilities
from llmbook.figures import NextToken
from llmbook.figures.forward import _HERE, WithModel, pack, tokenizer_state
from llmbook.figures.next_token import cut, token_names
from llmbook.models import load
from llmbook.models.gpt import GPT, GPTConfig
from llmbook.models.pretrained import SHIPPED
from llmbook.tokenization import BPETokenizer

TEXTS = [
    "The length of the list is",
    "Return the  value\n\n    if x: it's we'll DON'T 123abc\t\t\n  end ",
    "naïve café – “quoted” 日本語 👩‍🚀 Ⅷ x²",
    "a\u00a0b\u2003c\x85d\ufeffe\x1cf",
    "<|endoftext|><b>&amp;",
    " ",
]


@pytest.fixture(scope="module")
def small():
    return load("small").eval()


@pytest.fixture(scope="module")
def tokenizer():
    return BPETokenizer.load(SHIPPED / "small")


def in_node(program):
    if shutil.which("node") is None:
        pytest.skip("Node is missing: apt-get install nodejs")
    source = "".join((_HERE / name).read_text("utf-8") for name in ("forward.js", "language.js"))
    done = subprocess.run(
        ["node", "-"], input=source + program, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_texts_become_the_same_tokens_and_come_back(tokenizer):
    got = in_node(
        f"\nconst t = makeTokenizer({json.dumps(tokenizer_state(tokenizer))});"
        f"\nconst texts = {json.dumps(TEXTS)};"
        "\nconsole.log(JSON.stringify({ ids: texts.map(t.encode),"
        " back: texts.map((x) => t.decode(t.encode(x))),"
        f" names: Array.from({{ length: {len(tokenizer)} }}, (_, i) => t.name(i)) }}));"
    )
    assert got["ids"] == [tokenizer.encode(text, ()) for text in TEXTS]
    assert got["back"] == TEXTS
    assert got["names"] == token_names(tokenizer)
    assert got["names"][0] == "⊔" and "⟨E2⟩" in got["names"]


def test_the_cuts_are_those_of_the_library():
    g = torch.Generator().manual_seed(3)
    logits = 3 * torch.randn(40, generator=g, dtype=torch.float64)
    for t, k, p, m in (
        (1, 0, 1, 0),
        (0.5, 7, 1, 0),
        (1.7, 0, 0.6, 0),
        (1, 0, 1, 0.2),
        (1.3, 12, 0.8, 0.1),
        (0.1, 0, 0.05, 0),
        (2, 30, 0.95, 0.5),
    ):
        got = in_node(
            f"\nconst logP = logSoftmax({logits.tolist()});"
            f"\nconsole.log(JSON.stringify(cutTo(logP, {t}, {k}, {p}, {m})));"
        )
        want = probabilities(logits, t, k or None, p, m or None)
        np.testing.assert_allclose(got["p"], want, atol=1e-6)
        np.testing.assert_allclose(
            cut(logits.log_softmax(-1).numpy(), t, k, p, m), want, atol=1e-6
        )
        assert got["order"] == (-logits).argsort(stable=True).tolist()


def test_a_draw_is_the_token_under_which_the_number_falls():
    got = in_node(
        "\nconst c = { p: [0.2, 0.5, 0, 0.3], order: [1, 3, 0, 2] };"
        "\nconst chances = [0, 0.499, 0.5, 0.799, 0.81, 0.99999];"
        "\nconsole.log(JSON.stringify(chances.map((u) => drawFrom(c, u))));"
    )
    assert got == [1, 1, 3, 3, 0, 0]


@pytest.mark.parametrize("pieces", [[7], [1] * 7, [3, 1, 3]])
def test_a_gpt_of_odd_sizes_reads_in_any_pieces_and_forgets_what_is_cropped(pieces):
    torch.manual_seed(1)
    model = GPT(GPTConfig(13, 9, 12, 3, 3, eos_id=0)).half().double().eval()
    for p in model.parameters():
        p.data = (p.data + 0.1 * torch.randn(p.shape, dtype=torch.float64)).half().double()
    ids = torch.randint(13, (1, 7))
    with torch.no_grad():
        want = model(ids)[0, -1]
        first = model.norm(model.tokens(ids) + model.positions.weight[:7])[0, -1]
    shapes, packed = pack({k: v for k, v in model.state_dict().items() if k != "head.weight"})
    held = json.dumps({"shapes": shapes, "bytes": base64.b64encode(packed).decode()})
    got = in_node(
        f"\nconst w = unpackWeights({held});"
        "\nconst gpt = makeGPT(w, { n_heads: 3, max_len: 9, eps: 1e-5 });"
        "\ngpt.read([3, 1, 2]); gpt.crop(0);"
        f"\nconst ids = {ids[0].tolist()}, pieces = {pieces};"
        "\nlet found; for (const n of pieces) found = gpt.read(ids.splice(0, n), true);"
        "\nlet full = ''; try { gpt.read([1, 1, 1]); } catch (e) { full = e.message; }"
        "\nconsole.log(JSON.stringify({ logits: [...found.logits], length: gpt.length, full,"
        " lens: found.lens.map((x) => [...x]), attention: found.attention }));"
    )
    np.testing.assert_allclose(got["logits"], want, atol=1e-9)
    assert got["length"] == 7 and "room for 1 to 2" in got["full"]
    assert got["lens"][-1] == got["logits"] and len(got["lens"]) == 4
    np.testing.assert_allclose(got["lens"][0], (first @ model.tokens.weight.T).detach(), atol=1e-9)
    attention = np.array(got["attention"])
    assert attention.shape == (3, 3, 7)
    np.testing.assert_allclose(attention.sum(-1), 1)


def test_the_shipped_model_says_the_same_in_javascript(small, tokenizer):
    ids = [0, *tokenizer.encode(TEXTS[0] + TEXTS[1], ())]
    with torch.no_grad():
        want = small(torch.tensor([ids]))[0]
    shapes, packed = pack({k: v for k, v in small.state_dict().items() if k != "head.weight"})
    held = json.dumps({"shapes": shapes, "bytes": base64.b64encode(packed).decode()})
    got = in_node(
        f"\nconst gpt = makeGPT(unpackWeights({held}), {{ n_heads: 4, max_len: 256, eps: 1e-5 }});"
        f"\nconsole.log(JSON.stringify({ids}.map((id) => [...gpt.read([id]).logits])));"
    )
    assert np.abs(np.array(got) - want.numpy()).max() < 1e-3


def test_what_is_no_model_for_the_page_is_refused(small, tokenizer):
    class Some(WithModel):
        pass

    for model, words, name, message in (
        (torch.nn.Linear(2, 2), tokenizer, "x", "must be a GPT"),
        (small, tokenizer, "", "weights_name"),
        (small, None, "x", "384 tokens: got None"),
        (GPT(GPTConfig(384, 8, 8, 1, 1, tied=False, eos_id=0)), tokenizer, "x", "tied"),
        (GPT(GPTConfig(384, 8, 8, 1, 1)), tokenizer, "x", "eos_id"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            Some(model, words, name, alt="a figure of a model that reads")


# --- in the browser


def live(open_widget, small, tokenizer, **options):
    return open_widget(NextToken.of(small, tokenizer, TEXTS[:1], "small", **options))


def readout(page):
    return page.page.eval_on_selector(".readout", "e => ({...e.dataset})")


@pytest.mark.browser
def test_the_reader_s_text_is_read_as_by_pytorch_and_shown_as_text(open_widget, small, tokenizer):
    page = live(open_widget, small, tokenizer)
    assert readout(page)["live"] == ""
    text = "If <b>x</b> & y, the"
    page.control("prompt").fill(text)
    page.page.wait_for_function("document.querySelector('.readout').dataset.live === '1'")
    ids = [0, *tokenizer.encode(text, ())]
    with torch.no_grad():
        log_p = small(torch.tensor([ids]))[0].log_softmax(-1)
    assert page.page.locator(".token").count() == len(ids)
    assert page.page.locator(".token b, .readout b b").count() == 0
    for id_, p in page.data(".bar", "id", "p"):
        assert p == pytest.approx(log_p[-1, int(id_)].exp().item(), abs=1e-4)
    bits = [b for _, b in page.data(".token", "i", "bits")]
    want = -log_p[:-1].gather(1, torch.tensor(ids[1:])[:, None])[:, 0] / np.log(2)
    np.testing.assert_allclose(bits[1:], want, atol=2e-3)
    page.control("prompt").fill("")
    page.page.wait_for_function("document.querySelector('.readout').dataset.live === ''")
    assert page.page.locator(".token").count() == len(tokenizer.encode(TEXTS[0], ())) + 1


@pytest.mark.browser
def test_its_logits_in_chromium_are_pytorch_s_within_a_thousandth(open_widget, small, tokenizer):
    page = live(open_widget, small, tokenizer)
    for name in ("forward.js", "language.js"):  # the figure keeps its own copy to itself
        page.page.add_script_tag(content=(_HERE / name).read_text("utf-8"))
    ids = [0, *tokenizer.encode(TEXTS[0] + TEXTS[1], ())]
    got = page.page.evaluate(
        """async (ids) => {
          const gpt = makeGPT(await weightsOf(model), model.get("model_config"));
          return ids.map((id) => [...gpt.read([id]).logits]);
        }""",
        ids,
    )
    with torch.no_grad():
        want = small(torch.tensor([ids]))[0].numpy()
    assert np.array(got).shape == want.shape and np.ptp(want) > 10
    assert np.abs(np.array(got) - want).max() < 1e-3


@pytest.mark.browser
def test_it_writes_the_same_greedy_text_and_stops_when_told(
    open_widget, small, tokenizer, record_property
):
    page = live(open_widget, small, tokenizer, top_k=1)
    page.control("write").click()
    page.page.wait_for_function("document.querySelector('.note').dataset.wrote === '40'")
    # told, not judged: time is the machine's
    seconds = page.page.evaluate("Number(document.querySelector('.note').dataset.seconds)")
    record_property("tokens_per_second_in_chromium", round(40 / seconds, 1))
    print(f"in Chromium: {40 / seconds:.0f} tokens/s, computing alone")
    ids = torch.tensor([[0, *tokenizer.encode(TEXTS[0], ())]])
    want = generate(small, ids, max_new_tokens=40, eos_id=())[0].tolist()
    names = token_names(tokenizer)
    shown = page.page.eval_on_selector_all(".token", "els => els.map(e => e.textContent)")
    visible = page.page.evaluate(
        "names => names.map((t) => /^ [^ \\n]+$/.test(t) ? '␣' + t.slice(1)"
        " : t.replaceAll(' ', '␣').replaceAll('\\n', '⏎'))",
        [names[i] for i in want],
    )
    assert shown == visible
    assert "40 tokens written" in page.text(".note")
    page.control("write").click()  # and on, until told
    page.control("write").click()
    count = page.page.locator(".token").count()
    page.page.wait_for_timeout(200)
    assert page.page.locator(".token").count() == count < 41 + len(ids[0]) + 40


@pytest.mark.browser
def test_attention_and_layers_are_the_model_s(open_widget, small, tokenizer):
    page = live(open_widget, small, tokenizer)
    page.control("prompt").fill(TEXTS[0])
    page.pick("inside", "layers")
    page.page.locator(".lens").first.wait_for()
    ids = torch.tensor([[0, *tokenizer.encode(TEXTS[0], ())]])
    states, weights = [], []

    def keep(block, args, out):
        states.append(out)
        x = block.norm1(args[0])
        q, k, _ = block.attention.in_proj(x).chunk(3, -1)
        q, k = (z[0].view(-1, 4, 32).transpose(0, 1) for z in (q, k))
        weights.append((q[:, -1:] @ k.transpose(1, 2) / 32**0.5).softmax(-1)[:, 0])

    hooks = [block.register_forward_hook(keep) for block in small.blocks]
    with torch.no_grad():
        logits = small(ids)[0, -1]
        p = torch.stack([small.head(small.norm(x[0, -1])) for x in states]).softmax(-1)
    for hook in hooks:
        hook.remove()
    best = int(logits.argmax())
    rows = page.data(".lens", "layer", "p", "own")
    assert [int(own) for *_, own in rows[1:]] == p.argmax(-1).tolist()
    np.testing.assert_allclose([value for _, value, _ in rows[1:]], p[:, best], atol=1e-3)
    page.pick("inside", "attention")
    page.page.locator(".weight").first.wait_for()
    got = np.array(page.data(".weight", "weight")).reshape(6, 4, -1)
    np.testing.assert_allclose(got, torch.stack(weights).numpy(), atol=1e-3)


@pytest.mark.browser
def test_what_cannot_be_loaded_is_said_and_the_example_stays(open_widget, small, tokenizer):
    figure = NextToken.of(small, tokenizer, TEXTS[:1], "gone")
    figure.weights = b""
    page = open_widget(figure)
    page.control("write").click()
    page.page.get_by_text("cannot run here").wait_for()
    assert page.page.locator(".bar").count() > 5
    page.problems.clear()
