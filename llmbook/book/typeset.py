"""Small formulas in boxes, without a program that sets them: `$h_{t-1}$` as HTML, or as text.

A claim's box must read the same on the page, in JupyterLab and in Colab, of which only two set
formulas in an output. What a statement needs is little: letters in italics, sub- and superscripts,
roots, a few signs. Anything else raises ValueError, so that a test finds it.
"""

import html
import re

_NAMED = """alpha α beta β gamma γ delta δ epsilon ε theta θ lambda λ mu μ pi π rho ρ sigma σ tau τ
phi φ omega ω Delta Δ Sigma Σ Phi Φ Omega Ω cdot · times × le ≤ ge ≥ ne ≠ approx ≈ pm ± to → in ∈
sum ∑ prod ∏ infty ∞ dots … odot ⊙ partial ∂ top ⊤ ell ℓ sim ∼ mid | log log exp exp sin sin
cos cos tanh tanh max max min min ln ln softmax softmax { { } }""".split()
SIGNS = dict(zip(_NAMED[::2], _NAMED[1::2], strict=True)) | {",": "\u2009"}
_TOKEN = re.compile(r"\\([A-Za-z]+|[,{}])|([_^{}])|(\s+)|([A-Za-z])|(\d+(?:[.,]\d+)*)|(.)")
_SPACED = {"=", "+", "−", "<", ">", "≤", "≥", "≠", "≈", "→", "∈", "·", "×", "±", "∼"}


def to_html(text):
    """A text with formulas between dollars, as HTML. Raises ValueError for what it cannot set."""
    parts = text.split("$")
    if len(parts) % 2 == 0:
        raise ValueError(f"a formula ends with a dollar: got {text!r}")
    return "".join(
        f'<span class="formula">{_Formula(part).html()}</span>' if odd % 2 else html.escape(part)
        for odd, part in enumerate(parts)
    )


def to_text(text):
    """The same for where only text can be shown: signs for commands, no dollars."""
    parts = text.split("$")
    for odd in range(1, len(parts), 2):
        part = re.sub(r"\\sqrt\s*\{([^{}]*)\}", r"√(\1)", parts[odd])
        part = re.sub(r"\\sqrt\s*", "√", part)
        part = re.sub(r"\\(?:text|mathrm)\{([^{}]*)\}", r"\1", part)
        part = re.sub(r"\\([A-Za-z]+|[,{}])", lambda m: SIGNS.get(m[1], m[0]), part)
        parts[odd] = re.sub(r"([_^])\{(\w)\}", r"\1\2", part).replace("-", "−")
    return "".join(parts)


class _Formula:
    """One formula, read from left to right."""

    def __init__(self, source):
        self.source = source
        self.tokens = [m for m in _TOKEN.finditer(source) if not m[3]]
        self.place = 0

    def html(self):
        out = self.row()
        if self.place < len(self.tokens):
            raise ValueError(f"a brace too many in ${self.source}$")
        return out

    def row(self):
        """Everything up to a closing brace."""
        out = ""
        while self.place < len(self.tokens) and self.tokens[self.place][0] != "}":
            out += self.scripted() if self.tokens[self.place][0] in "_^" else self.one()
        return out.strip("\u2009")

    def scripted(self):
        tag = {"_": "sub", "^": "sup"}[self.next()[0]]
        return f"<{tag}>{self.one()}</{tag}>".replace("\u2009", "")

    def next(self):
        if self.place == len(self.tokens):
            raise ValueError(f"${self.source}$ ends too early")
        self.place += 1
        return self.tokens[self.place - 1]

    def one(self):
        """A letter, a number, a sign, a command with what it takes, or a group in braces."""
        token = self.next()
        command, mark, _, letter, number, sign = token.groups()
        if mark == "{":
            inside = self.row()
            self.next()
            return inside
        if letter:
            return f"<i>{letter}</i>"
        if command == "sqrt":
            return f'√<span class="root">{self.one()}</span>'
        if command == "frac":
            return f"{self.one()}\u2009/\u2009{self.one()}"
        if command in ("text", "mathrm", "operatorname"):
            return re.sub(r"</?i>", "", self.one())
        if command is not None:
            if command not in SIGNS:
                raise ValueError(f"no sign for \\{command} in ${self.source}$")
            found = SIGNS[command]
            return f"\u2009{found}\u2009" if found in _SPACED else html.escape(found)
        found = (number or sign or mark).replace("-", "−")
        return f"\u2009{html.escape(found)}\u2009" if found in _SPACED else html.escape(found)
