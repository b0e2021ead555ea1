"""Interactive: GPT's block; each part turns into today's at a click, with what that costs."""

import traitlets

from llmbook.checks import one_of, whole

from .interactive import Interactive

HEAD_DIM, GROUP = 64, 4  # of the counts; queries that share keys and values
WIDTHS = (256, 512, 768, 1024, 2048, 4096, 8192)
PARTS = ("rms", "unbiased", "rotary", "gated", "qk_norm", "grouped")  # True: today's


class BlockChanger(Interactive):
    """A decoder's block as buttons; parameters, bytes of cache and recorded losses of the mix.

    width, layers, context: the sizes that are counted, heads of 64. rms, unbiased, rotary, gated,
    qk_norm, grouped: whether that part is today's. losses: {"010010": {rate: [loss of each
    seed]}}, recorded, one digit a part in that order, 1 where it is today's; a mix that is not in
    it was not trained. Raises ValueError for sizes and keys that do not fit.
    """

    script = "blocks.js"
    alt = traitlets.Unicode(
        "A decoder's block as a column of buttons: positions, norms, queries and keys, heads, "
        "network, biases. Each turns from GPT's into today's and back. Beside it parameters and "
        "bytes of cache at sizes that sliders set, and the recorded loss of the mix."
    ).tag(sync=True)
    width = traitlets.Int(768).tag(sync=True)
    layers = traitlets.Int(12).tag(sync=True)
    context = traitlets.Int(1024).tag(sync=True)
    losses = traitlets.Dict().tag(sync=True)
    rms = traitlets.Bool(False).tag(sync=True)
    unbiased = traitlets.Bool(False).tag(sync=True)
    rotary = traitlets.Bool(False).tag(sync=True)
    gated = traitlets.Bool(False).tag(sync=True)
    qk_norm = traitlets.Bool(False).tag(sync=True)
    grouped = traitlets.Bool(False).tag(sync=True)

    def __init__(self, losses, *, width=768, layers=12, context=1024, **state):
        width = one_of("width", width, WIDTHS)
        layers = whole("layers", layers, least=1, most=96)
        context = whole("context", context, least=128, most=2**20)
        for key in losses:
            if len(key) != len(PARTS) or set(key) - {"0", "1"}:
                raise ValueError(f"losses' keys must be {len(PARTS)} digits, 0 or 1: got {key!r}")
        rows = {key: {str(r): list(v) for r, v in found.items()} for key, found in losses.items()}
        super().__init__(losses=rows, width=width, layers=layers, context=context, **state)

    def counts(self):
        """{"parameters" of a block, "all" of the stack with positions and last norm, "cache"}.

        cache: bytes of keys and values of `context` tokens, 16 bits a number. The table of tokens
        is not counted.
        """
        d, bias = self.width, not self.unbiased
        heads = d // HEAD_DIM
        kv = HEAD_DIM * (heads // GROUP if self.grouped else heads)
        norm = d * (2 if bias and not self.rms else 1)
        attention = 2 * d * d + 2 * d * kv + bias * (2 * d + 2 * kv) + 2 * HEAD_DIM * self.qk_norm
        if self.gated:
            inner = 8 * -(-d // 3)
            network = 3 * d * inner + bias * (2 * inner + d)
        else:
            network = 8 * d * d + bias * 5 * d
        block = attention + network + 2 * norm
        positions = 0 if self.rotary else self.context * d
        return {
            "parameters": block,
            "all": self.layers * block + norm + positions,
            "cache": self.layers * 2 * kv * self.context * 2,
        }
