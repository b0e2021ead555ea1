"""Interactive: what a selective state keeps of a text; and a scan's tree beside the loop."""

import math

import traitlets

from llmbook import checks

from .interactive import Interactive

RULES = ("capitals", "digits", "vowels", "first letters")
LONGEST = 32


class StateExplorer(Interactive):
    """A text, a step Δ, B and C for each of its characters, and what the state holds of each.

    One state with A = −rate. A character that the rule lets through has the step `large` and
    B = C = 1, every other one the step `small` and B = 1 too, or 0 with `mute`, and C = 1, or 0
    with `skip`. Character j is left in the state after character t with weight
    exp(−rate · Σ_(j<s≤t) Δ_s) Δ_j B_j. Raises ValueError for a text that is empty or longer than
    32 characters, and for an unknown rule.
    """

    script = "state_space.js"
    alt = traitlets.Unicode(
        "A text that the reader can change. For each character: its step size as a bar above; "
        "below, in shades, what part of the state it keeps, whether it writes, whether it reads "
        "and what it reads; and as a bar what the state holds of it at the end. Sliders set the "
        "steps for what counts and for the rest, and how fast the state forgets."
    ).tag(sync=True)
    text = traitlets.Unicode("").tag(sync=True)
    rule = traitlets.Unicode("capitals").tag(sync=True)
    large = traitlets.Float(1.0).tag(sync=True)
    small = traitlets.Float(0.0).tag(sync=True)
    rate = traitlets.Float(0.5).tag(sync=True)
    mute = traitlets.Bool(False).tag(sync=True)
    skip = traitlets.Bool(False).tag(sync=True)

    def __init__(
        self,
        text="Ada met Grace in a dim Library.",
        rule="capitals",
        large=1.0,
        small=0.3,
        rate=0.5,
        **options,
    ):
        checks.text("text", text, most=LONGEST)
        checks.one_of("rule", rule, RULES)
        super().__init__(
            text=text,
            rule=rule,
            large=float(checks.number("large", large, least=0, most=4)),
            small=float(checks.number("small", small, least=0, most=1)),
            rate=float(checks.number("rate", rate, least=0.05, most=2)),
            **options,
        )

    def counts(self):
        """For each character, whether the rule lets it through."""
        text = self.text
        rules = {
            "capitals": lambda i: text[i].isupper(),
            "digits": lambda i: text[i].isdigit(),
            "vowels": lambda i: text[i].lower() in "aeiou",
            "first letters": lambda i: text[i].isalpha() and (i == 0 or text[i - 1] == " "),
        }
        return [rules[self.rule](i) for i in range(len(text))]

    def terms(self):
        """Δ, exp(ΔA), B and C of each character: four lists."""
        through = self.counts()
        steps = [self.large if yes else self.small for yes in through]
        kept = [math.exp(-self.rate * step) for step in steps]
        fed, read = ([float(yes or not off) for yes in through] for off in (self.mute, self.skip))
        return steps, kept, fed, read

    def held(self, after=None):
        """What the state holds of each character after character `after`, the last when None."""
        steps, kept, fed, _ = self.terms()
        after = len(steps) - 1 if after is None else after
        return [
            math.prod(kept[j + 1 : after + 1]) * steps[j] * fed[j] if j <= after else 0.0
            for j in range(len(steps))
        ]

    def outputs(self):
        """y = C h at each character, where every character puts in 1."""
        return [c * sum(self.held(t)) for t, c in enumerate(self.terms()[3])]


class ScanTree(Interactive):
    """n steps joined by a tree, round by round, beside the loop that takes them one by one.

    After round r, place t holds the joined steps t − 2^r + 1 … t. Raises ValueError unless
    2 <= n <= 16.
    """

    script = "scan_tree.js"
    alt = traitlets.Unicode(
        "Two diagrams stepped through together: a tree that joins neighbouring steps in pairs, "
        "fours and eights, and a loop that takes one step at a time; below, how many steps each "
        "place covers, the rounds and the joins of both."
    ).tag(sync=True)
    n = traitlets.Int(8).tag(sync=True)
    round = traitlets.Int(0).tag(sync=True)

    def __init__(self, n=8, round=0, **options):
        n = checks.whole("n", n, least=2, most=16)
        most = math.ceil(math.log2(n))
        super().__init__(n=n, round=checks.whole("round", round, least=0, most=most), **options)

    def joins(self, rounds=None):
        """How many joins the tree has made after `rounds` rounds (the figure's when None)."""
        rounds = self.round if rounds is None else rounds
        return sum(max(self.n - 2**r, 0) for r in range(rounds))
