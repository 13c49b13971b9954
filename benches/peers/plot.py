"""Curves of a result as SVG files: what a token costs against tokens at once, and against depth."""

import math
import pathlib
import statistics

from table import read_limit, shape_config, touched

WIDTH, HEIGHT = 720, 440
LEFT, RIGHT, TOP, BOTTOM = 70, 170, 40, 50
COLOURS = ["#0b6e4f", "#c84630", "#3066be", "#8e5572", "#b38a00", "#555555"]


def costs(engine, what):
    """(x, milliseconds a token): x is tokens at once, or depth."""
    found = []
    for label, runs in engine["points"].items():
        kind, (tokens, depth) = label[:2], map(int, label[2:].split("@"))
        if kind == what and (what == "tg" or depth == 0):
            found.append((tokens if what == "pp" else max(1, depth), 1000 / statistics.median(runs)))
    return sorted(found)


def limits(place, group, xs):
    """What a token of decode takes at least, by the read bandwidth of the same rounds."""
    config, ours = shape_config(place, group["shape"]), group["engines"].get("qiao")
    if not config or not ours or not group["limits"]:
        return []
    return [(x, 1000 * touched(config, ours["about"], x, 0) / read_limit(group)) for x in xs]


class Axis:
    """A logarithmic axis over whole powers of a base."""

    def __init__(self, values, base, start, end):
        self.base = base
        self.low = math.floor(math.log(min(values), base) + 1e-9)
        self.high = max(self.low + 1, math.ceil(math.log(max(values), base) - 1e-9))
        self.start, self.end = start, end

    def at(self, value):
        share = (math.log(value, self.base) - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self):
        return [self.base ** power for power in range(self.low, self.high + 1)]


def word(value):
    return f"{value:g}" if value >= 1e-3 else f"{value:.0e}"


def text(x, y, content, anchor="middle", size=12, more=""):
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" {more}>{content}</text>'


def chart(title, x_title, curves):
    """One SVG; `curves` are (name, points, dashed)."""
    points = [point for _, curve, _ in curves for point in curve]
    x_axis = Axis([x for x, _ in points], 2, LEFT, WIDTH - RIGHT)
    y_axis = Axis([y for _, y in points], 10, HEIGHT - BOTTOM, TOP)
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif">',
             f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>', text(WIDTH / 2, 22, title, size=14)]
    for tick in x_axis.ticks():
        x = x_axis.at(tick)
        parts.append(f'<line x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{HEIGHT - BOTTOM}" stroke="#eee"/>')
        parts.append(text(x, HEIGHT - BOTTOM + 18, word(tick)))
    for tick in y_axis.ticks():
        y = y_axis.at(tick)
        parts.append(f'<line x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(text(LEFT - 8, y + 4, word(tick), "end"))
    parts.append(text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, x_title))
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(text(18, middle, "ms a token", more=f'transform="rotate(-90 18 {middle:.0f})"'))
    for number, (name, curve, dashed) in enumerate(curves):
        colour = COLOURS[number % len(COLOURS)]
        line = " ".join(f"{x_axis.at(x):.1f},{y_axis.at(y):.1f}" for x, y in curve)
        dash = 'stroke-dasharray="6 4"' if dashed else ""
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2" {dash}/>')
        if not dashed:
            parts += [f'<circle cx="{x_axis.at(x):.1f}" cy="{y_axis.at(y):.1f}" r="3" fill="{colour}"/>' for x, y in curve]
        y = TOP + 20 * number + 10
        parts.append(f'<line x1="{WIDTH - RIGHT + 12}" y1="{y}" x2="{WIDTH - RIGHT + 36}" y2="{y}" stroke="{colour}" stroke-width="2" {dash}/>')
        parts.append(text(WIDTH - RIGHT + 42, y + 4, name, "start"))
    return "\n".join([*parts, "</svg>"]) + "\n"


def draw(place, result, folder):
    """Writes two files a group, where it has at least two points of a kind; gives their paths."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    kinds = [("pp", "prompt", "tokens at once (rows of every product)"), ("tg", "depth", "tokens in the cache (1 stands for none)")]
    for group in result["groups"]:
        for what, name, x_title in kinds:
            curves = [(engine["peer"], costs(engine, what), False) for engine in group["engines"].values()]
            curves = [curve for curve in curves if len(curve[1]) > 1]
            if not curves:
                continue
            if what == "tg":
                xs = sorted({x for _, curve, _ in curves for x, _ in curve})
                least = limits(place, group, xs)
                curves += [("read bandwidth", least, True)] if least else []
            title = f"{group['shape']}, {group['format']}, {group['threads']} thread{'s' * (group['threads'] > 1)}"
            path = folder / f"{group['shape']}-{group['format']}-{group['threads']}-{name}.svg"
            path.write_text(chart(title, x_title, curves), encoding="utf-8")
            written.append(path)
    return written
