"""One of each interactive figure, with the states in which it is looked at."""

import torch

from llmbook.experiments import attention as translators
from llmbook.experiments import relatives, transformer, translator
from llmbook.experiments.inside import runs as inside
from llmbook.experiments.outlook import pictures
from llmbook.experiments.recurrent import shipped
from llmbook.figures import (
    AttentionScores,
    BlockChanger,
    BudgetPlanner,
    CellReader,
    ClipExplorer,
    DateReader,
    FamilyMasks,
    GradientReach,
    GroupSamples,
    HeadPatterns,
    HeldGate,
    HouseWalk,
    LoRARank,
    LSTMGates,
    MergeSteps,
    NextToken,
    OnlineSoftmax,
    PassAtK,
    PathLength,
    PositionExplorer,
    PreferenceLabeller,
    RewardFrontier,
    RotaryBase,
    RouterPlay,
    ScanTree,
    ShapeNamer,
    Speculation,
    StateExplorer,
    TemplateExplorer,
    TiledSoftmax,
    Timeline,
    TokenizerSplits,
    Translating,
    VanishingGradient,
)
from llmbook.figures.blocks import PARTS
from llmbook.figures.timeline import SYSTEMS
from llmbook.models import load
from llmbook.models.pretrained import SHIPPED
from llmbook.tokenization import BPETokenizer
from llmbook.tokenization.characters import CharacterTokenizer


def _random(seed, *shape):
    return 2 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _lora(rank):
    loss, seen = (0.3, 0.9) if rank == 0 else (0.3 + 1 / rank, 0.9 - 0.5 / rank)
    names = ("trained weights", "loss", "seen", "blocks moved by", "nats of old text")
    return dict(zip(names, (1000 + 100 * rank if rank else 10_000, loss, seen, 0.1, 2.0)))


def _blocks():
    seeds = [2.5 + 0.01 * k for k in range(5)]
    return BlockChanger(
        {"000000": {0.003: seeds, 0.03: [v + 0.3 for v in seeds]}, "111111": {0.003: [2.1, 2.2]}}
    )


def _gates():
    torch.manual_seed(0)
    tokens = "the cat that sat on the mats was happy .".split()
    return LSTMGates.from_layer(
        torch.nn.LSTM(6, 8), _random(1, len(tokens), 6), tokens, units=[0, 3, 5]
    )


def _heads():
    model, tokenizer = load("small").eval(), BPETokenizer.load(SHIPPED / "small")
    texts = ["the list of <b>names</b>\n\n of the list", "Return the"]
    return HeadPatterns.of(model, tokenizer, texts, "small")


def _next_token():
    model, tokenizer = load("small").eval(), BPETokenizer.load(SHIPPED / "small")
    texts = ["The <b>first</b>\n\nelement é", "Return the"]
    return NextToken.of(model, tokenizer, texts, "small", place=2)


def _speculation():
    laws = {"p": [0.5, 0.3, 0.15, 0.05], "q": [0.2, 0.5, 0.25, 0.05]}
    tokens = [" the", "<b>", "\n", "…"]
    return Speculation(
        [
            {"before": "Return <i> the value of", "tokens": tokens, **laws},
            {"before": "", "tokens": tokens, "p": laws["q"], "q": laws["p"]},
        ]
    )


def _timeline():
    runs = [(10.0**k, {"accuracy": 0.1 * k, "loss (nats)": 3 - 0.2 * k}) for k in range(5)]
    papers = {system[-1]: ("Someone et al. 2020", "https://example.org") for system in SYSTEMS}
    return Timeline(runs, papers)


def _rotary():
    curves = [[0.1 * seed + 0.1 * k for k in range(16)] for seed in range(5)]
    recorded = {
        "ends": list(range(16, 257, 16)),
        "entropy": [1.0, 1.1],
        "bases": {"8": curves, "100": curves[::-1], "10000": curves[:3], "500000": curves[2:]},
        "kinds": {"ALiBi": curves, "learned": [c[:2] for c in curves]},
    }
    return RotaryBase(recorded, caption="Five models for each base.")


