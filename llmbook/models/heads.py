"""A linear head on a decoder: a class for each token, a reward for a text, a value for each place.

    out_t = W h_t + b,  h_t = the decoder's final hidden state at place t

Attention is causal, so out_t has read the text up to t: the last token's has read all of it.
"""

import torch
from torch import nn

from llmbook.checks import whole


class DecoderHead(nn.Module):
    """`model(input_ids, attention_mask)` → n_outputs numbers a token, from a decoder's states.

    decoder: any `llmbook.models.decoder.Decoder`; its body is trained along, its own head over the
    vocabulary is left aside. n_outputs: the classes, or 1 for a reward or a value. The fresh
    weights are drawn as `nn.Linear` draws them; std: normal with this standard deviation instead,
    and bias 0 (a value that starts at 0 wants a small one).
    """

    reads_source = False

    def __init__(self, decoder, n_outputs=1, *, bias=True, std=None):
        super().__init__()
        whole("n_outputs", n_outputs, least=1)
        self.decoder = decoder
        self.output = nn.Linear(decoder.config.d_model, n_outputs, bias=bias)
        if std is not None:
            nn.init.normal_(self.output.weight, std=std)
            if bias:
                nn.init.zeros_(self.output.bias)
        self.output.to(next(decoder.parameters()))

    @property
    def config(self):
        """The decoder's."""
        return self.decoder.config

    @property
    def checkpointing(self):
        """The decoder's: keep each block's input only, and compute the rest again."""
        return self.decoder.checkpointing

    @checkpointing.setter
    def checkpointing(self, value):
        self.decoder.checkpointing = value

    def forward(self, input_ids, attention_mask=None):
        """(batch, tokens) → (batch, tokens, n_outputs); at padding they mean nothing."""
        return self.output(self.decoder.hidden(input_ids, attention_mask))

    def at_the_end(self, input_ids, attention_mask=None):
        """What the last token of each text says, which has read all of it: (batch, n_outputs).

        attention_mask (batch, tokens): padding on either side; a text has at least one token.
        """
        every = self(input_ids, attention_mask)
        if attention_mask is None:
            return every[:, -1]
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        last = (places * attention_mask.bool()).argmax(-1)
        return every[torch.arange(len(every), device=every.device), last]
