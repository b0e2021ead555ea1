"""The Transformer as one diagram that fills in: known parts are coloured, others dashed.

    encoder: embedding, positions, n × (self-attention, feed-forward)
    decoder: embedding, positions, n × (masked self-attention, cross-attention, feed-forward)

Every sub-layer has its residual connection and its norm, after the sum or before the sub-layer.
"""

import matplotlib.pyplot as plt

from llmbook.checks import one_of

from .style import BLUE, GREEN, GREY, INK, ORANGE, PURPLE

PARTS = {  # what a caller names, and its colour
    "embedding": GREY,
    "positions": GREY,
    "self-attention": BLUE,
    "masked self-attention": BLUE,
    "cross-attention": ORANGE,
    "feed-forward": GREEN,
    "residuals": INK,
    "norms": PURPLE,
    "output": GREY,
}
_WIDE, _TALL = 2.7, 0.5  # of a box
_SHORT = {"masked self-attention": "masked self-att."}


def machine(known=tuple(PARTS), placement="post"):
    """The diagram as a matplotlib figure.

    known: the parts that are coloured, of PARTS. placement: "post" or "pre". Raises ValueError for
    a part or a placement that there is not.
    """
    for part in known:
        one_of("known", part, tuple(PARTS))
    one_of("placement", placement, ("post", "pre"))
    fig, ax = plt.subplots(figsize=(5.4, 4.6))
    draw = _Drawing(ax, set(known), placement)
    top_left = draw.stack(0.0, ("self-attention", "feed-forward"))
    top_right = draw.stack(4.5, ("masked self-attention", "cross-attention", "feed-forward"))
    draw.memory(top_left)
    draw.output(4.5, top_right)
    for x, text in ((0.0, "source"), (4.5, "target so far")):
        ax.text(x + _WIDE / 2, -0.55, text, ha="center", va="top")
        draw.arrow((x + _WIDE / 2, -0.5), (x + _WIDE / 2, 0))
    ax.set(xlim=(-1.0, 8.2), ylim=(-1.0, top_right + 1.5))
    ax.axis("off")
    return fig


class _Drawing:
    def __init__(self, ax, known, placement):
        self.ax, self.known, self.placement = ax, known, placement
        self.marks = {}  # (x, part): the height of its middle

    def style(self, part):
        if part in self.known:
            return {"fc": PARTS[part], "alpha": 0.4, "ec": INK, "lw": 0.8}
        return {"fc": "none", "ec": GREY, "lw": 1, "ls": "--"}

    def box(self, x, y, part, text=None, tall=_TALL):
        self.ax.add_patch(plt.Rectangle((x, y), _WIDE, tall, **self.style(part)))
        thin = tall < 0.4  # arrows end in its middle, so its text stands beside them
        self.ax.text(
            x + (0.1 if thin else _WIDE / 2),
            y + tall / 2,
            text or _SHORT.get(part, part),
            ha="left" if thin else "center",
            va="center",
            fontsize=8.5 if thin else 9.5,
            color=INK if part in self.known else GREY,
        )
        return y + tall

    def arrow(self, start, end, part=None):
        known = part is None or part in self.known
        style = {"arrowstyle": "->", "lw": 1.2, "color": INK if known else GREY}
        style |= {"shrinkA": 0, "shrinkB": 0, "mutation_scale": 9}  # a head within a gap of 0.2
        self.ax.annotate("", end, start, arrowprops=style | ({} if known else {"ls": "--"}))

    def up(self, x, y, gap=0.28):
        self.arrow((x + _WIDE / 2, y), (x + _WIDE / 2, y + gap))
        return y + gap

    def stack(self, x, sublayers):
        """Embedding, positions, the sub-layers; the height at which the stack ends."""
        y = self.up(x, self.box(x, 0, "embedding"))
        y = self.box(x, y, "positions", "+ positions", 0.42)
        begin = y + 0.2
        y = self.up(x, y, 0.5)
        for part in sublayers:
            y = self.sublayer(x, y, part)
        frame = {"fc": "none", "ec": INK, "lw": 0.8, "ls": ":"}
        self.ax.add_patch(plt.Rectangle((x - 0.42, begin), _WIDE + 0.6, y - begin - 0.2, **frame))
        at, side = (x - 0.5, "right") if x == 0 else (x + _WIDE + 0.26, "left")
        self.ax.text(at, (begin + y) / 2, "6 ×", ha=side, va="center")
        if self.placement == "pre":  # one more, at the end of the stack
            y = self.up(x, self.box(x, y, "norms", "norm", 0.34), 0.2)
        return y

    def sublayer(self, x, y, part):
        """A sub-layer with its norm and its residual connection, drawn around it on the left."""
        low = y - 0.14
        if self.placement == "pre":
            y = self.up(x, self.box(x, y, "norms", "norm", 0.34), 0.2)
        self.marks[x, part] = y + _TALL / 2
        y = self.box(x, y, part)
        text = "add, norm" if self.placement == "post" else "add"
        y = self.up(x, y, 0.2)
        over = "norms" if self.placement == "post" else "residuals"
        tall = 0.34 if self.placement == "post" else 0.32
        line = {"color": INK, "lw": 1.2, "ls": "-"}
        if "residuals" not in self.known:
            line = {"color": GREY, "lw": 1.2, "ls": "--"}
        side = x - 0.24
        self.ax.plot([x + _WIDE / 2, side, side], [low, low, y + tall / 2], **line)
        self.arrow((side, y + tall / 2), (x, y + tall / 2), "residuals")
        return self.up(x, self.box(x, y, over, text, tall), 0.34)

    def memory(self, top):
        """From the encoder's end to the decoder's cross-attention."""
        into = self.marks[4.5, "cross-attention"]
        bend = 3.55
        x, y = [_WIDE / 2, _WIDE / 2, bend, bend], [top - 0.05, top + 0.2, top + 0.2, into]
        self.ax.plot(x, y, color=INK, lw=1.2, ls="-")
        self.arrow((bend, into), (4.5, into))

    def output(self, x, y):
        y = self.box(x, y, "output", "table, softmax")
        self.arrow((x + _WIDE / 2, y), (x + _WIDE / 2, y + 0.35))
        self.ax.text(x + _WIDE / 2, y + 0.4, "next token", ha="center", va="bottom")
