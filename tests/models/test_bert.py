"""BERT and RoBERTa: those of `transformers` on the same weights, every head, the hub's layouts."""

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
from llmbook.models.bert import (
    Bert,
    BertConfig,
    BertForMaskedLM,
    BertForPreTraining,
    BertForSequenceClassification,
    BertForTokenClassification,
)
from llmbook.models.roberta import RobertaConfig, RobertaForMaskedLM

CONFIGS = {
    "tied": {"hidden_size": 24, "num_attention_heads": 4},
    "untied, odd sizes, eps": {
        "hidden_size": 21,
        "num_attention_heads": 3,
        "layer_norm_eps": 1e-3,
        "intermediate_size": 37,
        "tie_word_embeddings": False,
    },
    "relu, one segment": {
        "hidden_size": 10,
        "num_attention_heads": 1,
        "hidden_act": "relu",
        "type_vocab_size": 1,
        "pad_token_id": 2,
    },
    "gelu_new": {
        "hidden_size": 16,
        "num_attention_heads": 8,
        "hidden_act": "gelu_new",
        "layer_norm_eps": 1e-5,
        "num_hidden_layers": 1,
        "vocab_size": 77,
    },
}
HEADS = [
    "Model",
    "ForMaskedLM",
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForQuestionAnswering",
]
OUTPUTS = (
    "last_hidden_state",
    "prediction_logits",
    "seq_relationship_logits",
    "logits",
    "start_logits",
    "end_logits",
)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def theirs(architecture, case="tied", **changes):
    sizes = {
        "vocab_size": 101,
        "num_hidden_layers": 2,
        "intermediate_size": 48,
        "max_position_embeddings": 33,
        **CONFIGS[case],
        **changes,
    }
    library = transformers()
    family = "Roberta" if architecture.startswith("Roberta") else "Bert"
    config = getattr(library, f"{family}Config")(**sizes)
    return randomised(getattr(library, architecture)(config))


def outputs(model, ids, mask=None, segment_ids=None):
    """What a model of theirs returns, as a list of tensors."""
    out = model(ids, attention_mask=mask, token_type_ids=segment_ids)
    return [out[name] for name in OUTPUTS if name in out]


def ours_as_list(out):
    if isinstance(out, tuple):
        return list(out)
    return list(out.unbind(-1)) if out.shape[-1] == 2 and out.ndim == 3 else [out]


@torch.no_grad()
def check(architecture, case, tmp_path, **changes):
    model = theirs(architecture, case, **changes)
    ours = loaded(model, tmp_path / "theirs")
    ids, mask = batch(model.config.vocab_size, low=0)
    pad = model.config.pad_token_id
    ids = ids.masked_fill(ids == pad, 3).masked_fill(mask == 0, pad)  # RoBERTa looks for pad_id
    segments = None
    if model.config.type_vocab_size > 1:
        segments = torch.randint(0, 2, ids.shape)
    for args in ((ids, None, None), (ids, mask, segments)):
        expected = outputs(model, *args)
        got = ours(args[0], args[1], segment_ids=args[2])
        for mine, other in zip(ours_as_list(got), expected, strict=True):
            close(mine, other)
    back = returned(ours, type(model), tmp_path / "ours")
    for again, other in zip(outputs(back, ids, mask), outputs(model, ids, mask), strict=True):
        assert torch.equal(again, other)
    return ours


@pytest.mark.parametrize("case", CONFIGS)
@pytest.mark.parametrize("head", ["ForMaskedLM", "ForPreTraining"])
def test_bert_equals_theirs_in_both_directions(head, case, tmp_path):
    ours = check(f"Bert{head}", case, tmp_path)
    shared = ours.head.output.weight is ours.body.tokens.weight
    assert shared == ours.config.tied == ("untied" not in case)


@pytest.mark.parametrize("case", CONFIGS)
def test_roberta_equals_theirs_in_both_directions(case, tmp_path):
    ours = check("RobertaForMaskedLM", case, tmp_path)
    first = ours.config.first_position
    assert first == ours.config.pad_id + 1 and ours.config.max_len == 33 - first


