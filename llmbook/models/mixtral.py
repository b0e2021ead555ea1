"""Mixtral: Llama with a mixture of experts in each block.

    x = x + Attention(RMSNorm(x));  x = x + MoE(RMSNorm(x)), n_layers times

Attention, norms and embeddings exist once and serve every token; only the feed-forward networks
are many, and a token passes through k of them. Source: Jiang et al. 2024.
"""

from dataclasses import dataclass, fields

from torch import nn

from llmbook.checks import number
from llmbook.models import llama
from llmbook.models.common import check_sizes
from llmbook.models.mistral import windowed
from llmbook.models.pretrained import config_json
from llmbook.models.pretrained.layout import Layout
from llmbook.moe import MoE, MoEConfig, pooled_balance_loss


@dataclass(frozen=True)
class MixtralConfig(llama.LlamaConfig):
    """Sizes and choices of a `Mixtral`; the defaults are Mixtral-8x7B's.

    d_ff: the width inside one expert. k: experts a token. window: a token sees the last `window`
    tokens, itself among them; all when None. balance: weight of the balance loss ("transformers"
    convention, all layers pooled) in `loss`, where with_balance says that it is added. fused: the
    folder it was read from holds all experts of a layer in one tensor, and so will the one saved.
    """

    max_len: int = 131_072
    n_kv_heads: int | None = 8
    d_ff: int = 14_336
    rope_base: float = 1_000_000.0
    bos_id: int | None = 1
    eos_id: int | tuple | None = 2
    n_experts: int = 8
    k: int = 2
    window: int | None = None
    balance: float = 0.001
    with_balance: bool = False
    fused: bool = False

    def __post_init__(self):
        super().__post_init__()
        check_sizes(self, "n_experts", "k")
        if self.window is not None:
            check_sizes(self, "window")
        number("balance", self.balance, least=0)
        self.moe()  # refuses k > n_experts

    def moe(self):
        """The `MoEConfig` of every block."""
        return MoEConfig(
            self.d_model, self.d_ff, self.n_experts, self.k, activation=self.activation
        )


# --- the model


class Block(llama.Block):
    """Attention, then the mixture of experts, each on its normalised input."""

    def feed_forward(self, config):
        """The experts and their router."""
        return MoE(config.moe())

    def forward(self, x, places, cache=None):
        """x (batch, tokens, d_model) → the same, and the `Routing` of its tokens."""
        x = self.attend(x, places, cache)
        out, routing = self.ffn.run(self.norm2(x))
        return x + out, routing

    @property
    def into_stream(self):
        """The weights of what is added to the residual stream."""
        shared = [] if self.ffn.shared is None else [self.ffn.shared.down.weight]
        return [self.attention.out_proj.weight, self.ffn.experts.down_weight, *shared]


class Mixtral(llama.Llama):
    """A decoder-only language model with a mixture of experts: `model(input_ids) → logits`."""

    architecture = "MixtralForCausalLM"
    block = Block

    def reset_parameters(self):
        """As every decoder's; routers and what experts read with deviation 0.02 too."""
        super().reset_parameters()
        for block in self.blocks:
            nn.init.normal_(block.ffn.router.weight, std=0.02)
            nn.init.normal_(block.ffn.experts.in_weight, std=0.02)

    def mask(self, kept, tokens, total, device):
        """Besides padding: nothing further back than the window."""
        seen = super().mask(kept, tokens, total, device)
        return windowed(seen, self.config.window, tokens, total, device)

    def extra_loss(self, extras, kept):
        """The weighted balance loss of all layers, or 0 where the config leaves it out."""
        if not self.config.with_balance:
            return 0.0
        mask = None if kept is None else kept.flatten()
        return self.config.balance * pooled_balance_loss(extras, mask=mask)

    @property
    def active_parameters(self):
        """Parameters that a token's logits depend on; of the tables all is counted."""
        counts = [block.ffn.parameter_counts for block in self.blocks]
        return self.n_parameters - sum(total - active for total, active in counts)

    # --- checkpoints

    @property
    def layout(self):
        names = {**NAMES, **(_FUSED if self.config.fused else _SPLIT)}
        copies = {"lm_head.weight": "tokens.weight"} if self.config.tied else {}
        return Layout(names, prefix="model.", copies=copies)

    @classmethod
    def config_from(cls, stored, checkpoint=None):
        config_json.require(stored, router_jitter_noise=0.0)
        return read_config(MixtralConfig, {**_DEFAULTS, **stored}, _FIELDS, checkpoint)

    def config_to(self):
        content = super().config_to()
        for key in ("attention_bias", "mlp_bias"):  # Mixtral has neither
            del content[key]
        return {**content, **config_json.write(self.config, _FIELDS), "model_type": "mixtral"}


def read_config(config_class, stored, table, checkpoint):
    """A Llama's config from config.json, with the fields of `table` for a class that adds some."""
    base = llama.Llama.config_from(stored)
    shared = {f.name: getattr(base, f.name) for f in fields(base) if f.name not in table}
    names = () if checkpoint is None else checkpoint.names
    fused = any(name.endswith("experts.gate_up_proj") for name in names)
    return config_json.read(config_class, stored, table, **shared, fused=fused)


_FIELDS = {
    "n_experts": "num_local_experts",
    "k": "num_experts_per_tok",
    "window": "sliding_window",
    "balance": "router_aux_loss_coef",
    "with_balance": "output_router_logits",
}
_DEFAULTS = {  # where config.json has none
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 131_072,
    "rope_theta": 1_000_000.0,
    "num_key_value_heads": 8,
    "intermediate_size": 14_336,
}
NAMES = {ours: theirs for ours, theirs in llama.NAMES.items() if ".ffn." not in ours}
_MOE = "model.layers.*.block_sparse_moe"
_SPLIT = {
    "blocks.*.ffn.router": f"{_MOE}.gate",
    "blocks.*.ffn.experts.in_weight": tuple(f"{_MOE}.experts.*.{w}.weight" for w in ("w1", "w3")),
    "blocks.*.ffn.experts.down_weight": f"{_MOE}.experts.*.w2.weight",
}
_FUSED = {
    "blocks.*.ffn.router": "model.layers.*.mlp.gate",
    "blocks.*.ffn.experts.in_weight": "model.layers.*.mlp.experts.gate_up_proj",
    "blocks.*.ffn.experts.down_weight": "model.layers.*.mlp.experts.down_proj",
}
