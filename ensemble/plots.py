"""Plots as data: scales, ticks and shapes, which a template turns into SVG.

Lengths are in the units of the SVG's view box, some 0.95 pixels on a desktop and 0.8 on a phone.
Colours are classes, so that light, dark and print have their own.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

WIDTH, HEIGHT = 380.0, 300.0
TOP, RIGHT, BOTTOM, LEFT = 12.0, 14.0, 46.0, 64.0
LETTER = 6.3  # of small text, about so wide
SMALL, LARGE = 1e-3, 1e5  # figures beyond are told in a power of ten
TICKS = 5  # about so many on an axis


@dataclass(frozen=True)
class Scale:
    """From figures to places along an axis, linearly or by logarithm.

    >>> Scale(0, 10, 100, 200)(5), Scale(1, 100, 0, 50, logarithmic=True)(10)
    (150.0, 25.0)
    """

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False
    whole: bool = False  # ticks are whole numbers

    def __call__(self, value: float) -> float:
        """Return the place of a figure."""
        low, high, at = self.low, self.high, value
        if self.logarithmic:
            low, high, at = math.log(low), math.log(high), math.log(value)
        share = (at - low) / (high - low) if high > low else 0.5
        return round(self.start + share * (self.end - self.start), 2)

    def within(self, value: float) -> bool:
        """Tell whether a figure has a place between the ends."""
        return self.low <= value <= self.high

    @property
    def unit(self) -> float:
        """The power of ten that ticks are told in: 1, but for tiny and for huge figures."""
        most = max(abs(self.low), abs(self.high))
        if self.logarithmic or SMALL <= most < LARGE:
            return 1.0
        return float(10.0 ** math.floor(math.log10(most)))

    def named(self, what: str) -> str:
        """Name the axis, and what its ticks are told in.

        >>> Scale(1.5e-5, 1.7e-5, 0, 1).named("rmse"), Scale(0.1, 0.9, 0, 1).named("rmse")
        ('rmse, in 1e-05', 'rmse')
        """
        return what if self.unit == 1 else f"{what}, in {self.unit:g}"

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Places and round figures, from low to high.

        >>> [label for _, label in Scale(0.91, 0.985, 0, 1).ticks]
        ['0.92', '0.94', '0.96', '0.98']
        >>> [label for _, label in Scale(0.3, 400, 0, 1, logarithmic=True).ticks]
        ['1', '10', '100']
        >>> [label for _, label in Scale(1.52e-5, 1.68e-5, 0, 1).ticks]
        ['1.55', '1.60', '1.65']
        """
        if self.logarithmic:
            powers = range(math.ceil(math.log10(self.low)), math.floor(math.log10(self.high)) + 1)
            figures = [10.0**power for power in powers]
            for marks in ((1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9)):
                if len(figures) < 2:
                    few = (m * 10.0**p for p in range(-12, 13) for m in marks)
                    figures = [one for one in few if self.within(one)]
            return [(self(one), f"{one:g}") for one in figures]
        unit = self.unit
        step = max(_step((self.high - self.low) / unit), float(self.whole))
        first = math.ceil(self.low / unit / step - 1e-9)
        count = math.floor(self.high / unit / step + 1e-9) - first + 1
        digits = max(0, -math.floor(math.log10(step) + 1e-9))
        figures = [(first + i) * step for i in range(count)]
        return [(self(one * unit), f"{one + 0.0:.{digits}f}") for one in figures]


@dataclass(frozen=True)
class Shape:
    """Something drawn.

    Attributes:
        kind: which element of SVG.
        look: classes that colour it.
        at: attributes, numbers and texts.
        text: what it says: of ``text`` its content, of others what is shown under the pointer.
    """

    kind: Literal["polyline", "polygon", "circle", "line", "rect", "text", "path"]
    look: str
    at: dict[str, Any]
    text: str = ""


