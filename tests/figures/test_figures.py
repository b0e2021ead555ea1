"""Figures: a text alternative, labelled axes, colours that hold, markup that fits any page."""

import itertools
import re
import subprocess
import sys

import matplotlib
import numpy as np
import pytest

matplotlib.use("agg")
import matplotlib.pyplot as plt

from llmbook.figures import show, style

ALT = "A line that falls from one to zero over ten steps"
LIGHT, DARK = "#ffffff", "#121212"  # the theme's two pages


@pytest.fixture(autouse=True)
def book_style():
    with style.context():
        yield
    plt.close("all")


def line_figure(**labels):
    fig, ax = plt.subplots()
    ax.plot([0, 5, 10], [1, 0.4, 0])
    ax.set(**{"xlabel": "step", "ylabel": "loss (nats)", **labels})
    return fig


@pytest.fixture
def shown(monkeypatch):
    """What `show` hands to IPython."""
    bundles = []
    monkeypatch.setattr("IPython.get_ipython", lambda: object())
    monkeypatch.setattr("IPython.display.display", lambda data, raw: bundles.append(data))
    return bundles


# --- what show asks for and gives


@pytest.mark.parametrize("alt", ["", "   ", "plot", "figure", "lossesoverthewholetraining"])
def test_a_missing_or_empty_alt_is_refused(alt):
    with pytest.raises(ValueError, match="alt must say in a sentence"):
        show(line_figure(), alt=alt)


def test_alt_that_is_no_text_and_a_figure_that_is_none_are_refused():
    with pytest.raises(TypeError, match="alt must be a string: got NoneType"):
        show(line_figure(), alt=None)
    with pytest.raises(TypeError, match="matplotlib Figure: got list"):
        show([1, 2], alt=ALT)
    with pytest.raises(TypeError, match="alt"):
        show(line_figure())


def test_show_gives_html_with_the_alt_and_text_and_closes_the_figure(shown):
    fig = line_figure()
    show(fig, alt='Falls below "0.5", then <stops> & rests')
    (bundle,) = shown
    assert bundle["text/plain"] == '[figure: Falls below "0.5", then <stops> & rests]'
    assert (
        '<div class="plot" role="img" aria-label="Falls below &quot;0.5&quot;, then '
        '&lt;stops&gt; &amp; rests">'
    ) in bundle["text/html"]
    assert set(bundle) == {"text/html", "text/plain"}
    assert not plt.fignum_exists(fig.number)


def test_a_caption_stands_below_the_figure_for_every_reader(shown):
    show(line_figure(), alt=ALT, caption="Loss <falls> with steps.")
    (bundle,) = shown
    assert (
        "<figcaption>Loss &lt;falls&gt; with steps.</figcaption></figure>" in bundle["text/html"]
    )
    show(line_figure(), alt=ALT)
    assert "figcaption>" not in shown[1]["text/html"]


def test_show_outside_a_notebook_prints_the_alt(capsys):
    show(line_figure(), alt=ALT)
    assert capsys.readouterr().out == f"[figure: {ALT}]\n"


@pytest.mark.parametrize("axis", ["x", "y"])
def test_numbers_on_an_axis_without_a_label_are_refused(axis):
    message = f"the {axis} axis of plot 1 shows numbers without a label"
    with pytest.raises(ValueError, match=message):
        show(line_figure(**{f"{axis}label": " "}), alt=ALT)


def test_axes_that_show_no_numbers_need_no_label(shown):
    fig, (left, middle, right) = plt.subplots(1, 3)
    left.bar(["RNN", "LSTM"], [1, 2])
    left.set_ylabel("accuracy (share)")
    middle.imshow(np.eye(3))
    middle.set(xticks=[], yticks=[])
    right.plot([1, 2])
    right.axis("off")
    show(fig, alt=ALT)
    fig, axes = plt.subplots(2, 1, sharex=True)
    axes[1].set_xlabel("step")
    fig.supylabel("loss (nats)")
    show(fig, alt=ALT)
    assert len(shown) == 2


