"""How figures look: one style for the page and for papers, drawn by matplotlib."""

import html
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

from matplotlib import rc_context, rc_params_from_file
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure

from pet_calc.errors import ConfigError

# of the palette of Okabe and Ito, which colour-blind people can tell apart; markers and
# line styles differ as well
BEFORE, AFTER = "#d55e00", "#0072b2"
THIRD = "#009e73"
INK = "#1a1a1b"
# colours of the file, and what a page puts in their place: it knows light and dark
_CSS = {
    BEFORE: "var(--before)",
    AFTER: "var(--after)",
    THIRD: "var(--third)",
    INK: "currentColor",
}
STYLE: dict[Any, Any] = {
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "font.size": 9,
    "axes.labelsize": 9,
    "axes.titlesize": 9,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "lines.linewidth": 1.4,
    "lines.markersize": 4,
    "svg.fonttype": "none",
    # the same figure gives the same file
    "svg.hashsalt": "pet-calc",
}
_MARKER = re.compile(
    r'\s*<use xlink:href="([^"]+)" x="([^"]+)" y="([^"]+)" style="([^"]+)"/>'
)
# inches: three beside each other on a wide page, one on a phone
PANEL = (3.5, 2.9)


@contextmanager
def extra_style(path: str | Path | None) -> Iterator[None]:
    """Lay a style file of matplotlib over ours for the block.

    Raises:
        ConfigError: if it cannot be read as one.
    """
    if path is None:
        yield
        return
    try:
        extra = rc_params_from_file(str(path), use_default_template=False)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: no style file of matplotlib ({error})") from error
    before = dict(STYLE)
    STYLE.update(extra)
    try:
        yield
    finally:
        STYLE.clear()
        STYLE.update(before)


@contextmanager
def panel(size: tuple[float, float] = PANEL) -> Iterator[tuple[Figure, Axes]]:
    """Give a figure with one pair of axes, in the style."""
    with rc_context(STYLE):
        figure = Figure(figsize=size, layout="constrained")
        yield figure, figure.add_subplot()


def fade(colour: str) -> LinearSegmentedColormap:
    """Return a map from nearly clear to the colour, for densities on any ground."""
    rgb = to_rgb(colour)
    return LinearSegmentedColormap.from_list(
        "fade", [(*rgb, 0.12), (*rgb, 0.55), (*rgb, 1.0)]
    )


def to_svg(figure: Figure, label: str, prefix: str) -> str:
    """Return an SVG to be put into a page: it scales, and follows light and dark.

    Args:
        figure: drawn in the style.
        label: what it shows, for those who cannot see it.
        prefix: of its identifiers, its own on the page.
    """
    buffer = io.StringIO()
    with rc_context(STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    for colour, variable in _CSS.items():
        svg = svg.replace(colour, variable)
    svg = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font: \1 system-ui, sans-serif", svg)
    used = dict.fromkeys(re.findall(r"(?:url\(#|href=\"#)([\w-]+)", svg))
    names = {name: f"{prefix}-{i}" for i, name in enumerate(used)}
    svg = re.sub(
        r" id=\"([\w.-]+)\"",
        lambda m: f' id="{names[m[1]]}"' if m[1] in names else "",
        svg,
    )
    svg = re.sub(r"(url\(#|href=\"#)([\w-]+)", lambda m: f"{m[1]}{names[m[2]]}", svg)
    svg = re.sub(f"(?:{_MARKER.pattern})+", lambda m: _gather(m[0]), svg)
    head = re.search(r"viewBox=\"[^\"]*\"", svg)
    assert head is not None  # matplotlib writes one
    body = svg[svg.index(">") + 1 :]
    return (
        f'<svg role="img" aria-label="{html.escape(label)}" {head[0]} '
        'xmlns="http://www.w3.org/2000/svg" '
        f'xmlns:xlink="http://www.w3.org/1999/xlink">{body.strip()}'
    )


def _gather(markers: str) -> str:
    """Return markers in groups that have the style once: a quarter of the size."""
    found = [match.groups() for match in _MARKER.finditer(markers)]
    groups = []
    for (name, style), own in groupby(found, lambda each: (each[0], each[3])):
        places = "".join(
            f'<use xlink:href="{name}" x="{float(x):.2f}" y="{float(y):.2f}"/>'
            for _, x, y, _ in own
        )
        groups.append(f'<g style="{style}">{places}</g>')
    return "".join(groups)


def save(figure: Figure, path: Any) -> None:
    """Write a figure to a file, whose ending says of which kind."""
    with rc_context({**STYLE, "savefig.facecolor": "white"}):
        figure.savefig(path, dpi=300)