@dataclass(frozen=True)
class Plot:
    """One figure with its numbers.

    Attributes:
        key: a word that identifies it.
        title: what it shows, in a few words.
        says: the same for those who do not see it.
        x_label: of the horizontal axis.
        y_label: of the vertical axis.
        x_ticks: places and labels.
        y_ticks: places and labels.
        shapes: in the order of drawing.
        legend: looks and labels.
        note: how to read it.
        columns: of the numbers.
        rows: the numbers.
        height: of the view box.
        left: where the field begins.
    """

    key: str
    title: str
    says: str
    note: str
    shapes: list[Shape]
    columns: list[str]
    rows: list[list[str]]
    x_label: str = ""
    y_label: str = ""
    x_ticks: list[tuple[float, str]] = field(default_factory=list)
    y_ticks: list[tuple[float, str]] = field(default_factory=list)
    legend: list[tuple[str, str]] = field(default_factory=list)
    height: float = HEIGHT
    left: float = LEFT
    width: float = WIDTH
    right: float = WIDTH - RIGHT
    top: float = TOP

    @property
    def bottom(self) -> float:
        """Where the field ends."""
        return self.height - BOTTOM


def horizontal(
    values: Sequence[float], *, left: float = LEFT, logarithmic: bool = False, whole: bool = False
) -> Scale:
    """Return a scale of the horizontal axis that holds figures, with some room."""
    return replace(_scale(values, left, WIDTH - RIGHT, logarithmic), whole=whole)


def vertical(values: Sequence[float], *, logarithmic: bool = False) -> Scale:
    """Return a scale of the vertical axis, from the bottom up."""
    return _scale(values, HEIGHT - BOTTOM, TOP, logarithmic)


def line(places: Sequence[tuple[float, float]], look: str, text: str = "") -> Shape:
    """Return a line through places."""
    return Shape("polyline", look, {"points": _points(places)}, text)


def area(
    above: Sequence[tuple[float, float]], below: Sequence[tuple[float, float]], look: str
) -> Shape:
    """Return the area between two lines."""
    return Shape("polygon", look, {"points": _points([*above, *reversed(below)])})


def dot(x: float, y: float, look: str, text: str = "", r: float = 4.5) -> Shape:
    """Return a dot."""
    return Shape("circle", look, {"cx": x, "cy": y, "r": r}, text)


def stroke(x1: float, y1: float, x2: float, y2: float, look: str) -> Shape:
    """Return a straight line."""
    return Shape("line", look, {"x1": x1, "y1": y1, "x2": x2, "y2": y2})


def words(x: float, y: float, text: str, look: str = "label", anchor: str = "start") -> Shape:
    """Return a text that begins, has its middle, or ends at a place."""
    return Shape("text", look, {"x": x, "y": y, "text-anchor": anchor}, text)


def captions(marks: Sequence[tuple[float, float, str]], across: Scale, up: Scale) -> list[Shape]:
    """Write beside every mark what it is, where it hides no other mark or text; else not at all."""
    taken = [(x - 6, y - 6, x + 6, y + 6) for x, y, _ in marks]
    shapes = []
    for x, y, text in marks:
        width = LETTER * len(text)
        for left, middle in (
            (x + 7, y - 10),
            (x - 7 - width, y - 10),
            (x + 7, y + 11),
            (x - 7 - width, y + 11),
            (x - width / 2, y - 15),
            (x - width / 2, y + 15),
            *((left, y + down) for left in (x - 6, x + 6 - width) for down in (-15, 15)),
            (x + 10, y),
            (x - 10 - width, y),
        ):
            box = (left, middle - 6.5, left + width, middle + 6.5)
            inside = across.start <= box[0] and box[2] <= across.end
            inside = inside and up.end <= box[1] and box[3] <= up.start
            if inside and not any(_meet(box, one) for one in taken):
                taken.append(box)
                shapes.append(words(left, middle + 4, text, "label small"))
                break
    return shapes


def _meet(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _scale(values: Sequence[float], start: float, end: float, logarithmic: bool) -> Scale:
    low, high = min(values), max(values)
    if logarithmic:
        room = max((high / low) ** 0.06, 1.1)
        return Scale(low / room, high * room, start, end, True)
    room = 0.06 * (high - low) or max(abs(high), 1e-3) * 0.05
    return Scale(low - room, high + room, start, end)


def _step(span: float) -> float:
    """Return a round step of which a few fit into a span.

    >>> _step(0.075), _step(9.0), _step(120.0)
    (0.02, 2.0, 50.0)
    """
    rough = span / TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    factor = next((f for f in (1, 2, 5, 10) if f * power >= rough * 0.999), 10)
    return float(f"{factor * power:.6g}")


def _points(places: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:g},{y:g}" for x, y in places)
