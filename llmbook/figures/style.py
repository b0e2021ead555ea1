"""One plotting style for the book, and `show`, which puts a figure on the page.

A figure must look right on a white page, on a dark one, in JupyterLab, in Colab and on a phone, so
`show` emits an inline SVG without a background whose text and axes are in `currentColor`: they
take the colour of the text around them, whatever the theme. The five series colours need no
second, dark version: each has a contrast of at least 3 with a white page and with a dark one, and
any two stay apart for a reader who does not see red, green or blue.

Text is drawn as outlines (`svg.fonttype: path`). Left as text, a formula such as 10⁻³ on a log
axis is placed letter by letter with the widths of a font that most readers do not have, and falls
apart; as outlines it looks the same everywhere and costs about 10 KB a figure.
"""

import base64
import hashlib
import html
import io
import math
import re
from collections import Counter
from contextlib import contextmanager

import matplotlib as mpl
from cycler import cycler

COLORS = ["#0e7ac4", "#d9541e", "#00966c", "#a8589f", "#7f8790"]
BLUE, ORANGE, GREEN, PURPLE, GREY = COLORS
INK = "#23272e"  # becomes the page's own text colour; for lines and text that carry no series
SIZES = [GREY, GREEN, BLUE, PURPLE, ORANGE, INK]  # of one thing, small to large
PAGES = ["#ffffff", "#121212"]  # the page by day and by night
CONTRAST = 3  # of a line with both
MUTED = (0x23 / 255, 0x27 / 255, 0x2E / 255, 0.62)  # ink, fainter: notes inside a plot

WIDTH = 5.4  # inches; 518 px as drawn, 0.9 of that on a phone
_GROW = 1.25  # a desktop's column has room for more
SVG_LIMIT = 150_000  # bytes; a larger drawing is shown as PNG
_SMALLEST_TEXT_PX = 9.0
_COLUMN_PX = 715  # what a fold leaves of a desktop's column: a wider figure would scroll there too
_PHONE_PX = 355  # what a phone's page leaves
_MOVED = "↓ Left to right reads top to bottom here. "
_MIN_ALT = 15

RC = {
    "figure.figsize": (WIDTH, 3.2),
    "figure.dpi": 96,
    "figure.facecolor": "none",
    "figure.constrained_layout.use": True,
    "savefig.facecolor": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "mathtext.fontset": "dejavusans",
    "font.size": 11,
    "axes.titlesize": 11.5,
    "axes.titleweight": "normal",
    "axes.titlelocation": "left",
    "axes.labelsize": 11,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "legend.fontsize": 10,
    "legend.frameon": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.facecolor": "none",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": INK,
    "grid.alpha": 0.13,
    "grid.linewidth": 0.8,
    "lines.linewidth": 1.9,
    "lines.markersize": 5,
    "patch.facecolor": BLUE,
    "hatch.color": INK,
    "image.cmap": "cividis",
    "axes.prop_cycle": cycler(linestyle=["-", "--"]) * cycler(color=COLORS),
    "svg.fonttype": "path",
    "text.hinting": "none",  # letters as wide in the layout as their outlines are
    "svg.hashsalt": "llmbook",
}

# `contain` lets a wide figure scroll in its own box instead of widening the page. Of a figure with
# two drawings the wide one shows, and the narrow one where the wide one would scroll.
# The last selector outweighs the pale box in which the theme puts every output in dark mode.
_CSS = (
    ".llm-figure{margin:.6rem 0;padding:0;color:inherit}"
    ".llm-figure .plot{overflow-x:auto;contain:inline-size}"
    ".llm-figure:has(.narrow){container-type:inline-size}"
    ".llm-figure svg,.llm-figure img{display:block;height:auto;margin:0 auto}"
    ".llm-figure .narrow{display:none}"
    ".llm-figure figcaption{margin:.4rem 0 0;color:inherit;font-family:inherit;font-weight:400;"
    "font-size:.9rem;line-height:1.45;opacity:.85;text-align:left}"
    ".llm-figure img{background:#fff;padding:0!important}"
    "html[theme=dark] .llm-figure{color:#e3e6ea}"
    "html[data-theme] .bd-content div.cell_output .output.text_html:has(.llm-figure){"
    "background:none;color:var(--pst-color-text-base,inherit);padding:0}"
)

_seen: Counter[str] = Counter()


def use():
    """Set the book's style for every figure drawn from here on."""
    mpl.rcParams.update(RC)


