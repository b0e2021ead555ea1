"""Interactive: what a selective state keeps of a text; and a scan's tree beside the loop."""

import math

import traitlets

from .interactive import Interactive, check_range

RULES = ("capitals", "digits", "vowels", "first letters")
LONGEST = 32


class StateExplorer(Interactive):
    """A text, a step Δ for each of its characters, and what the state holds of each at the end.

    One state with A = −rate and C = 1. A character that the rule lets through has the step `large`
    and B = 1, every other one the step `small` and B = 1 too, or 0 with `mute`. Character j is
    left in the state with weight exp(−rate · Σ_(s>j) Δ_s) Δ_j B_j. Raises ValueError for a text
    that is empty or longer than 32 characters, and for an unknown rule.
    """

    script = "state_space.js"
    alt = traitlets.Unicode(
        "A text that the reader can change, with the step size of each character as a bar above "
        "and what the state still holds of it as a bar below; sliders set the steps for what "
        "counts and for the rest, and how fast the state forgets."
    ).tag(sync=True)
    text = traitlets.Unicode("").tag(sync=True)
    rule = traitlets.Unicode("capitals").tag(sync=True)
    large = traitlets.Float(1.0).tag(sync=True)
    small = traitlets.Float(0.0).tag(sync=True)
    rate = traitlets.Float(0.5).tag(sync=True)
    mute = traitlets.Bool(False).tag(sync=True)

    def __init__(
        self,
        text="Ada met Grace in a dim Library.",
        rule="capitals",
        large=1.0,
        small=0.3,
        rate=0.5,
        **options,
    ):
        if not isinstance(text, str) or not 1 <= len(text) <= LONGEST:
            raise ValueError(f"text must have 1 to {LONGEST} characters: got {text!r}")
        if rule not in RULES:
            raise ValueError(f"rule must be one of {', '.join(RULES)}: got {rule!r}")
        super().__init__(
            text=text,
            rule=rule,
            large=float(check_range("large", large, 0, 4)),
            small=float(check_range("small", small, 0, 1)),
            rate=float(check_range("rate", rate, 0.05, 2)),
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

    def held(self):
        """What the state holds of each character after the last one."""
        through = self.counts()
        steps = [self.large if yes else self.small for yes in through]
        fed = [0.0 if self.mute and not yes else 1.0 for yes in through]
        later = [sum(steps[j + 1 :]) for j in range(len(steps))]
        parts = zip(steps, fed, later, strict=True)
        return [math.exp(-self.rate * after) * dt * b for dt, b, after in parts]


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
        n = int(check_range("n", n, 2, 16))
        most = math.ceil(math.log2(n))
        super().__init__(n=n, round=int(check_range("round", round, 0, most)), **options)

    def joins(self, rounds=None):
        """How many joins the tree has made after `rounds` rounds (the figure's when None)."""
        rounds = self.round if rounds is None else rounds
        return sum(max(self.n - 2**r, 0) for r in range(rounds))
