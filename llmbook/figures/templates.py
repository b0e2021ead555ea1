"""Interactive: messages → text → tokens → which of them count; and what a LoRA's rank buys."""

import traitlets

from llmbook import checks
from llmbook.alignment.chat import ROLES, SPECIAL_TOKENS, Encoded, chat_tokenizer, encode
from llmbook.tokenization.byte_names import printable

from .interactive import Interactive

COUNTED = ("answers", "last answer", "everything")
LONGEST = 60
_FIELDS = ("system", "question", "answer", "again", "second")


class TemplateExplorer(Interactive):
    """A conversation in the reader's words, its template, its tokens, and what the loss counts.

    tokenizer: a base model's byte-level `BPETokenizer` with GPT-2's pattern; the template's
    special tokens are added. counted: whose tokens the loss counts; end: do an answer's end tokens
    count? special: do the template's marks have tokens of their own, or are they text like any
    other? system, question, answer, again, second: what the messages say, at most 60 characters
    each; one that is empty is left out. Raises ValueError for a longer text or an unknown choice.
    """

    script = "templates.js"
    alt = traitlets.Unicode(
        "A conversation in fields that the reader can change, written with a chat template and "
        "cut into tokens; those that the loss counts are marked. Choices set whose tokens count, "
        "whether the end token does, and whether the template's marks have tokens of their own."
    ).tag(sync=True)
    tokens = traitlets.List().tag(sync=True)
    merges = traitlets.List().tag(sync=True)
    marks = traitlets.List().tag(sync=True)
    system = traitlets.Unicode("").tag(sync=True)
    question = traitlets.Unicode("").tag(sync=True)
    answer = traitlets.Unicode("").tag(sync=True)
    again = traitlets.Unicode("").tag(sync=True)
    second = traitlets.Unicode("").tag(sync=True)
    counted = traitlets.Unicode("answers").tag(sync=True)
    end = traitlets.Bool(True).tag(sync=True)
    special = traitlets.Bool(True).tag(sync=True)

    def __init__(
        self,
        tokenizer,
        question="Last word: red owl",
        answer="owl",
        again="In capitals",
        second="OWL",
        **options,
    ):
        said = {"question": question, "answer": answer, "again": again, "second": second}
        said["system"] = options.pop("system", "")
        for name, text in said.items():
            checks.text(name, text, least=0, most=LONGEST)
        checks.one_of("counted", options.get("counted", "answers"), COUNTED)
        self._tokenizer = chat_tokenizer(tokenizer)
        names = sorted(tokenizer.vocab.items(), key=lambda item: item[1])
        super().__init__(
            tokens=[[printable(token), i] for token, i in names],
            merges=[[printable(a), printable(b)] for a, b in tokenizer.merges],
            marks=[*tokenizer.special_tokens.items(), *_of(self._tokenizer, SPECIAL_TOKENS)],
            **said,
            **options,
        )

    def messages(self):
        """The messages that are not left out."""
        roles = (ROLES[0], *ROLES[1:3] * 2)
        said = zip(roles, (getattr(self, name) for name in _FIELDS))
        return [{"role": role, "content": text} for role, text in said if text.strip()]

    def reading(self):
        """An `Encoded`: the ids, and which of them count."""
        messages, marks = self.messages(), self._tokenizer.special_tokens
        found = encode(self._tokenizer, messages)
        if self.special:
            ids, counts = found.ids, found.counts
            end = [i == marks["<|end|>"] for i in ids]
        else:  # each mark is cut into what its text is
            ids, counts, end = [], [], []
            names = {i: text for text, i in marks.items()}
            for i, counted in zip(found.ids, found.counts):
                parts = self._tokenizer.encode(names[i], ()) if i in names else [i]
                ids += parts
                counts += [counted] * len(parts)
                end += [names.get(i) == "<|end|>"] * len(parts)
        if self.counted == "everything":
            counts = [True] * len(ids)
        elif self.counted == "last answer":
            last = len(counts) - 1 - counts[::-1].index(True)
            first = last
            while first and counts[first - 1]:
                first -= 1
            counts = [first <= i <= last for i in range(len(ids))]
        if not self.end:
            counts = [c and not e for c, e in zip(counts, end)]
        return Encoded(ids, counts)


def _of(tokenizer, names):
    return [[name, tokenizer.special_tokens[name]] for name in names]


class LoRARank(Interactive):
    """What a LoRA's rank costs and reaches, from recorded runs; all weights beside it.

    runs: {rank: what `lora_run` of llmbook/experiments/sft/weights.py found}, 0 for all weights.
    d_model: of the square that the picture shows. place: which rank is shown first. Raises
    ValueError without a run of all weights and two ranks.
    """

    script = "lora_rank.js"
    alt = traitlets.Unicode(
        "A square weight matrix beside the two thin ones whose product changes it, and two curves "
        "by their rank: the loss reached and the share of held-out answers that are exact. A "
        "slider sets the rank."
    ).tag(sync=True)
    rows = traitlets.List().tag(sync=True)
    full = traitlets.Dict().tag(sync=True)
    d_model = traitlets.Int(128).tag(sync=True)
    place = traitlets.Int(0).tag(sync=True)

    def __init__(self, runs, d_model=128, place=3, **options):
        runs = {int(rank): dict(found) for rank, found in runs.items()}
        ranks = sorted(rank for rank in runs if rank)
        if 0 not in runs or len(ranks) < 2:
            raise ValueError(f"runs must have 0 and two ranks or more: got {sorted(runs)}")
        place = checks.whole("place", place, least=0, most=len(ranks) - 1)
        rows = [{"rank": rank, **_short(runs[rank])} for rank in ranks]
        super().__init__(
            rows=rows, full=_short(runs[0]), d_model=int(d_model), place=place, **options
        )


def _short(found):
    names = {
        "trained": "trained weights",
        "loss": "loss",
        "seen": "seen",
        "moved": "blocks moved by",
        "nats": "nats of old text",
    }
    return {ours: round(float(found[theirs]), 5) for ours, theirs in names.items()}