def _groups():
    def step(number, right):
        texts = ["F B P H C K", "F B P H C", "K", "F B P H C K E D", "F B", "", "F B P", "K K"]
        good = [float(i < right) for i in range(8)]
        rewards = [1.0, *good[1:]]
        ended = [i != 3 for i in range(8)]
        return {"step": number, "texts": texts, "rewards": rewards, "right": good, "ended": ended}

    question = {"start": "N", "k": 6, "path": "F B P H C K"}
    steps = [step(4 * i, right) for i, right in enumerate((1, 3, 4, 7, 8))]
    return GroupSamples(
        {
            "the last symbol is right": {"question": question, "steps": steps},
            "the right symbol is mentioned": {"question": question, "steps": steps[::-1][:3]},
        }
    )


def _dates():
    weights = translators.shipped().state_dict()
    return DateReader(weights, translators.LETTERS.characters, translators.DIGITS.characters)


def _families():
    return FamilyMasks(
        ["internationalisation"] * 10, ["antidisestablish"] * 6, ["short"] * 4, layers=4
    )


# name: (a figure, states to look at); the names are those of llmbook.figures.interactive_figures()
FIGURES = {
    "scores": (lambda: AttentionScores(causal=True), [{"step": s} for s in (0, 3, 6)]),
    "blocks": (
        _blocks,
        [
            {"rms": True, "width": 8192, "layers": 96, "context": 2**20},
            dict.fromkeys(PARTS, True),
            {"width": 1024, "layers": 3},
        ],
    ),
    "budget": (BudgetPlanner, [{"flops": 19.0}, {"flops": 26.0, "served": 13.0}, {"law": 0}]),
    "dates": (
        _dates,
        [
            {"text": "wednesday the 20th of february 2092"},
            {"best": False, "step": 9},
            {"text": "3.3.98", "step": 0},
            {"text": "30 Sep 1999", "hide": "Sep"},
        ],
    ),
    "families": (
        _families,
        [{"text": "internationalisation of " * 4}, {"token": 3}, {"layer": 2}],
    ),
    "house": (
        lambda: HouseWalk(
            *inside.shipped(), layer=inside.EDIT, reading=inside.READ, strength=inside.STRENGTH
        ),
        [
            {"text": "EFBCE"},
            {"random": True, "there": 12},
            {"random": False, "text": "EFBBBCCCCCCCCBBBBBFEEFF"},
            {"text": "C", "there": 15},
        ],
    ),
    "held": (
        lambda: HeldGate(shipped("recall")),
        [{}, {"forget": 0.8}, {"text": "x" * 120, "first": "C", "forget": 0.0}],
    ),
    "reading": (
        lambda: CellReader(shipped("characters"), CharacterTokenizer().characters),
        [{"text": "The " * 30}, {"unit": 191, "place": 29}],
    ),
    "reach": (
        lambda: GradientReach(shipped("characters"), CharacterTokenizer().characters),
        [{"text": "(a) " * 30}, {"gain": 3.0}, {"gain": 0.2}],
    ),
    "group_samples": (
        _groups,
        [{"at": 1}, {"at": 2, "scale": False}, {"at": 4}, {"run": 1, "at": 2}],
    ),
    "heads": (
        _heads,
        [
            {"query": 5},
            {"prompt": "internationalisation and antidisestablishment " * 3, "query": 31},
            {"off": True, "window": 4, "first": True},
            {"prompt": "", "sentence": 1, "query": 1},
        ],
    ),
    "gates": (_gates, [{}, {"step": 4}]),
    "lora_rank": (
        lambda: LoRARank({r: _lora(r) for r in (0, 1, 4, 16)}, place=1),
        [{"place": 0}, {"place": 2}],
    ),
    "merges": (
        lambda: MergeSteps({"English": "the cat sat on the mat, and the other cat sat\n" * 2}),
        [{"step": 0}, {"step": 9}],
    ),
    "next_token": (
        _next_token,
        [
            {"place": 1},
            {"text": 1, "place": 1},
            {"prompt": "If the list is empty, return the", "inside": "attention", "place": 9},
            {"inside": "layers"},
        ],
    ),
    "online": (
        OnlineSoftmax,
        [
            {"scores": " ".join(["-123.25"] * 16), "block": 1, "step": 16},
            {"scores": "1 12 3", "subtract": False, "step": 2},
            {"block": 4, "step": 2},
        ],
    ),
    "pass_at_k": (
        PassAtK,
        [{"k": 64}, {"verifier": -1.0}, {"alike": False, "k": 2}, {"rates": [0.0, 1.0]}],
    ),
    "paths": (lambda: PathLength(n=64), [{}, {"n": 12}]),
    "positions": (
        lambda: PositionExplorer(d=32),
        [{"offset": k} for k in (-10, 0, 37)] + [{"code": "equal"}],
    ),
    "frontier": (
        lambda: RewardFrontier(
            {
                "no penalty": [(i * i, 0.4 * i, -1 + i - 0.3 * i * i) for i in range(6)],
                "a penalty of 0.05": [(0.5 * i, 0.3 * i, -1 + 0.2 * i) for i in range(5)],
            }
        ),
        [{"run": 1, "step": 2}, {"run": 0, "step": 0}],
    ),
    "ppo_clip": (ClipExplorer, [{"ratio": 1.6}, {"advantage": -2.0, "ratio": 2.0}]),
    "preferences": (
        lambda: PreferenceLabeller(
            [
                "Return the path.",
                "Return the path of the file that was given, if it is there.",
                "No.",
            ]
            + ["Internationalisation of antidisestablishmentarianism"],
            [1.0, 0.5, -1.0, 0.0],
            labels=[[0, 2]],
        ),
        [{"labels": [[0, 1], [2, 3], [1, 3]], "place": 4}, {"steps": 200}, {"labels": []}],
    ),
    "router": (
        lambda: RouterPlay("the cat sat on the mat while internationalisation went on and on"),
        [{"k": 1}, {"favour": 4, "capacity": 1}, {"balance": 40}],
    ),
    "scan_tree": (lambda: ScanTree(n=13), [{"round": r} for r in (0, 2, 4)]),
    "state_space": (
        lambda: StateExplorer(),
        [
            {"rule": "digits"},
            {"mute": True},
            {"skip": True},
            {"small": 0.0, "large": 4.0},
            {"small": 0.5},
        ],
    ),
    "splits": (
        lambda: TokenizerSplits(
            relatives.cuts(), "The <b>baker's</b> 12345 loaves, ř 面包 👩🏽‍🚀"
        ),
        [{"text": "x" * 400}, {"merges": 0}, {"text": ""}],
    ),
    "shapes": (
        lambda: ShapeNamer.of(pictures.shipped()),
        [
            {"shape": "triangle", "colour": "yellow", "x": 12.5, "y": 12.5, "r": 4.0},
            {"word": 3, "painted": [[0, 0, 1], [4, 4, 0]], "blind": [5, 15]},
        ],
    ),
    "speculation": (
        _speculation,
        [{"stage": 0}, {"stage": 1}, {"stage": 2}, {"stage": 3}, {"case": 1, "warmth": 5.0}],
    ),
    "rotary": (
        _rotary,
        [{"base": 8}, {"length": 256, "beside": "ALiBi"}, {"base": 500_000, "length": 1}],
    ),
    "templates": (
        lambda: TemplateExplorer(BPETokenizer.load(SHIPPED / "small")),
        [{"special": False}, {"end": False, "system": "Be brief."}, {"counted": "everything"}],
    ),
    "tiles": (
        lambda: TiledSoftmax(),
        [{"step": 0}, {"step": 7}, {"block": 1, "step": 12}, {"block": 4, "step": 2}],
    ),
    "timeline": (_timeline, [{"chosen": 0}, {"chosen": 5, "measure": 1}]),
    "translating": (
        lambda: Translating(
            transformer.shipped(),
            translator.vocabulary(),
            translator.english(),
            "the small dogs saw a red bird",
        ),
        [
            {"without": "positions", "layer": 0},
            {"text": "the small red wolves " * 5, "token": 3},
            {"without": "cross-attention"},
            {"text": "queens", "without": "mask"},
        ],
    ),
    "vanishing": (
        lambda: VanishingGradient(gain=2.0, steps=100),
        [{"mode": "scalar"}, {"mode": "matrix"}],
    ),
}
