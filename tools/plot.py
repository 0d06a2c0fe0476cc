"""results.svg: bars on a logarithmic scale, one panel for each work, by hand."""

import math
from xml.sax.saxutils import escape

COLOURS = {"limit": "#9aa0a6", "ouro": "#d1495b", "asio": "#2e86ab", "Go": "#00a6a6", "tokio": "#b5651d",
           "join_all": "#d9a066", "Node": "#5a9e4b", "uvloop": "#6a5acd", "asyncio": "#4b5d8f"}
COLUMNS = 3
WIDTH, MARGIN, GAP = 1260, 24, 28
HEAD, ROW, BAR, TITLE, AXIS = 78, 19, 13, 24, 22
NAMES, VALUES = 62, 66  # left and right of the bars


def readable(ns):
    """A time in its own unit: 6.2 ns, 339 ns, 10.5 µs."""
    for unit, size in (("s", 1e9), ("ms", 1e6), ("µs", 1e3)):
        if ns >= size:
            return f"{ns / size:.3g} {unit}"
    return f"{ns:.3g} ns" if ns >= 10 else f"{ns:.2g} ns"


def text(x, y, words, size=12, anchor="start", extra=""):
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" {extra}>{escape(words)}</text>'


def panel(x, y, width, title, bars, low, high):
    """One work: a bar for each (name, ns or None), from the top down."""
    left, room = x + NAMES, width - NAMES - VALUES
    bottom = y + TITLE + ROW * len(bars)

    def at(exponent):
        return left + room * (exponent - low) / (high - low)

    out = [text(x, y + 14, title, 13, extra='font-weight="bold"')]
    for exponent in range(low, high + 1):
        out.append(f'<line x1="{at(exponent):.1f}" y1="{y + TITLE - 2}" x2="{at(exponent):.1f}" y2="{bottom}" '
                   'stroke="#e3e5e8"/>')
        out.append(text(at(exponent), bottom + 14, readable(10.0 ** exponent), 10, "middle", 'fill="#6b7075"'))
    for number, (name, ns) in enumerate(bars):
        top = y + TITLE + ROW * number + (ROW - BAR) / 2
        base = top + BAR - 2.5
        weight = 'font-weight="bold"' if name == "ouro" else ""
        out.append(text(left - 6, base, name, 12, "end", weight))
        if ns is None:
            out.append(text(left + 5, base, "–", 12, extra='fill="#6b7075"'))
            continue
        length = max(1.5, at(math.log10(ns)) - left)
        out.append(f'<rect x="{left:.1f}" y="{top:.1f}" width="{length:.1f}" height="{BAR}" '
                   f'fill="{COLOURS.get(name, "#777")}"/>')
        out.append(text(left + length + 5, base, readable(ns), 11, extra=weight))
    return out


def write(path, panels, subtitle):
    """panels: (title, [(name, ns or None)...])."""
    values = [ns for _, bars in panels for _, ns in bars if ns]
    low = math.floor(math.log10(min(values)))
    high = max(low + 1, math.ceil(math.log10(max(values))))
    width = (WIDTH - 2 * MARGIN - (COLUMNS - 1) * GAP) / COLUMNS
    out, y = [], HEAD
    for start in range(0, len(panels), COLUMNS):
        line = panels[start:start + COLUMNS]
        for column, (title, bars) in enumerate(line):
            out += panel(MARGIN + column * (width + GAP), y, width, title, bars, low, high)
        y += TITLE + ROW * max(len(bars) for _, bars in line) + AXIS + GAP
    head = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y}" viewBox="0 0 {WIDTH} {y}" '
            'font-family="DejaVu Sans, Helvetica, Arial, sans-serif" fill="#202124">',
            f'<rect width="{WIDTH}" height="{y}" fill="#ffffff"/>',
            text(MARGIN, 32, "ouro beside its peers: time for each, the least of all runs, on a logarithmic scale", 19,
                 extra='font-weight="bold"'),
            text(MARGIN, 54, subtitle, 12, extra='fill="#6b7075"')]
    path.write_text("\n".join([*head, *out, "</svg>", ""]), encoding="utf-8")