@contextmanager
def context():
    """The book's style inside a `with` block; what was set before comes back after it."""
    with mpl.rc_context(RC):
        yield


def show(fig, alt, caption=""):
    """Display a matplotlib figure with its text alternative and a visible caption, and close it.

    The figure appears as inline SVG that follows the page's theme, as PNG on white when the SVG
    would be over 150 KB, and as `[figure: …]` where only text can be shown. One that is too wide
    for a phone carries a second drawing, its panels below each other, which shows there instead.

    `alt` says in a sentence what a reader who cannot see the figure should learn from it;
    `caption`, below the figure, what every reader should: it can be read without the text around.
    Raises ValueError when `alt` is missing or too short, when an axis that shows numbers has no
    label (write the unit into it: "loss (nats)"), or when a line's colour is hard to see on a
    white page or on a dark one; TypeError when `fig` is no figure.
    """
    import matplotlib.pyplot as plt
    from IPython import get_ipython
    from IPython.display import display

    if not isinstance(fig, mpl.figure.Figure):
        raise TypeError(f"show needs a matplotlib Figure: got {type(fig).__name__}")
    alt = check_alt(alt)
    _check_axes(fig)
    _check_lines(fig)
    markup = to_html(fig, alt, caption)
    plt.close(fig)
    if get_ipython() is None:
        print(f"[figure: {alt}]")
        return
    display({"text/html": markup, "text/plain": f"[figure: {alt}]"}, raw=True)


def to_html(fig, alt, caption=""):
    """The markup that `show` displays: a `<figure>` with an inline SVG, or with a PNG."""
    alt = check_alt(alt)
    label = html.escape(alt, quote=True)
    svg = to_svg(fig).replace("<svg ", '<svg class="wide" ', 1)
    below = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
    if len(svg.encode()) <= SVG_LIMIT:
        name, switch, narrow = _for_a_phone(fig, svg)
        return (
            f'<figure class="llm-figure{name}"><style>{_CSS}{switch}</style>'
            f'<div class="plot" role="img" aria-label="{label}">{svg}{narrow}</div>{below}'
            "</figure>"
        )
    width = round(_GROW * fig.get_figwidth() * 96)
    png = io.BytesIO()
    plain = {"facecolor": "white", "metadata": {"Software": None}}
    fig.savefig(png, format="png", dpi=192, bbox_inches=_with_labels(fig), **plain)
    data = base64.b64encode(png.getvalue()).decode()
    return (
        f'<figure class="llm-figure"><style>{_CSS}</style><div class="plot"><img alt="{label}" '
        f'style="width:{width}px;max-width:100%" src="data:image/png;base64,{data}"></div>'
        f"{below}</figure>"
    )


def to_svg(fig):
    """The figure as an inline SVG: themed, small, its ids shared with no other on the page."""
    raw = io.StringIO()
    fig.savefig(raw, format="svg", metadata={"Date": None}, bbox_inches=_with_labels(fig))
    svg = raw.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.S)
    # a <style> in an inline SVG would style the whole page: its two rules move to the root
    svg = re.sub(r"<style[^>]*>\*\{(.*?)\}</style>", "", svg, flags=re.S)
    svg = svg.replace(INK, "currentColor").replace("stroke: #000000", "stroke: currentColor")
    svg = _shorten(svg)
    svg = _own_ids(svg)
    width, height = (float(v) for v in re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg).groups())
    natural = _GROW * width * 96 / 72
    narrow = math.ceil(min(width * _SMALLEST_TEXT_PX / _smallest_text(fig), _COLUMN_PX))
    box = f"width:{natural:.0f}px;max-width:100%;min-width:{narrow}px"
    root = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" '
        f'aria-hidden="true" focusable="false" '
        f'style="{box};stroke-linejoin:round;stroke-linecap:butt">'
    )
    return root + svg[svg.index(">") + 1 :].strip()


def _narrowest(svg):
    """The width in pixels below which a drawing of `to_svg` scrolls."""
    return int(re.search(r"min-width:(\d+)px", svg).group(1))


