"""Batches of conversations and their loss: the mask, the shift, packing."""

import pytest
import torch
import torch.nn.functional as F

from llmbook.alignment import sft
from llmbook.alignment.chat import Encoded
from llmbook.losses import IGNORED
from llmbook.models.gpt import GPT, GPTConfig
from llmbook.models.llama import Llama, LlamaConfig
from llmbook.models.mamba import Mamba, MambaConfig
from llmbook.models.mistral import Mistral
from llmbook.seeds import generator
from llmbook.training import TrainConfig, train


def conversations(n=7, vocab_size=50, seed=0):
    """Random ones of 4 to 20 tokens, some of which count."""
    draw, out = generator(seed), []
    for _ in range(n):
        size = int(torch.randint(4, 21, (1,), generator=draw))
        ids = torch.randint(1, vocab_size, (size,), generator=draw).tolist()
        counts = (torch.rand(size, generator=draw) < 0.5).tolist()
        out.append(Encoded(ids, [*counts[:-1], True]))
    return out


def gpt():
    torch.manual_seed(0)
    return GPT(GPTConfig(vocab_size=50, max_len=64, d_model=16, n_layers=2, n_heads=2)).double()


def llama():
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=50, d_model=16, n_layers=2, n_heads=2, d_ff=32)
    return Llama(config).double()


def by_hand(model, encoded):
    """−log p of every token that counts, one conversation at a time, one token at a time."""
    out = []
    for c in encoded:
        nats = []
        for t in range(1, len(c.ids)):
            if c.counts[t]:
                log_p = model(torch.tensor([c.ids[:t]]))[0, -1].log_softmax(-1)
                nats.append(-log_p[c.ids[t]])
        out.append(nats)
    return out


def test_targets_are_the_next_token_where_it_counts():
    one = Encoded([5, 6, 7, 8], [False, False, True, True])
    assert sft.targets_of(one) == ([5, 6, 7], [IGNORED, 7, 8])


@pytest.mark.parametrize(
    "batch", [sft.collate, lambda c: sft.pack(c, 40)], ids=["padded", "packed"]
)
@pytest.mark.parametrize("make", [gpt, llama])
def test_the_loss_is_that_of_each_conversation_alone_token_by_token(make, batch):
    model, encoded = make(), conversations()
    nats = by_hand(model, encoded)
    tokens = torch.stack([x for row in nats for x in row]).mean()
    rows = torch.stack([torch.stack(row).mean() for row in nats]).mean()
    found = sft.sft_loss(model, *batch(encoded))
    torch.testing.assert_close(found, tokens, atol=1e-10, rtol=0)
    found = sft.sft_loss(model, *batch(encoded), mean="sequences")
    torch.testing.assert_close(found, rows, atol=1e-10, rtol=0)
    assert abs(tokens - rows) > 1e-3, "the two means must differ here"


@pytest.mark.parametrize("make", [gpt, llama])
@pytest.mark.parametrize("mean", sft.MEANS)
def test_packing_changes_neither_loss_nor_gradient(make, mean):
    model, encoded = make().float(), conversations()
    losses, gradients = [], []
    for batch in (sft.collate(encoded), sft.pack(encoded, 40)):
        model.zero_grad()
        loss = sft.sft_loss(model, *batch, mean=mean)
        loss.backward()
        losses.append(loss)
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    torch.testing.assert_close(*losses, atol=1e-5, rtol=0)
    for padded, packed in zip(*gradients, strict=True):
        torch.testing.assert_close(padded, packed, atol=1e-5, rtol=0)


def test_without_the_document_mask_packed_texts_leak_into_each_other():
    model, encoded = gpt(), conversations()
    ids, targets, documents = sft.pack(encoded, 40)
    apart = sft.sft_loss(model, ids, targets, documents)
    leaking = model.loss(ids, targets)
    assert abs(apart - leaking) > 1e-4


def test_a_row_takes_what_fits_and_nothing_is_lost_or_cut():
    encoded = conversations(40)
    ids, targets, documents = sft.pack(encoded, 30)
    rows = []
    for row, numbers in zip(ids, documents):
        for number in range(1, int(numbers.max()) + 1):
            rows.append(tuple(row[numbers == number].tolist()))
    assert sorted(rows) == sorted(tuple(c.ids[:-1]) for c in encoded)
    wanted = sum(sum(c.counts[1:]) for c in encoded)
    assert (targets != IGNORED).sum() == wanted
    assert (documents > 0).float().mean() > 0.9, "rows must be nearly full"
    assert (targets[documents == 0] == IGNORED).all()


