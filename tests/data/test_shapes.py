"""Pictures of shapes: what is drawn is what the captions, the questions and the answers say."""

import pytest
import torch
import torch.nn.functional as F

from llmbook.data import shapes


def test_a_shape_has_its_colour_lies_where_its_caption_says_and_covers_what_its_name_says():
    image, said = shapes.pictures(200, 1)
    paint = torch.tensor(list(shapes.COLOURS.values()))
    middles = torch.arange(shapes.SIZE) + 0.5
    for one, words in zip(image, said.tolist(), strict=True):
        lit = one.sum(-1) > 0
        colour, shape, row, column = (shapes.WORDS[i] for i in words)
        assert (one[lit] == paint[list(shapes.COLOURS).index(colour)]).all()
        y, x = (m[lit].mean() for m in torch.meshgrid(middles, middles, indexing="ij"))
        for where, names, near in ((y, shapes.ROWS, row), (x, shapes.COLUMNS, column)):
            distances = [abs(where - shapes.SIZE * (i + 0.5) / 3) for i in range(3)]
            assert distances[names.index(near)] < min(distances) + 3  # cells
        box = lit.any(0).sum() * lit.any(1).sum()
        if shape == "square":
            assert lit.sum() == box
        if shape == "cross":
            assert lit.sum() < 0.7 * box
        if shape == "circle":
            assert 0.6 * box < lit.sum() < box
        if shape == "triangle":
            widths = lit.sum(1)[lit.any(1)]
            assert (widths[1:] >= widths[:-1]).all() and widths[-1] > widths[0]


def test_patches_can_be_put_together_again_and_are_a_strided_convolution():
    image = torch.randn(2, 8, 12, 3)
    cut = shapes.patches(image)
    assert cut.shape == (2, 6, 48)
    assert torch.equal(cut[:, 4], image[:, 4:8, 4:8].flatten(1))
    weight = torch.randn(5, 48)
    kernel = weight.view(5, 4, 4, 3).permute(0, 3, 1, 2)
    planes = F.conv2d(image.permute(0, 3, 1, 2), kernel, stride=4)
    assert torch.allclose(planes.flatten(2).transpose(1, 2), cut @ weight.T, atol=1e-5)
    with pytest.raises(ValueError, match="size must divide both sides: got size=5, 8 × 12"):
        shapes.patches(image, 5)


def test_a_question_about_one_of_two_has_the_answer_that_the_picture_shows():
    image, question, answer = shapes.pairs(300, 2)
    paint = dict(zip(shapes.WORDS[1:6], shapes.COLOURS.values(), strict=True))
    for one, (asked, by), right in zip(image, question.tolist(), answer.tolist(), strict=True):
        word, said = shapes.WORDS[by], shapes.WORDS[right]
        if asked == 0:
            assert word in shapes.SHAPES and said in shapes.COLOURS
            assert (one == torch.tensor(paint[said])).all(-1).any()
        if asked == 2:
            mine = (one == torch.tensor(paint[word])).all(-1).nonzero()[:, 0].double().mean()
            assert said == ("top" if mine < shapes.SIZE / 2 else "bottom")


def test_all_captions_are_there_once_and_every_picture_has_one_of_them():
    captions = shapes.all_captions()
    assert len({tuple(c) for c in captions.tolist()}) == len(captions) == 180
    said = shapes.pictures(500, 3)[1]
    assert ((said[:, None] == captions).all(-1).sum(1) == 1).all()