@pytest.mark.parametrize("family", ["Bert", "Roberta"])
@pytest.mark.parametrize("head", HEADS)
def test_every_head_equals_theirs_in_both_directions(family, head, tmp_path):
    labels = {"num_labels": 5} if "Classification" in head else {}
    check(f"{family}{head}", "tied", tmp_path, pad_token_id=1, **labels)


def test_next_sentence_head_equals_theirs(tmp_path):
    check("BertForNextSentencePrediction", "tied", tmp_path)


@torch.no_grad()
def test_pooled_output_equals_theirs(tmp_path):
    model = theirs("BertModel")
    ids, mask = batch(101)
    ours = loaded(model, tmp_path)
    close(ours.pool(ours(ids, mask)), model(ids, attention_mask=mask).pooler_output)


def test_names_of_classes_survive(tmp_path):
    names = {0: "O", 1: "B-PER", 2: "I-PER"}
    model = theirs(
        "BertForTokenClassification", id2label=names, label2id={v: k for k, v in names.items()}
    )
    ours = loaded(model, tmp_path / "theirs")
    assert ours.config.labels == ("O", "B-PER", "I-PER")
    assert returned(ours, type(model), tmp_path / "ours").config.id2label == names


def test_losses_and_gradients_equal_theirs(tmp_path):
    model = theirs("BertForPreTraining", "untied, odd sizes, eps")
    ours = loaded(model, tmp_path)
    ids, mask = batch(101)
    segments = torch.randint(0, 2, ids.shape)
    targets = torch.where(torch.rand(ids.shape) < 0.4, ids, -100).masked_fill(mask == 0, -100)
    is_random = torch.tensor([1, 0, 1])
    expected = model(
        ids,
        attention_mask=mask,
        token_type_ids=segments,
        labels=targets,
        next_sentence_label=is_random,
    ).loss
    loss = ours.loss(ids, targets, is_random, mask, segment_ids=segments)
    close(loss, expected)
    expected.backward()
    loss.backward()
    close_gradients(ours, model)


def test_masked_loss_equals_theirs_roberta_too(tmp_path):
    for family in ("Bert", "Roberta"):
        model = theirs(f"{family}ForMaskedLM", pad_token_id=1)
        ours = loaded(model, tmp_path / family)
        ids, mask = batch(101)
        targets = torch.where(torch.rand(ids.shape) < 0.4, ids, -100)
        close(ours.loss(ids, targets, mask), model(ids, attention_mask=mask, labels=targets).loss)


@torch.no_grad()
def test_padding_changes_nothing():
    ours = Bert(BertConfig(101, 33, 24, 2, 4, 48)).eval()
    ids, mask = batch(101)
    close(ours(ids, mask)[1, :4], ours(ids[1:2, :4])[0])


def test_published_sizes_have_the_published_number_of_parameters():
    assert parameter_count(Bert, BertConfig()) == 109_482_240
    assert parameter_count(BertForPreTraining, BertConfig()) == 110_106_428
    large = BertConfig(d_model=1024, n_layers=24, n_heads=16, d_ff=4096)
    assert parameter_count(Bert, large) == 335_141_888


@torch.no_grad()
def test_robertas_defaults_are_the_published_base_model_s():
    with torch.device("meta"):
        assert RobertaForMaskedLM(RobertaConfig()).n_parameters == 124_697_433
    assert (RobertaConfig().eps, RobertaConfig().pad_id) == (1e-5, 1)
    assert RobertaConfig(pad_id=0).first_position == 1
    with pytest.raises(ValueError, match="pad_id must be a whole number of at least 0: got -1"):
        RobertaConfig(pad_id=-1)