def test_a_sliding_window_holds_within_a_document():
    config = LlamaConfig(vocab_size=50, d_model=16, n_layers=1, n_heads=2, d_ff=32)
    from llmbook.models.mistral import MistralConfig

    fields = {
        k: getattr(config, k) for k in ("vocab_size", "d_model", "n_layers", "n_heads", "d_ff")
    }
    torch.manual_seed(0)
    model, encoded = Mistral(MistralConfig(**fields, window=4)).double(), conversations()
    padded = sft.sft_loss(model, *sft.collate(encoded))
    torch.testing.assert_close(sft.sft_loss(model, *sft.pack(encoded, 40)), padded)


def test_accumulated_micro_batches_weigh_tokens_not_rows():
    encoded = conversations(8)
    found = []
    for accumulate in (1, 4):
        model = gpt().float()
        config = TrainConfig(
            steps=1, batch_size=8, accumulate=accumulate, lr=0.1, optimizer="adamw", warmup=0
        )
        train(
            model,
            lambda step: sft.collate(encoded),
            config,
            loss=sft.sft_loss,
            count=sft.count_answer_tokens,
        )
        found.append(model.blocks[0].ffn.up.weight)
    torch.testing.assert_close(*found, atol=1e-4, rtol=0)


def test_each_epoch_goes_through_all_conversations_in_another_order():
    encoded = conversations(12)
    batches = sft.Conversations(encoded, 4, seed=1)

    def epoch(e):
        rows = [r for s in range(3) for r in zip(*batches(3 * e + s)[::2])]
        return [tuple(ids[numbers > 0].tolist()) for ids, numbers in rows]

    everything = sorted(tuple(c.ids[:-1]) for c in encoded)
    assert sorted(epoch(0)) == sorted(epoch(1)) == everything
    assert epoch(0) != epoch(1)
    assert all(map(torch.equal, batches(5), sft.Conversations(encoded, 4, seed=1)(5)))
    across = sft.Conversations(encoded, 5, length=64)  # a batch from two epochs
    assert (across(2)[2] > 0).any()


def test_a_state_keeps_packed_conversations_apart():
    torch.manual_seed(0)
    model = Mamba(MambaConfig(vocab_size=50, d_model=8, n_layers=2))
    packed = sft.sft_loss(model, *sft.pack(conversations(), 40))
    torch.testing.assert_close(packed, sft.sft_loss(model, *sft.collate(conversations())))


# --- what is refused


def test_documents_and_a_mask_or_a_bad_shape_are_refused():
    model, (ids, _, documents) = gpt(), sft.collate(conversations())
    with pytest.raises(ValueError, match="give one"):
        model(ids, ids > 0, documents=documents)
    with pytest.raises(ValueError, match="documents must be"):
        model(ids, documents=documents[:, 1:])
    with pytest.raises(TypeError, match="documents must be"):
        model(ids, documents=documents.bool())


def test_bad_conversations_are_refused():
    silent = Encoded([1, 2, 3], [True, False, False])
    with pytest.raises(ValueError, match="must have a token that counts"):
        sft.collate([silent])
    with pytest.raises(ValueError, match="length=3 must hold the longest"):
        sft.pack(conversations(), 3)
    with pytest.raises(ValueError, match="one or more"):
        sft.collate([])
    with pytest.raises(TypeError, match="must be Encoded"):
        sft.collate([[1, 2, 3]])
    with pytest.raises(ValueError, match="batch_size must be at most the 3"):
        sft.Conversations(conversations(3), 4)
    with pytest.raises(ValueError, match="mean must be one of"):
        sft.sft_loss(gpt(), *sft.collate(conversations()), mean="rows")


def test_ignored_places_do_not_move_the_loss():
    model, (ids, targets, documents) = gpt(), sft.collate(conversations())
    logits = model(ids, documents=documents)
    kept = targets != IGNORED
    expected = F.cross_entropy(logits[kept], targets[kept])
    torch.testing.assert_close(sft.sft_loss(model, ids, targets, documents), expected)