def test_an_unlabelled_colour_bar_is_refused():
    fig, ax = plt.subplots()
    fig.colorbar(ax.imshow(np.arange(9.0).reshape(3, 3)))
    ax.set(xlabel="unit", ylabel="step")
    with pytest.raises(ValueError, match="plot 2 shows numbers"):
        show(fig, alt=ALT)


@pytest.mark.parametrize("colour", ["#440154", "#bddf26", "white"])
def test_a_line_that_a_white_or_a_dark_page_hides_is_refused(shown, colour):
    fig = line_figure()
    fig.axes[0].plot([0, 10], [0, 1], color=colour)
    with pytest.raises(ValueError, match="contrast"):
        show(fig, alt=ALT)


def test_lines_in_the_book_s_colours_and_over_a_picture_are_taken(shown):
    fig, (ax, over) = plt.subplots(1, 2)
    ax.set(xlabel="step", ylabel="loss (nats)")
    for colour in (*style.SIZES, "k"):
        ax.plot([0, 1], color=colour)
    over.imshow(np.eye(3))
    over.axhline(1, color="white")
    over.set(xticks=[], yticks=[])
    show(fig, alt=ALT)
    assert shown


# --- markup


def test_the_svg_has_no_background_and_takes_the_page_s_text_colour():
    fig = line_figure()
    fig.axes[0].axhline(0.5, color="black")
    svg = style.to_svg(fig)
    assert "currentColor" in svg and style.BLUE in svg
    assert style.INK not in svg and "#000000" not in svg and "#ffffff" not in svg


def test_black_and_white_text_on_a_coloured_cell_keep_their_colour():
    fig, ax = plt.subplots()
    ax.axis("off")
    ax.text(0.2, 0.5, "dark", color="black")
    ax.text(0.8, 0.5, "pale", color="white")
    svg = style.to_svg(fig)
    assert "currentColor" not in svg and svg.count("fill:#ffffff") == 1


def test_ids_are_unique_over_a_page_and_references_resolve():
    page = "".join(style.to_svg(line_figure()) for _ in range(2))
    page += style.to_svg(line_figure(ylabel="other (nats)"))
    ids = re.findall(r' id="([^"]+)"', page)
    assert ids and len(ids) == len(set(ids))
    used = set(re.findall(r'href="#([^"]+)"', page)) | set(re.findall(r"url\(#([^)]+)\)", page))
    assert used == set(ids)


def test_the_same_figure_gives_the_same_svg_in_a_new_process():
    code = (
        "import matplotlib; matplotlib.use('agg'); import matplotlib.pyplot as plt\n"
        "from llmbook.figures import style; style.use(); fig, ax = plt.subplots()\n"
        "ax.plot([1, 2, 4]); ax.set(xlabel='a', ylabel='b'); print(style.to_svg(fig))"
    )
    first, second = (
        subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
        for _ in range(2)
    )
    assert first == second and b"<svg" in first


def test_a_plain_line_plot_stays_under_35_kb_and_parses_as_xml():
    from xml.etree import ElementTree

    svg = style.to_svg(line_figure())
    assert len(svg) < 35_000
    root = ElementTree.fromstring(svg)
    assert root.tag.endswith("svg") and len(root) > 3


def test_rounding_moves_no_point_by_more_than_a_hundredth_of_a_point():
    fig = line_figure()
    (curve,) = fig.axes[0].lines
    svg = style.to_svg(fig)
    height = fig.get_figheight() * 72
    expected = curve.get_transform().transform(curve.get_xydata()) * 72 / fig.dpi
    expected[:, 1] = height - expected[:, 1]
    (path,) = re.findall(rf'<path d="([^"]*)"[^>]*stroke:{style.BLUE}', svg)
    drawn = np.array(re.findall(r"[-\d.]+", path), dtype=float).reshape(-1, 2)
    np.testing.assert_allclose(drawn, expected, atol=0.0051)


