"""Interactive: language models from GPT-1 on, with what is published of each, and two measures."""

import traitlets

from llmbook.checks import whole

from .interactive import Interactive

# name, month, parameters in all (None: not published), active parameters where fewer, tokens
# (None: not published), what its authors reported, what is disputed or left open, source
SYSTEMS = (
    (
        "GPT-1",
        "2018-06",
        116_534_784,
        None,
        None,
        "Pre-training on books, then fine-tuning, beats models made for one task on 9 of 12.",
        "Needs fine-tuning for every task; no claim of abilities without it.",
        "radford2018improving",
    ),
    (
        "GPT-2",
        "2019-02",
        1_557_611_200,
        None,
        None,
        "Tasks without a single example: summaries, questions, a little translation.",
        "French to English reached 11.5 BLEU, below unsupervised systems of its day. The paper "
        "prints 1,542 million parameters.",
        "radford2019language",
    ),
    (
        "GPT-3",
        "2020-05",
        174_604_259_328,
        None,
        300e9,
        "Tasks from a few examples in the prompt; two-digit sums nearly always right.",
        "Five-digit sums mostly wrong: where the ability begins depends on the number of digits.",
        "brown2020language",
    ),
    (
        "Chinchilla",
        "2022-03",
        70e9,
        None,
        1.4e12,
        "Better than a model of four times its size at the same compute: both must grow.",
        "The third fit's constants do not follow from its data; a refit agrees with the rule.",
        "hoffmann2022training",
    ),
    (
        "PaLM",
        "2022-04",
        540e9,
        None,
        780e9,
        "A quarter of the tasks of BIG-bench jump with size.",
        "Many of the jumps shrink under a measure that gives partial credit.",
        "chowdhery2023palm",
    ),
    (
        "GPT-4",
        "2023-03",
        None,
        None,
        None,
        "The final loss was predicted from runs with at most a ten-thousandth of its compute.",
        "Size, data and compute are not published; sizes that circulate have no source.",
        "openai2023gpt4",
    ),
    (
        "Llama 2",
        "2023-07",
        70e9,
        None,
        2e12,
        "Open weights, trained far beyond the compute-optimal number of tokens.",
        "The loss was still falling at the end: what is optimal depends on serving.",
        "touvron2023llama2",
    ),
    (
        "Mixtral",
        "2023-12",
        46_702_792_704,
        12_879_925_248,
        None,
        "Eight experts, two at a time: as good as dense models of several times its active size.",
        "The number of training tokens is not published.",
        "jiang2024mixtral",
    ),
    (
        "Llama 3.1",
        "2024-07",
        405e9,
        None,
        15.6e12,
        "The size was chosen by scaling laws for 3.8e25 FLOPs.",
        "The 8B model of the family read almost as many tokens: 1,900 for each parameter.",
        "grattafiori2024llama3",
    ),
    (
        "o1",
        "2024-09",
        None,
        None,
        None,
        "Answers get better with compute spent on training by reward, and on thinking.",
        "Neither size nor method is published; the axes of its plots have no numbers.",
        "openai2024o1",
    ),
    (
        "DeepSeek-V3",
        "2024-12",
        671e9,
        37e9,
        14.8e12,
        "671 billion parameters, 37 billion for a token, 2.8 million GPU hours.",
        "The hours leave out research and failed runs, as the report says.",
        "deepseekai2024deepseekv3",
    ),
    (
        "DeepSeek-R1",
        "2025-01",
        671e9,
        37e9,
        None,
        "Reinforcement learning with verifiable rewards lengthens and improves its reasoning.",
        "Whether it adds abilities or makes likelier what the base model can do is argued over.",
        "deepseekai2025deepseekr1",
    ),
    (
        "Qwen3-235B-A22B",
        "2025-04",
        235e9,
        22e9,
        36e12,
        "One model with and without written reasoning, on 36 trillion tokens.",
        "Open weights; data and code of the training are not.",
        "qwen2025qwen3",
    ),
    (
        "Kimi K2",
        "2025-07",
        1.04e12,
        32e9,
        15.5e12,
        "A trillion parameters, trained with Muon on 15.5 trillion tokens without a spike.",
        "Open weights; data and code of the training are not.",
        "kimi2025k2",
    ),
    (
        "gpt-oss-120b",
        "2025-08",
        116.8e9,
        5.1e9,
        None,
        "Open weights in four bits, reasoning at three levels of effort.",
        "Data and number of tokens are not published.",
        "openai2025gptoss",
    ),
    (
        "GLM-5",
        "2026-02",
        744e9,
        40e9,
        28.5e12,
        "Twice GLM-4.5's size, sparse attention, and long tasks of programming as the aim.",
        "What the sparse attention forgoes is judged by its own authors' benchmarks.",
        "glm2026glm5",
    ),
    (
        "DeepSeek-V4-Pro",
        "2026-04",
        1.6e12,
        49e9,
        32e12,
        "A million tokens of context with a tenth of V3.2's cache: most keys are compressed.",
        "“More than 32 trillion” tokens is all that is told of their number.",
        "deepseekai2026deepseekv4",
    ),
    (
        "Kimi K3",
        "2026-07",
        2.8e12,
        104e9,
        None,
        "2.5 times as efficient as K2 in scaling: linear attention, 16 of 896 experts a token.",
        "We found no number of training tokens; the 2.5 is the authors' own measure.",
        "kimi2026k3",
    ),
    (
        "Kimi K3.1 Pro",
        "2026-10",
        2.8e12,
        104e9,
        None,
        "K3 once more: all that is better comes from reinforcement learning after training.",
        "Weights are published; compute of the reinforcement learning is not.",
        "kimi2026k31",
    ),
)


