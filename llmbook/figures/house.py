"""Interactive: a network that has read walks, the room that a probe reads in it, and edits."""

import traitlets

from llmbook.checks import number, whole
from llmbook.experiments.inside import house

from .forward import WithModel, WithWeights, gpt_parts


class HouseWalk(WithModel):
    """Walk through a house by letters; see the room that a probe reads in a GPT; put another in.

    model: a `GPT` over 7 tokens, six letters and a start, that has read walks of
    `llmbook.experiments.inside.house`, its head tied to its embedding. probes: by layer (after how
    many blocks), pairs (weight (16, d_model), bias (16,)). layer: after which block a room is put
    in; reading: after which it is read; strength: 1 mirrors what flows at the border between two
    rooms. ways: (16, d_model), rows of length 1, for a step as long in a random direction. text:
    the letters so far; there: the room put in, −1 for none.

    Raises ValueError for a layer without a probe, a walk through a wall or a longer one than the
    model reads, and a room that there is not.
    """

    script = "house.js"
    alt = traitlets.Unicode(
        "A house of sixteen rooms with letters on its doors. The reader takes doors; each room is "
        "shaded by how probable a probe reads it in a network that is given the letters alone, "
        "and bars show which letter it expects next. A click on a room puts the network there."
    ).tag(sync=True)
    leads = traitlets.List().tag(sync=True)
    layer = traitlets.Int(1).tag(sync=True)
    reading = traitlets.Int(1).tag(sync=True)
    strength = traitlets.Float(1.0).tag(sync=True)
    text = traitlets.Unicode("").tag(sync=True)
    there = traitlets.Int(-1).tag(sync=True)
    random = traitlets.Bool(False).tag(sync=True)

    def __init__(self, model, probes, ways, *, layer, reading, strength, text="", **state):
        for name, value in (("layer", layer), ("reading", reading)):
            if value not in probes:
                raise ValueError(f"{name} must have a probe, {sorted(probes)}: got {value}")
        number("strength", strength, least=0, most=10)
        whole("there", state.get("there", -1), least=-1, most=house.ROOMS - 1)
        if len(text) >= house.LENGTH or set(text) - set(house.LETTERS):
            raise ValueError(
                f"text must be of at most {house.LENGTH - 1} of {house.LETTERS}: got {text!r}"
            )
        room = 0
        for letter in text:
            room = house.LEADS[room, house.LETTERS.index(letter)].item()
            if room < 0:
                raise ValueError(f"text must lead through doors: got {text!r}, a wall at {letter}")
        weights, sizes = gpt_parts(model)
        for at in {layer, reading}:
            weights |= dict(zip((f"probe.{at}.weight", f"probe.{at}.bias"), probes[at]))
        state |= {"layer": layer, "reading": reading, "strength": float(strength), "text": text}
        state |= {"model_config": sizes, "leads": house.LEADS.tolist()}
        WithWeights.__init__(self, "walker", {**weights, "ways": ways}, **state)