def test_a_label_longer_than_its_axis_is_not_cut_and_other_figures_keep_their_size():
    def size(ylabel):
        fig = line_figure(ylabel=ylabel)
        fig.set_size_inches(5.4, 1.6)
        svg = style.to_svg(fig)
        return [float(v) for v in re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg).groups()]

    width, height = size("loss (nats)")
    assert (width, height) == (pytest.approx(5.4 * 72), pytest.approx(1.6 * 72))
    long = "the loss on unread text, in nats a token"
    assert size(long)[1] > height + 40


def test_no_label_is_cut_however_often_the_layout_was_made():
    fig, axes = plt.subplots(1, 2, figsize=(6.8, 3.3), sharey=True)
    for ax in axes:
        image = ax.imshow(np.eye(12))
        ax.set_yticks(range(12), ["expensive"] * 12, fontsize=8)
        ax.set_xticks(range(12), ["expensive"] * 12, fontsize=8, rotation=90)
    fig.colorbar(image, ax=axes, label="cosine", shrink=0.75)
    for _ in range(5):
        box = style._with_labels(fig)
        fig.canvas.draw()
        assert box.x0 <= fig.get_tightbbox().x0 and box.y0 <= fig.get_tightbbox().y0


def test_a_drawing_of_many_parts_becomes_png_with_the_alt_on_the_image():
    fig, ax = plt.subplots()
    ax.scatter(*np.random.default_rng(0).normal(size=(2, 9000)))
    ax.set(xlabel="x (m)", ylabel="y (m)")
    markup = style.to_html(fig, ALT)
    assert "<svg" not in markup and f'<img alt="{ALT}"' in markup
    assert "data:image/png;base64," in markup and len(markup) < 400_000


def test_text_is_never_drawn_smaller_than_nine_pixels():
    # the style's tick labels have 10 points
    for width, smallest in ((5.4, 10), (8.0, 10), (5.4, 7), (7.6, 7)):
        fig = line_figure()
        fig.set_size_inches(width, 3)
        fig.axes[0].text(0, 0, "small", fontsize=smallest)
        svg = style.to_svg(fig)
        narrow = int(re.search(r"min-width:(\d+)px", svg).group(1))
        assert narrow / (width * 72) * smallest >= 9
    assert int(re.search(r"min-width:(\d+)px", style.to_svg(line_figure())).group(1)) <= 358


def widths(markup):
    """Below which width each drawing scrolls."""
    return [int(v) for v in re.findall(r"min-width:(\d+)px", markup)]


def panels(columns, rows=1, width=7.2, **how):
    fig, axes = plt.subplots(rows, columns, figsize=(width, 2.5 * rows), squeeze=False, **how)
    for number, ax in enumerate(axes.flat):
        ax.plot([0, 1])
        ax.set(xlabel="step", title=f"panel {number}")
    axes[0, 0].set_ylabel("loss (nats)")
    for ax in axes.flat:
        if "sharey" not in how:
            ax.set_ylabel("loss (nats)")
    return fig


@pytest.mark.parametrize(
    ("columns", "rows", "width", "grid"),
    [(2, 1, 7.2, (2, 1)), (3, 1, 7.6, (3, 1)), (4, 1, 8, (2, 2)), (4, 2, 8.8, (4, 2))],
)
def test_what_is_too_wide_for_a_phone_has_a_second_drawing_that_fits(columns, rows, width, grid):
    fig = panels(columns, rows, width)
    height = fig.get_figheight() / rows
    markup = style.to_html(fig, ALT, "A caption.")
    wide, narrow = widths(markup)
    assert narrow <= 355 < wide and markup.count('role="img"') == 1
    assert f"@container (max-width:{wide - 1}px)" in markup and style._MOVED in markup
    spec = [ax.get_subplotspec() for ax in fig.axes]
    assert spec[0].get_gridspec().get_geometry() == grid
    assert [one.num1 for one in spec] == list(range(columns * rows))
    assert fig.get_figheight() == pytest.approx(height * grid[0])
    assert 9 <= 355 / (fig.get_figwidth() * 72) * 10 < 9.1  # of its smallest text, in pixels


