"""SFT's masks and loss beside trl's trainer: recorded, and live where trl is installed."""

import pytest
import torch

from llmbook.alignment import chat, sft
from llmbook.models.gpt import GPT, GPTConfig
from llmbook.models.pretrained import SHIPPED
from llmbook.tokenization import BPETokenizer

TALKS = [
    [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Repeat: owl"},
        {"role": "assistant", "content": "owl"},
        {"role": "user", "content": "In capitals"},
        {"role": "assistant", "content": "OWL"},
    ],
    [{"role": "user", "content": "Sum: 3 + 4"}, {"role": "assistant", "content": "7"}],
    [
        {"role": "user", "content": "Write backwards: lamp"},
        {"role": "assistant", "content": "pmal"},
    ],
]


# What trl 1.16.0's trainer makes of these talks with assistant_only_loss: x where a label counts.
TRL_LOSS = 6.364248
TRL_MASKS = ["...................xxxx...........xxxx", "............xx", "..................xxxx"]


def tokenizer_and_model():
    tokenizer = chat.chat_tokenizer(BPETokenizer.load(SHIPPED / "small"))
    torch.manual_seed(0)
    config = GPTConfig(vocab_size=400, max_len=64, d_model=16, n_layers=2, n_heads=2)
    model = GPT(config).eval()
    with torch.no_grad():  # larger weights, so that a leak or a shift would show
        for p in model.parameters():
            if p.ndim == 2:
                p.mul_(10)
    return tokenizer, model


def test_masks_and_loss_are_those_recorded_from_trl():
    tokenizer, model = tokenizer_and_model()
    encoded = [chat.encode(tokenizer, talk) for talk in TALKS]
    assert ["".join(".x"[c] for c in e.counts) for e in encoded] == TRL_MASKS
    for batch in (sft.collate(encoded), sft.pack(encoded, 64)):
        assert sft.sft_loss(model, *batch).item() == pytest.approx(TRL_LOSS, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("packing", [False, True])
def test_ids_masks_loss_and_gradient_are_those_of_trl(packing, tmp_path):
    trl = pytest.importorskip("trl", reason="pip install llmbook[oracles]")
    datasets = pytest.importorskip("datasets")
    transformers = pytest.importorskip("transformers")
    tokenizer, model = tokenizer_and_model()
    model.save(tmp_path)
    tokenizer.save(tmp_path)
    arguments = trl.SFTConfig(
        output_dir=str(tmp_path / "out"),
        assistant_only_loss=True,
        packing=packing,
        max_length=64,
        per_device_train_batch_size=3,
        use_cpu=True,
        bf16=False,
        report_to=[],
        dataset_num_proc=None,
        eos_token="<|end|>",
        pad_token="<|endoftext|>",
        gradient_checkpointing=False,
        remove_unused_columns=True,
        padding_free=packing,
    )
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    trainer = trl.SFTTrainer(
        model=theirs,
        args=arguments,
        processing_class=transformers.AutoTokenizer.from_pretrained(tmp_path),
        train_dataset=datasets.Dataset.from_dict({"messages": TALKS}),
    )
    encoded = [chat.encode(tokenizer, talk) for talk in TALKS]
    rows = list(trainer.train_dataset)
    if not packing:
        for row, ours in zip(rows, encoded, strict=True):
            assert row["input_ids"] == ours.ids
            assert [label != -100 for label in row["labels"]] == ours.counts
    batch = trainer.data_collator(rows)
    trainer.model.eval()
    loss = trainer.compute_loss(trainer.model, dict(batch))
    loss.backward()
    ours = sft.sft_loss(model, *(sft.pack(encoded, 64) if packing else sft.collate(encoded)))
    ours.backward()
    torch.testing.assert_close(ours, loss.to(ours), atol=1e-5, rtol=0)
    torch.testing.assert_close(
        model.tokens.weight.grad, theirs.transformer.wte.weight.grad, atol=1e-5, rtol=1e-4
    )
    assert loss.item() == pytest.approx(TRL_LOSS, abs=1e-4)