def _for_a_phone(fig, wide):
    """(class, style, SVG) of a drawing that shows where the SVG `wide` would scroll, or three "".

    It is as wide as the smallest text allows on a phone. The panels keep their order, in as many
    columns as fit and leave no gap.
    """
    needed = _narrowest(wide)
    if needed <= _PHONE_PX:
        return "", "", ""
    moved = _stack(fig, (_PHONE_PX - 1) * _smallest_text(fig) / _SMALLEST_TEXT_PX / 72)
    svg = _shared(to_svg(fig).replace("<svg ", '<svg class="narrow" ', 1), wide)
    if _narrowest(svg) >= needed or len(svg.encode()) > SVG_LIMIT:
        return "", "", ""
    name = f"w{needed}-moved" if moved else f"w{needed}"
    mine = f".llm-figure.{name}"  # outweighs _CSS, which every figure of a page brings again
    note = f'{mine} figcaption::before{{content:"{_MOVED}"}}' if moved else ""
    switch = (
        f"@container (max-width:{needed - 1}px){{{mine} .wide{{display:none}}"
        f"{mine} .narrow{{display:block}}{note}}}"
    )
    return f" {name}", switch, svg


def _shared(svg, other):
    """The drawing without the letters and marks that another one on the page defines already."""
    defined = re.compile(r'<path id="([^"]+)" ([^>]*)/>')
    known = {shape: name for name, shape in defined.findall(other)}
    twice = {name: known[shape] for name, shape in defined.findall(svg) if shape in known}
    svg = defined.sub(lambda m: "" if m.group(1) in twice else m.group(), svg)
    svg = re.sub(r'(?<=href="#)[^"]+', lambda m: twice.get(m.group(), m.group()), svg)
    return svg.replace("<defs></defs>", "")


