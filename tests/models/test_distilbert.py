"""DistilBERT: every head equal to that of `transformers`, loaded from it and back."""

import pytest
import torch
from helpers.model_oracles import batch, close, loaded, randomised, returned, transformers

from llmbook.models import load
from llmbook.models.distilbert import DistilBert, DistilBertConfig, DistilBertForMaskedLM

HEADS = {
    "Model": "last_hidden_state",
    "ForMaskedLM": "logits",
    "ForSequenceClassification": "logits",
    "ForTokenClassification": "logits",
    "ForQuestionAnswering": "start_logits",
}


def theirs(head, **changes):
    torch.manual_seed(0)
    library = transformers()
    sizes = {"vocab_size": 101, "dim": 24, "n_heads": 4, "n_layers": 2, "hidden_dim": 37}
    sizes |= {"max_position_embeddings": 33, "qa_dropout": 0.3, "seq_classif_dropout": 0.4}
    sizes |= {"num_labels": 5} if "Classification" in head else {}
    config = library.DistilBertConfig(**sizes, **changes)
    return randomised(getattr(library, f"DistilBert{head}")(config))


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("changes", [{}, {"activation": "relu", "tie_word_embeddings": False}])
@torch.no_grad()
def test_every_head_equals_theirs_in_both_directions(head, changes, tmp_path):
    model = theirs(head, **changes)
    ours = loaded(model, tmp_path / "theirs")
    ids, mask = batch(101)
    found, expected = ours(ids, mask), model(ids, attention_mask=mask)[HEADS[head]]
    found = found[..., 0] if "Question" in head else found
    close(found, expected, where=None if "Sequence" in head else mask)
    back = returned(ours, type(model), tmp_path / "ours")
    assert torch.equal(back(ids)[HEADS[head]], model(ids)[HEADS[head]])
    assert back.config.qa_dropout == 0.3 and back.config.seq_classif_dropout == 0.4


def test_each_head_has_its_own_dropout(tmp_path):
    for head, p in (("Sequence", 0.4), ("Token", 0.1)):
        name = f"For{head}Classification"
        assert loaded(theirs(name), tmp_path / head).dropout.p == p
    assert loaded(theirs("ForQuestionAnswering"), tmp_path / "qa").dropout.p == 0.3


def test_a_masked_models_folder_loads_as_the_body_alone(tmp_path):
    model = theirs("ForMaskedLM")
    ours, ids = loaded(model, tmp_path), batch(101)[0]
    with torch.no_grad():
        close(
            load(tmp_path, architecture="DistilBertModel")(ids),
            model.distilbert(ids).last_hidden_state,
        )
    with pytest.raises(ValueError, match="segment_ids must be None: this model has no segm"):
        ours(ids, segment_ids=torch.zeros_like(ids))


def test_the_published_size_has_the_published_number_of_parameters():
    with torch.device("meta"):
        model = DistilBertForMaskedLM(DistilBertConfig())
        body = DistilBert(DistilBertConfig())
    assert model.n_parameters == 66_985_530 and body.n_parameters == 66_362_880


def test_an_answers_dropout_is_a_share_and_by_default_theirs():
    assert DistilBertConfig().answer_dropout == transformers().DistilBertConfig().qa_dropout
    with pytest.raises(ValueError, match="answer_dropout must be .* below 1: got 1"):
        DistilBertConfig(answer_dropout=1.0)
