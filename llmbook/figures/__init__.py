"""The book's pictures: one plotting style, `show` with alt text, and the interactive figures.

    from llmbook.figures import show, style
    from llmbook.figures import VanishingGradient, LSTMGates

Names are loaded on first use, so importing this package imports neither matplotlib nor ipywidgets.
"""

from importlib import import_module

_WHERE = {
    "AttentionScores": "scores",
    "BlockChanger": "blocks",
    "BudgetPlanner": "budget",
    "CellReader": "recurrent",
    "ClipExplorer": "ppo_clip",
    "DateReader": "dates",
    "FamilyMasks": "families",
    "GradientReach": "recurrent",
    "GroupSamples": "group_samples",
    "HeadPatterns": "heads",
    "HeldGate": "recurrent",
    "HouseWalk": "house",
    "Interactive": "interactive",
    "LSTMGates": "gates",
    "LoRARank": "templates",
    "MergeSteps": "merges",
    "NextToken": "next_token",
    "OnlineSoftmax": "online",
    "PassAtK": "pass_at_k",
    "PathLength": "paths",
    "PositionExplorer": "positions",
    "PreferenceLabeller": "preferences",
    "RewardFrontier": "frontier",
    "RouterPlay": "router",
    "RotaryBase": "rotary",
    "TiledSoftmax": "tiles",
    "ScanTree": "state_space",
    "ShapeNamer": "shapes",
    "Speculation": "speculation",
    "StateExplorer": "state_space",
    "TemplateExplorer": "templates",
    "Timeline": "timeline",
    "TokenizerSplits": "splits",
    "Translating": "translating",
    "VanishingGradient": "vanishing",
    "show": "style",
}
__all__ = [*_WHERE, "style"]


def __getattr__(name):
    if name == "style":
        return import_module(".style", __name__)
    if name in _WHERE:
        return getattr(import_module(f".{_WHERE[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def interactive_figures():
    """{name: class} of the interactive figures, by the names that buttons in the text use."""
    base = import_module(".interactive", __name__).Interactive
    found = [__getattr__(name) for name in _WHERE if name not in ("show", "Interactive")]
    return {one.script.removesuffix(".js"): one for one in found if issubclass(one, base)}


def __dir__():
    return sorted({*globals(), *__all__})