def test_the_hubs_bert_loads_as_any_of_its_classes(tmp_path):
    """`gamma`/`beta`, all pre-training heads, the `bert.` prefix, a config that says MaskedLM."""
    model = theirs("BertForPreTraining")
    model.save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    old = {}
    for name, tensor in stored.items():
        name = name.replace("LayerNorm.weight", "LayerNorm.gamma")
        old[name.replace("LayerNorm.bias", "LayerNorm.beta")] = tensor
    old["bert.embeddings.position_ids"] = torch.arange(33)[None]
    assert "cls.predictions.transform.LayerNorm.gamma" in old
    save_file(old, tmp_path / "model.safetensors")
    text = (tmp_path / "config.json").read_text().replace("BertForPreTraining", "BertForMaskedLM")
    (tmp_path / "config.json").write_text(text)

    ids, mask = batch(101)
    expected, nsp = outputs(model, ids, mask)
    ours = load(tmp_path)
    assert type(ours) is BertForMaskedLM
    close(ours(ids, mask), expected)
    close(load(tmp_path, architecture="BertForPreTraining")(ids, mask)[1], nsp)
    body = load(tmp_path, architecture="BertModel")
    close(body(ids, mask), model.bert(ids, attention_mask=mask).last_hidden_state)
    with pytest.raises(ValueError, match="is no BertForTokenClassification: it lacks classifier"):
        load(tmp_path, architecture="BertForTokenClassification")

    old["bert.encoder.layer.7.output.dense.bias"] = torch.zeros(24)
    save_file(old, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="holds the unknown bert.encoder.layer.7.output.dense"):
        load(tmp_path)


def test_a_new_head_stands_on_a_copy_of_a_body():
    source = BertForPreTraining(BertConfig(101, 33, 24, 2, 4, 48))
    tagger = BertForTokenClassification.on(source, labels=("O", "B", "I"))
    ids, _ = batch(101)
    with torch.no_grad():
        close(tagger.eval().body(ids), source.eval().body(ids))
    assert tagger(ids).shape == (3, 9, 3)
    classifier = BertForSequenceClassification.on(source)
    assert torch.equal(classifier.pooler.weight, source.pooler.weight)
    tagger(ids).sum().backward()
    assert all(p.grad is None for p in source.parameters())
    assert tagger.body.tokens.weight is not source.body.tokens.weight


def test_initial_weights_are_small_and_a_guess_is_nearly_uniform():
    config = BertConfig(1001, 33, 64, 4, 4, 256, dropout=0.0, attention_dropout=0.0)
    model = BertForMaskedLM(config)
    for name, p in model.named_parameters():
        if p.ndim == 2:
            assert 0.015 < p.std() < 0.025, name
        else:
            assert (p == (1 if "norm.weight" in name else 0)).all(), name
    ids, _ = batch(1001)
    loss = model.loss(ids, ids)
    assert abs(loss.item() - torch.tensor(1001.0).log().item()) < 0.3


def test_dropout_only_while_training():
    model = Bert(BertConfig(101, 33, 24, 2, 4, 48))
    ids, _ = batch(101)
    assert not torch.equal(model(ids), model(ids))
    model.eval()
    assert torch.equal(model(ids), model(ids))


def test_bad_input_is_refused_with_what_it_was(tmp_path):
    model = Bert(BertConfig(101, 33, 24, 2, 4, 48))
    ids, mask = batch(101)
    with pytest.raises(ValueError, match="at most max_len=33 tokens: got 34"):
        model(torch.zeros(1, 34, dtype=torch.long))
    with pytest.raises(TypeError, match="input_ids must be int64 .*float32"):
        model(torch.zeros(1, 4))
    with pytest.raises(ValueError, match=r"attention_mask must be .*=3, .*=9\): got .*\(3, 8\)"):
        model(ids, mask[:, 1:])
    with pytest.raises(ValueError, match="an encoder has no cache"):
        model(ids, cache=[])
    with pytest.raises(ValueError, match="n_heads must divide d_model: got d_model=24, n_heads=5"):
        BertConfig(d_model=24, n_heads=5)
    with pytest.raises(ValueError, match="pad_id must be a whole number from 0 to 100: got 101"):
        BertConfig(101, pad_id=101)
    with pytest.raises(ValueError, match="dropout must be a number .* below 1: got 1.0"):
        BertConfig(dropout=1.0)
    theirs("RobertaModel", max_position_embeddings=2).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="max_position_embeddings must be above 2: got 2"):
        load(tmp_path)
    theirs("BertModel", is_decoder=True).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="config.json: is_decoder must be False"):
        load(tmp_path)
