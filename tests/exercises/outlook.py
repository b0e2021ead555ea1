"""Solutions of the outlook's exercises, and wrong answers of students."""

import torch
import torch.nn.functional as F

from llmbook.experiments.outlook import diffusion


def patchify(image, size):
    n, height, width, channels = image.shape
    x = image.reshape(n, height // size, size, width // size, size, channels)
    return x.transpose(2, 3).reshape(n, -1, size * size * channels)


def contrast(u, v, scale):
    u, v = F.normalize(u, dim=-1), F.normalize(v, dim=-1)
    scores = scale * u @ v.T
    right = torch.arange(len(u))
    both = F.cross_entropy(scores, right) + F.cross_entropy(scores.T, right)
    return both / 2


def ends(x, k):
    given = x.clone()
    given[:, k : x.shape[1] - k] = diffusion.MASK
    return given


SOLUTIONS = {
    "patchify": patchify,
    "contrast": contrast,
    "tokens": 726,
    "lit": 4,
    "ends": ends,
}


# --- wrong answers


def patches_without_the_swap(image, size):
    n, _, _, channels = image.shape
    return image.reshape(n, -1, size * size * channels)


def patches_by_columns(image, size):
    return patchify(image.transpose(1, 2), size)


def patches_with_channels_in_front(image, size):
    n, height, width, channels = image.shape
    parts = image.reshape(n, height // size, size, width // size, size, channels)
    return parts.permute(0, 1, 3, 5, 2, 4).reshape(n, -1, size * size * channels)


def patches_flipped_inside(image, size):
    n, height, width, channels = image.shape
    parts = image.reshape(n, height // size, size, width // size, size, channels)
    return parts.permute(0, 1, 3, 4, 2, 5).reshape(n, -1, size * size * channels)


def patches_of_the_first_channel(image, size):
    return patchify(image[..., :1], size)


def patches_as_means(image, size):
    n, height, width, channels = image.shape
    parts = image.reshape(n, height // size, size, width // size, size, channels)
    return parts.mean((2, 4)).reshape(n, -1, channels)


def contrast_of_rows_only(u, v, scale):
    u, v = F.normalize(u, dim=-1), F.normalize(v, dim=-1)
    return F.cross_entropy(scale * u @ v.T, torch.arange(len(u)))


def contrast_without_lengths(u, v, scale):
    scores = scale * u @ v.T
    right = torch.arange(len(u))
    both = F.cross_entropy(scores, right) + F.cross_entropy(scores.T, right)
    return both / 2


def contrast_as_a_sum(u, v, scale):
    return 2 * contrast(u, v, scale)


def contrast_without_the_scale(u, v, scale):
    return contrast(u, v, 1.0)


def contrast_divided_by_the_scale(u, v, scale):
    return contrast(u, v, 1 / scale)


def contrast_of_pairs_alone(u, v, scale):
    return 1 - F.cosine_similarity(u, v).mean()


def ends_of_one_token(x, k):
    given = x.clone()
    given[:, 1:-1] = diffusion.MASK
    return given


def ends_of_the_beginning(x, k):
    given = x.clone()
    given[:, k:] = diffusion.MASK
    return given


def ends_hidden_instead(x, k):
    given = x.clone()
    given[:, :k] = diffusion.MASK
    given[:, -k:] = diffusion.MASK
    return given


def ends_one_short(x, k):
    given = x.clone()
    given[:, k : x.shape[1] - k - 1] = diffusion.MASK
    return given


def ends_with_zeros(x, k):
    given = x.clone()
    given[:, k : x.shape[1] - k] = 0
    return given


def ends_counted_from_behind(x, k):
    given = x.clone()
    given[:, k:-k] = diffusion.MASK
    return given


def ends_cut_out(x, k):
    return torch.cat([x[:, :k], x[:, -k:]], 1)


WRONG = {
    "patchify": {
        "no swap": patches_without_the_swap,
        "by columns": patches_by_columns,
        "channels in front": patches_with_channels_in_front,
        "flipped inside": patches_flipped_inside,
        "one channel": patches_of_the_first_channel,
        "means": patches_as_means,
    },
    "contrast": {
        "rows only": contrast_of_rows_only,
        "no lengths": contrast_without_lengths,
        "a sum": contrast_as_a_sum,
        "no scale": contrast_without_the_scale,
        "divided by the scale": contrast_divided_by_the_scale,
        "pairs alone": contrast_of_pairs_alone,
    },
    "tokens": {
        "the picture alone": 576,
        "the sound alone": 150,
        "one axis": 24 + 150,
        "no stride": 576 + 300,
        "pixels": 336 * 336 + 150,
        "frames and bins": 576 + 150 * 80,
    },
    "lit": {
        "cells": 36,
        "all": 16,
        "one": 1,
        "a row": 2,
        "with neighbours": 9,
        "a cross": 5,
    },
    "ends": {
        "one token each": ends_of_one_token,
        "the beginning alone": ends_of_the_beginning,
        "ends hidden": ends_hidden_instead,
        "one short": ends_one_short,
        "zeros": ends_with_zeros,
        "cut out": ends_cut_out,
        "nothing between 0 and -0": ends_counted_from_behind,
    },
}
