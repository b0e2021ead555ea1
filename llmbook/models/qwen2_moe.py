"""Qwen2-MoE: many small experts, one that every token visits, and weights that don't sum to 1.

    MoE(x) = Σ_{i chosen} p_i(x) · expert_i(x) + σ(g·x) · shared(x),  p = softmax over all experts

Against Mixtral: the softmax comes before the choice (unless config.json says norm_topk_prob), the
shared expert stands behind a gate of its own, and queries, keys and values have biases. Source:
Qwen team 2024.
"""

from dataclasses import dataclass

from llmbook.models import mixtral
from llmbook.models.pretrained import config_json
from llmbook.models.pretrained.layout import Layout
from llmbook.moe import MoEConfig


@dataclass(frozen=True)
class Qwen2MoeConfig(mixtral.MixtralConfig):
    """Sizes and choices of a `Qwen2Moe`; the defaults are Qwen1.5-MoE-A2.7B's.

    d_shared: the shared expert's width. normalised: softmax over the chosen, as in Mixtral.
    """

    vocab_size: int = 151_936
    max_len: int = 32_768
    d_model: int = 2048
    n_layers: int = 24
    n_heads: int = 16
    n_kv_heads: int | None = None
    d_ff: int = 1408
    eps: float = 1e-6
    attention_bias: bool = True
    bos_id: int | None = None
    eos_id: int | tuple | None = None
    n_experts: int = 60
    k: int = 4
    d_shared: int = 5632
    normalised: bool = False

    def moe(self):
        """The `MoEConfig` of every block."""
        return MoEConfig(
            self.d_model,
            self.d_ff,
            self.n_experts,
            self.k,
            router="softmax_after" if self.normalised else "softmax_before",
            d_shared=self.d_shared,
            shared_gate=True,
            activation=self.activation,
        )


class Block(mixtral.Block):
    """As Mixtral's; the biases are those of queries, keys and values alone."""

    def __init__(self, config, rotary):
        super().__init__(config, rotary)
        self.attention.out_proj.register_parameter("bias", None)


class Qwen2Moe(mixtral.Mixtral):
    """A language model with a shared and routed experts: `model(input_ids) → logits`."""

    architecture = "Qwen2MoeForCausalLM"
    block = Block

    @property
    def layout(self):
        names = {**mixtral.NAMES, **_MOE, **(_FUSED if self.config.fused else _SPLIT)}
        copies = {"lm_head.weight": "tokens.weight"} if self.config.tied else {}
        return Layout(names, prefix="model.", copies=copies)

    @classmethod
    def config_from(cls, stored, checkpoint=None):
        config_json.require(
            stored, use_sliding_window=False, decoder_sparse_step=1, mlp_only_layers=[]
        )
        return mixtral.read_config(Qwen2MoeConfig, {**_DEFAULTS, **stored}, _FIELDS, checkpoint)

    def config_to(self):
        content = super().config_to()
        for key in ("num_local_experts", "sliding_window"):  # Mixtral's
            del content[key]
        return {
            **content,
            **config_json.write(self.config, _FIELDS),
            "intermediate_size": self.config.d_ff,  # of dense blocks, which there are none
            "use_sliding_window": False,
            "model_type": "qwen2_moe",
        }


_FIELDS = {
    "d_ff": "moe_intermediate_size",
    "n_experts": "num_experts",
    "k": "num_experts_per_tok",
    "d_shared": "shared_expert_intermediate_size",
    "normalised": "norm_topk_prob",
    "attention_bias": "qkv_bias",
    "balance": "router_aux_loss_coef",
    "with_balance": "output_router_logits",
}
_DEFAULTS = {  # where config.json has none
    "hidden_size": 2048,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "max_position_embeddings": 32_768,
    "qkv_bias": True,
}
_AT = "model.layers.*.mlp"
_MOE = {
    "blocks.*.ffn.router": f"{_AT}.gate",
    "blocks.*.ffn.shared.gate": f"{_AT}.shared_expert.gate_proj",
    "blocks.*.ffn.shared.up": f"{_AT}.shared_expert.up_proj",
    "blocks.*.ffn.shared.down": f"{_AT}.shared_expert.down_proj",
    "blocks.*.ffn.shared_gate": f"{_AT}.shared_expert_gate",
}
_SPLIT = {
    "blocks.*.ffn.experts.in_weight": tuple(
        f"{_AT}.experts.*.{name}_proj.weight" for name in ("gate", "up")
    ),
    "blocks.*.ffn.experts.down_weight": f"{_AT}.experts.*.down_proj.weight",
}
_FUSED = {
    "blocks.*.ffn.experts.in_weight": f"{_AT}.experts.gate_up_proj",
    "blocks.*.ffn.experts.down_weight": f"{_AT}.experts.down_proj",
}
