"""From logits to text: greedy, sampling and beam search, with a cache or without.

`generate` continues a prompt or a source, `stream` yields the same token by token, `beam_search`
looks for the likeliest whole text; what is sampled from stands in samplers.py; `speculate` lets a
small model guess and a large one check; `explain_backend` says how a model's steps are taken.
"""

from llmbook.decoding.backends import explain_backend
from llmbook.decoding.generate import beam_search, generate, stream
from llmbook.decoding.samplers import probabilities
from llmbook.decoding.speculative import speculate

__all__ = ["beam_search", "explain_backend", "generate", "probabilities", "speculate", "stream"]