def test_below_each_other_each_panel_has_the_axis_that_it_shared():
    fig = panels(2, sharey=True)
    assert not fig.axes[1].get_ylabel()
    style.to_html(fig, ALT)
    below = fig.axes[1]
    assert below.get_ylabel() == "loss (nats)"
    assert any(label.get_visible() and label.get_text() for label in below.get_yticklabels())


def test_one_wide_panel_is_drawn_narrower_and_nothing_is_said_of_an_order():
    fig = line_figure()
    fig.set_size_inches(7, 3)
    markup = style.to_html(fig, ALT, "A caption.")
    wide, narrow = widths(markup)
    assert narrow <= 355 < wide and style._MOVED not in markup
    assert len(widths(style.to_html(line_figure(), ALT))) == 1


@pytest.mark.filterwarnings("ignore:There are no gridspecs")
def test_panels_that_stand_in_no_single_grid_stay_where_they_are():
    fig = plt.figure(figsize=(7.2, 3))
    fig.add_axes((0.1, 0.1, 0.8, 0.8)).set(xlabel="step", ylabel="loss (nats)")
    over = plt.figure(figsize=(7.2, 3))
    over.add_subplot(2, 2, (1, 2)).set(xticks=[], ylabel="loss (nats)")
    over.add_subplot(2, 2, 3).set(xticks=[], ylabel="loss (nats)")
    for one in (fig, over):
        wide, narrow = widths(style.to_html(one, ALT))
        assert narrow <= 355 < wide
    assert over.axes[0].get_gridspec().get_geometry() == (2, 2)


def test_two_drawings_have_no_name_in_common():
    markup = style.to_html(panels(3), ALT)
    ids = re.findall(r' id="([^"]+)"', markup)
    assert len(ids) == len(set(ids)) and set(re.findall(r'href="#([^"]+)"', markup)) <= set(ids)
    shapes = re.findall(r'<path id="[^"]+" ([^>]*)/>', markup)
    assert len(shapes) == len(set(shapes)) > 10


# --- colours

MACHADO = {  # simulation of complete colour blindness, in linear RGB (Machado et al. 2009)
    "none": np.eye(3),
    "protan": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deutan": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    "tritan": np.array(
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ]
    ),
}


def linear_rgb(colour):
    c = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def contrast(one, other):
    a, b = sorted(float(linear_rgb(c) @ [0.2126, 0.7152, 0.0722]) for c in (one, other))
    return (b + 0.05) / (a + 0.05)


def lab(rgb):
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    xyz = np.array(to_xyz) @ np.clip(rgb, 0, 1) / [0.9505, 1, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("page", [LIGHT, DARK])
def test_every_series_colour_stands_out_from_the_page(page):
    assert min(contrast(colour, page) for colour in style.COLORS) >= 3


@pytest.mark.parametrize("sight", MACHADO)
def test_any_two_series_stay_apart_for_every_kind_of_sight(sight):
    seen = [lab(MACHADO[sight] @ linear_rgb(colour)) for colour in style.COLORS]
    nearest = min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2))
    assert nearest > 12


def test_the_sixth_series_differs_in_its_line_not_only_in_its_colour():
    fig, ax = plt.subplots()
    lines = [ax.plot([0, 1])[0] for _ in range(10)]
    assert len({(one.get_color(), one.get_linestyle()) for one in lines}) == 10


def test_context_puts_back_what_was_set_and_use_stays(request):
    before = matplotlib.rcParams.copy()
    with matplotlib.rc_context():
        matplotlib.rcParams["axes.grid"] = False
        with style.context():
            assert matplotlib.rcParams["axes.grid"]
        assert not matplotlib.rcParams["axes.grid"]
        style.use()
        assert matplotlib.rcParams["axes.grid"]
    assert matplotlib.rcParams == before


def test_importing_the_package_loads_no_plotting():
    code = (
        "import sys, llmbook.figures; "
        "print([m for m in ('matplotlib', 'ipywidgets', 'torch') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