def _stack(fig, width):
    """Make a figure `width` inches wide, its panels no narrower; whether one had to move for it.

    Panels of different grids, or over several cells of one, stay where they are.
    """
    before, height = fig.get_size_inches()
    fig.set_layout_engine("constrained")
    panels = {ax: ax.get_subplotspec() for ax in fig.axes if ax.get_subplotspec()}
    grids = {spec.get_gridspec() for spec in panels.values()}
    columns = max((grid.ncols for grid in grids), default=1)
    room = max(1, int(columns * width / before))
    fit = max(n for n in range(1, min(room, columns) + 1) if columns % n == 0)
    spread = len(grids) > 1 or any(spec.num1 != spec.num2 for spec in panels.values())
    if spread or fit == columns:
        fig.set_size_inches(width, height)
        return False
    (old,) = grids
    new = fig.add_gridspec(old.nrows * columns // fit, fit)
    first = {spec.rowspan.start: ax for ax, spec in panels.items() if spec.is_first_col()}
    for ax, spec in panels.items():
        ax.set_subplotspec(new[spec.num1])
        leader = first.get(spec.rowspan.start, ax)
        if spec.num1 % fit == 0 and ax.get_shared_y_axes().joined(ax, leader):
            ax.tick_params(axis="y", which="both", labelleft=True)
            ax.set_ylabel(ax.get_ylabel() or leader.get_ylabel())
    fig.set_size_inches(width, height / old.nrows * new.nrows)
    return True


def _with_labels(fig):
    """The figure's box in inches, grown where a label is longer than its axis and would be cut.

    The layout stays as it is then: drawn again, it would move and be cut by the box of before.
    """
    fig.canvas.draw()
    fig.set_layout_engine("none")
    return mpl.transforms.Bbox.union([fig.bbox_inches, fig.get_tightbbox()])


def check_alt(alt, what="figure"):
    """A usable text alternative, stripped; ValueError or TypeError when it is none."""
    if not isinstance(alt, str):
        raise TypeError(f"alt must be a string: got {type(alt).__name__}")
    alt = " ".join(alt.split())
    if len(alt) < _MIN_ALT or " " not in alt:
        raise ValueError(
            f"alt must say in a sentence what the {what} shows, for readers who cannot see it "
            f"(at least {_MIN_ALT} characters): got {alt!r}"
        )
    return alt


def _check_axes(fig):
    """Raise unless every axis that shows numbers says what they are."""
    fig.canvas.draw()
    shared = {"x": fig.get_supxlabel(), "y": fig.get_supylabel()}
    for number, ax in enumerate(fig.axes, 1):
        if not ax.axison or not ax.get_visible():
            continue
        for name, axis in (("x", ax.xaxis), ("y", ax.yaxis)):
            if not axis.get_visible() or axis.get_label_text().strip() or shared[name]:
                continue
            ticks = [t for t in axis.get_ticklabels() if t.get_visible()]
            if any(re.search(r"\d", t.get_text()) for t in ticks):
                raise ValueError(
                    f"the {name} axis of plot {number} shows numbers without a label: call "
                    f'ax.set_{name}label("quantity (unit)"), or ax.set_{name}ticks([]) if the '
                    "numbers mean nothing"
                )


def _check_lines(fig):
    """Raise unless every line stands out from both pages; a picture under it is its own page."""
    for ax in fig.axes:
        for line in ax.get_lines() if not ax.images else ():
            colour = mpl.colors.to_hex(line.get_color())
            least = min(contrast(colour, page) for page in PAGES)
            if colour not in (INK, "#000000") and least < CONTRAST:  # these two turn with the page
                raise ValueError(
                    f"a line of colour {colour} has a contrast of {least:.1f} with a white or a "
                    f"dark page, and {CONTRAST} is wanted: take one of style.COLORS, or style.INK"
                )


def contrast(one, other):
    """The contrast ratio of two colours, 1 to 21, as WCAG 2 defines it."""

    def luminance(colour):
        rgb = [
            c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
            for c in mpl.colors.to_rgb(colour)
        ]
        return 0.2126 * rgb[0] + 0.7152 * rgb[1] + 0.0722 * rgb[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def _smallest_text(fig):
    """The smallest font size in the figure, in points."""
    texts = [t for t in fig.findobj(mpl.text.Text) if t.get_visible() and t.get_text().strip()]
    return min((t.get_fontsize() for t in texts), default=mpl.rcParams["font.size"])


def _shorten(svg):
    """The same drawing in fewer bytes: two decimals of a point, no white space."""

    def two_decimals(match):
        text = re.sub(
            r"-?\d+\.\d{3,}(?:e-?\d+)?",
            lambda m: f"{float(m.group()):.2f}".rstrip("0").rstrip("."),
            match.group(),
        )
        if text.startswith("d="):
            text = re.sub(r"\s*([A-Za-z])\s*(?=[-\d.MLCQz\"])", r"\1", text[3:])
            text = f'd="{text}'
        return text

    svg = re.sub(r"\s*\n\s*", " ", svg)
    svg = re.sub(r'\b(?:d|x|y|width|height)="[^"]*"|translate\([^)]*\)', two_decimals, svg)
    svg = re.sub(r'<path d="[^"]*" style="fill: none"/>', "", svg)
    svg = re.sub(
        r'style="([^"]*)"', lambda m: m.group().replace(": ", ":").replace("; ", ";"), svg
    )
    svg = svg.replace("xlink:href", "href")
    svg = re.sub(r"(?<=>)\s+(?=<)", "", svg)
    # letters of a word, and marks of one kind in a row
    svg = re.sub(
        r'(<use [^>]*)transform="translate\((-?[\d.]+) 0\)"/>',
        lambda m: f'{m.group(1)}x="{round(float(m.group(2)), 1):g}"/>',
        svg,
    )
    return re.sub(
        r'(?:<use [^>]*?(?P<style> style="[^"]*")/>)(?:<use [^>]*?(?P=style)/>)+',
        lambda m: f"<g{m['style']}>{m.group().replace(m['style'], '')}</g>",
        svg,
    )


def _own_ids(svg):
    """Drop ids nobody refers to, and give the others names that only this figure has.

    The same figure shown twice on a page gets a second name, and the same notebook run twice gets
    the same ones. Groups that carry nothing once their id is gone are unwrapped.
    """
    used = dict.fromkeys(re.findall(r'(?:href="#|url\(#)([^")]+)', svg))
    digest = hashlib.sha256(svg.encode()).hexdigest()[:5]
    _seen[digest] += 1
    prefix = f"f{digest}" + (f"x{_seen[digest]}" if _seen[digest] > 1 else "")
    names = {old: f"{prefix}-{number}" for number, old in enumerate(used)}
    svg = re.sub(
        r' id="([^"]+)"',
        lambda m: f' id="{names[m.group(1)]}"' if m.group(1) in names else "",
        svg,
    )
    svg = re.sub(r'(href="#|url\(#)([^")]+)', lambda m: m.group(1) + names[m.group(2)], svg)
    kept = []

    def unwrap(match):
        if match.group() != "</g>":
            kept.append(match.group() != "<g>")
            return match.group() if kept[-1] else ""
        return match.group() if kept.pop() else ""

    return re.sub(r"<g(?: [^>]*)?>|</g>", unwrap, svg)
