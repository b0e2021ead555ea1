"""Which published architectures there are, which of our classes each one is, and what is refused.

One row an architecture: config.json's name of it, and what goes with it.
"""

import importlib
from typing import NamedTuple


class Architecture(NamedTuple):
    """One row. where: our class, under llmbook.models. also: other names of the same.

    model_type: the one that means this class where config.json has no `architectures`.
    """

    name: str
    where: str
    model_type: str | None = None
    also: tuple[str, ...] = ()


TABLE = (
    Architecture("GPT2LMHeadModel", "gpt.GPT", "gpt2", ("GPT2Model",)),
    Architecture("BertModel", "bert.Bert", "bert"),
    Architecture("BertForMaskedLM", "bert.BertForMaskedLM"),
    Architecture("BertForPreTraining", "bert.BertForPreTraining"),
    Architecture("BertForNextSentencePrediction", "bert.BertForNextSentencePrediction"),
    Architecture("BertForSequenceClassification", "bert.BertForSequenceClassification"),
    Architecture("BertForTokenClassification", "bert.BertForTokenClassification"),
    Architecture("BertForQuestionAnswering", "bert.BertForQuestionAnswering"),
    Architecture("RobertaModel", "roberta.Roberta", "roberta"),
    Architecture("RobertaForMaskedLM", "roberta.RobertaForMaskedLM"),
    Architecture("RobertaForSequenceClassification", "roberta.RobertaForSequenceClassification"),
    Architecture("RobertaForTokenClassification", "roberta.RobertaForTokenClassification"),
    Architecture("RobertaForQuestionAnswering", "roberta.RobertaForQuestionAnswering"),
    Architecture("DistilBertModel", "distilbert.DistilBert", "distilbert"),
    Architecture("DistilBertForMaskedLM", "distilbert.DistilBertForMaskedLM"),
    Architecture(
        "DistilBertForSequenceClassification", "distilbert.DistilBertForSequenceClassification"
    ),
    Architecture(
        "DistilBertForTokenClassification", "distilbert.DistilBertForTokenClassification"
    ),
    Architecture("DistilBertForQuestionAnswering", "distilbert.DistilBertForQuestionAnswering"),
    Architecture("T5ForConditionalGeneration", "t5.T5", "t5", ("T5Model", "T5WithLMHeadModel")),
    Architecture("MT5ForConditionalGeneration", "t5.MT5", "mt5"),
    Architecture("BartForConditionalGeneration", "bart.Bart", "bart", ("BartModel",)),
    Architecture("LlamaForCausalLM", "llama.Llama", "llama", ("LLaMAForCausalLM",)),
    Architecture("MambaForCausalLM", "mamba.Mamba", "mamba"),
    Architecture("Mamba2ForCausalLM", "mamba2.Mamba2", "mamba2"),
    Architecture("MixtralForCausalLM", "mixtral.Mixtral", "mixtral"),
    Architecture("Qwen2MoeForCausalLM", "qwen2_moe.Qwen2Moe", "qwen2_moe"),
    Architecture("MistralForCausalLM", "mistral.Mistral", "mistral"),
    Architecture("Qwen2ForCausalLM", "qwen.Qwen2", "qwen2"),
    Architecture("Qwen3ForCausalLM", "qwen.Qwen3", "qwen3"),
    Architecture("Transformer", "transformer.Transformer", "transformer"),
)

# what is near enough to one of ours to be tried: (its model_type, why it is another)
REFUSED = {
    "MBartForConditionalGeneration": (
        "mbart",
        "it normalises what a sub-layer reads, and at a stack's end; BART normalises sums",
    ),
    "GPTNeoForCausalLM": ("gpt_neo", "every second layer of it sees a window only, unscaled"),
    "LlamaForSequenceClassification": (
        None,
        "put a head on the loaded decoder: llmbook.models.heads.DecoderHead",
    ),
}

# each module's models as people call them, where that says more than the architecture's name
MODELS = {
    "gpt": "GPT-2 in all sizes, DistilGPT-2",
    "bert": "BERT, and what is built like it",
    "roberta": "RoBERTa",
    "distilbert": "DistilBERT",
    "t5": "T5, T5 1.1, FLAN-T5, mT5",
    "bart": "BART base, large, large-cnn",
    "llama": "Llama 2, 3, 3.1, 3.2, SmolLM2",
    "mistral": "Mistral 7B",
    "qwen": "Qwen2, Qwen2.5, Qwen3, the dense ones",
    "mixtral": "Mixtral 8x7B, 8x22B",
    "qwen2_moe": "Qwen1.5-MoE, Qwen2's with experts",
    "mamba": "Mamba",
    "mamba2": "Mamba-2",
    "transformer": "the Transformer of 2017: a folder of our own",
}


def table():
    """What `load` reads and `save` writes, and what is refused: two tables in markdown."""
    rows = ["| models | `architectures` in config.json | class |", "|---|---|---|"]
    for module, models in MODELS.items():
        held = [row for row in TABLE if row.where.partition(".")[0] == module]
        names = ", ".join(f"`{row.name}`" for row in held)
        rows.append(f"| {models} | {names} | `llmbook.models.{module}` |")
    rows += ["", "| refused | because |", "|---|---|"]
    rows += [f"| `{name}` | {reason} |" for name, (_, reason) in REFUSED.items()]
    rows.append("| a `quantization_config` | quantised weights are not read |")
    rows.append("| `pytorch_model.bin` and other pickle files | reading one can run any code |")
    return "\n".join(rows)


def model_class(config, architecture=None):
    """The class for a config.json's content: by `architectures`, else by `model_type`.

    architecture: the name that counts instead. Raises ValueError for one that is not known.
    """
    named, model_type = config.get("architectures"), config.get("model_type")
    name = architecture
    if name is None and named:
        name = named[0] if isinstance(named, list) else named
    for row in TABLE:
        if name in (row.name, *row.also) or (name is None and model_type == row.model_type):
            module, _, cls = row.where.partition(".")
            return getattr(importlib.import_module(f"llmbook.models.{module}"), cls)
    for refused, (kind, reason) in REFUSED.items():
        if name == refused or (name is None and kind is not None and model_type == kind):
            raise ValueError(f"{refused} is not supported: {reason}")
    raise ValueError(
        f"unknown architecture {name!r} (model_type {model_type!r}): known are "
        f"{', '.join(row.name for row in TABLE)}"
    )
