"""Solutions of the exercises on what is inside, and wrong answers of students."""


def patch(states, layer, place):
    def change(at, x):
        if at == layer:
            x = x.clone()
            x[:, place] = states[layer][:, place]
        return x

    return change


def calibration_error(confidence, right, bins):
    which = (confidence * bins).ceil().clamp(1, bins)
    total = 0.0
    for b in range(1, bins + 1):
        inside = which == b
        if inside.any():
            gap = confidence[inside].mean() - right[inside].double().mean()
            total += inside.double().mean().item() * abs(gap.item())
    return total


def pays(p, wrong):
    return p > wrong / (1 + wrong)


SOLUTIONS = {
    "patch": patch,
    "calibration_error": calibration_error,
    "colder": 0.7**4 / (0.7**4 + 0.3**4),
    "lost": 10,
    "pays": pays,
}


# --- wrong answers


def patched_everywhere(states, layer, place):
    return lambda at, x: states[layer] if at == layer else x


def patched_at_every_layer(states, layer, place):
    def change(at, x):
        x = x.clone()
        x[:, place] = states[layer][:, place]
        return x

    return change


def patched_in_place(states, layer, place):
    def change(at, x):
        if at == layer:
            x[:, place] = states[layer][:, place]
        return x

    return change


def patched_nothing_back(states, layer, place):
    def change(at, x):
        if at == layer:
            x = x.clone()
            x[:, place] = states[layer][:, place]
            return x

    return change


def patched_added(states, layer, place):
    def change(at, x):
        if at == layer:
            x = x.clone()
            x[:, place] = x[:, place] + states[layer][:, place]
        return x

    return change


def patched_other_axis(states, layer, place):
    def change(at, x):
        if at == layer:
            x = x.clone()
            x[..., 0] = states[layer][..., 0]
        return x

    return change


def gap_of_all(confidence, right, bins):
    return abs((confidence.mean() - right.double().mean()).item())


def gap_unweighted(confidence, right, bins):
    which = (confidence * bins).ceil().clamp(1, bins)
    gaps = [
        abs((confidence[which == b].mean() - right[which == b].double().mean()).item())
        for b in range(1, bins + 1)
        if (which == b).any()
    ]
    return sum(gaps) / len(gaps)


def gap_signed(confidence, right, bins):
    which = (confidence * bins).ceil().clamp(1, bins)
    total = 0.0
    for b in range(1, bins + 1):
        inside = which == b
        if inside.any():
            gap = confidence[inside].mean() - right[inside].double().mean()
            total += inside.double().mean().item() * gap.item()
    return total


def gap_of_each(confidence, right, bins):
    return (confidence - right.double()).abs().mean().item()


def gap_worst(confidence, right, bins):
    which = (confidence * bins).ceil().clamp(1, bins)
    return max(
        abs((confidence[which == b].mean() - right[which == b].double().mean()).item())
        for b in range(1, bins + 1)
        if (which == b).any()
    )


def gap_without_one(confidence, right, bins):
    which = (confidence * bins).floor()
    total = 0.0
    for b in range(bins):
        inside = which == b
        if inside.any():
            gap = confidence[inside].mean() - right[inside].double().mean()
            total += inside.double().mean().item() * abs(gap.item())
    return total


WRONG = {
    "patch": {
        "all places": patched_everywhere,
        "at every layer": patched_at_every_layer,
        "written into x": patched_in_place,
        "nothing back elsewhere": patched_nothing_back,
        "added": patched_added,
        "another axis": patched_other_axis,
    },
    "calibration_error": {
        "all together": gap_of_all,
        "bins alike": gap_unweighted,
        "signed": gap_signed,
        "answer by answer": gap_of_each,
        "the worst bin": gap_worst,
        "a confidence of 1 lost": gap_without_one,
    },
    "colder": {
        "as at 1": 0.7,
        "as at 0.5": 0.845,
        "not divided": 0.7**4,
        "greedy": 1.0,
        "warmer": 0.7**0.25 / (0.7**0.25 + 0.3**0.25),
        "guessed": 0.9,
    },
    "lost": {"never": 0, "early": 2, "four": 4, "not measured": 5, "the end": 24, "percent": 97},
    "pays": {
        "always": lambda p, wrong: True,
        "likelier than not": lambda p, wrong: p > 0.5,
        "above the cost": lambda p, wrong: p > wrong,
        "the other share": lambda p, wrong: p > 1 / (1 + wrong),
        "cost in full": lambda p, wrong: p - wrong > 0,
        "the wrong way": lambda p, wrong: p * (1 + wrong) < wrong,
    },
}
