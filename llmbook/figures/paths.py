"""Interactive: how far apart two positions are in an RNN and in attention, and at what price."""

from collections import deque

import traitlets

from llmbook.checks import one_of, whole

from .interactive import Interactive

LONGEST = 64


class PathLength(Interactive):
    """The path from one position to a later or earlier one, in an RNN and in one attention layer.

    An RNN's states form a chain, h_1 → h_2 → … → h_n: from i to j there are j - i steps, and no
    way back. In an attention layer every output reads every input directly: one step, or with a
    causal mask one step to the same or a later position and no way to an earlier one. The price
    is the number of connections, n - 1 against n² (causal: n (n + 1) / 2). `source` and `target`
    are positions 1 … n.

    Raises ValueError for a length outside 2 … 64 or a position outside 1 … n.
    """

    script = "paths.js"
    alt = traitlets.Unicode(
        "The path between two positions of a sequence, drawn through an RNN's chain of states and "
        "through an attention layer. Sliders set the length of the sequence and the two positions."
    ).tag(sync=True)
    n = traitlets.Int(20).tag(sync=True)
    source = traitlets.Int(1).tag(sync=True)
    target = traitlets.Int(20).tag(sync=True)
    causal = traitlets.Bool(False).tag(sync=True)

    def __init__(self, n=20, source=1, target=None, causal=False, **kwargs):
        n = whole("n", n, least=2, most=LONGEST)
        super().__init__(
            n=n,
            source=whole("source", source, least=1, most=n),
            target=whole("target", n if target is None else target, least=1, most=n),
            causal=causal,
            **kwargs,
        )

    @staticmethod
    def graph(kind, n, causal=False):
        """The connections as {node: [nodes it feeds]}.

        "rnn": states 1 … n. "attention": inputs ("in", i) and outputs ("out", i).
        """
        n = whole("n", n, least=1, most=10**6)
        one_of("kind", kind, ("rnn", "attention"))
        if kind == "rnn":
            return {i: [i + 1] if i < n else [] for i in range(1, n + 1)}
        return {
            ("in", i): [("out", j) for j in range(i if causal else 1, n + 1)]
            for i in range(1, n + 1)
        }

    @staticmethod
    def distance(graph, start, end):
        """The fewest connections from `start` to `end`, breadth first; None without a way."""
        steps, queue = {start: 0}, deque([start])
        while queue:
            here = queue.popleft()
            if here == end:
                return steps[here]
            for there in graph.get(here, []):
                if there not in steps:
                    steps[there] = steps[here] + 1
                    queue.append(there)
        return None

    def present(self):
        """What the figure shows now: steps and connections of both; None where no path leads."""
        n, i, j = self.n, self.source, self.target
        return {
            "rnn steps": j - i if j >= i else None,
            "attention steps": 1 if j >= i or not self.causal else None,
            "rnn connections": n - 1,
            "attention connections": n * (n + 1) // 2 if self.causal else n * n,
        }