class Timeline(Interactive):
    """Models by date and size; a click shows the card of one. Below, one family by two measures.

    runs: [(compute, {measure: score from 0 to 1})], sorted by compute: the same models judged by
    a smooth measure and by sharp ones, between which the reader switches. papers: {key: [name,
    address]} of the cards' sources. Models of unpublished size stand in a row of their own.
    Raises ValueError for no runs, unsorted ones, or measures that differ between them.
    """

    script = "timeline.js"
    alt = traitlets.Unicode(
        "Language models from 2018 to 2026 by date and number of parameters; choosing one shows "
        "what was reported, what is disputed, and the source. Below, one family of small models "
        "by compute, under a measure that can be switched."
    ).tag(sync=True)
    systems = traitlets.List().tag(sync=True)
    chosen = traitlets.Int(2).tag(sync=True)
    measures = traitlets.List().tag(sync=True)
    measure = traitlets.Int(0).tag(sync=True)
    runs = traitlets.List().tag(sync=True)

    def __init__(self, runs, papers, chosen=2, measure=0, **options):
        runs = [(float(compute), dict(scores)) for compute, scores in runs]
        if not runs:
            raise ValueError("runs must hold at least one model: got none")
        measures = list(runs[0][1])
        if any(list(scores) != measures for _, scores in runs) or not measures:
            raise ValueError(f"runs must all have the measures {', '.join(measures)}")
        if [compute for compute, _ in runs] != sorted(compute for compute, _ in runs):
            raise ValueError("runs must be sorted by compute")
        lacking = [system[-1] for system in SYSTEMS if system[-1] not in papers]
        if lacking:
            raise ValueError(f"papers must have every card's source: {', '.join(lacking)} missing")
        systems = [[*system[:-1], *papers[system[-1]]] for system in SYSTEMS]
        super().__init__(
            systems=systems,
            chosen=whole("chosen", chosen, least=0, most=len(systems) - 1),
            measures=measures,
            measure=whole("measure", measure, least=0, most=len(measures) - 1),
            runs=[[compute, list(scores.values())] for compute, scores in runs],
            **options,
        )

    def steepest(self, measure=None):
        """The largest share of a measure's whole rise that falls between two neighbours."""
        place = self.measure if measure is None else measure
        scores = [values[place] for _, values in self.runs]
        rise = max(scores) - min(scores)
        steps = [b - a for a, b in zip(scores, scores[1:], strict=False)]
        return max(steps) / rise if rise and steps else 0.0
