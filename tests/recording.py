"""recording.py SVG COMMAND...: runs a command on a terminal of its own, shows it, and draws it as an animated SVG, with the times
at which it printed. It knows what the demo prints: lines that stay, and bold, dim and green text."""

import os
import pty
import re
import sys
import time
from html import escape

ROWS, WIDTH, HEIGHT, MARGIN = 30, 7.8, 17, 14  # of the window, of a character, of a line, around them
LONGEST, END = 2.0, 6.0  # s, of a pause, and of the last picture
STYLES = {"1": "bold", "2": "dim", "32": "good", "0": ""}


def run(command):
    """What a command prints, as (seconds since its start, text)."""
    begin, printed = time.monotonic(), []

    def read(terminal):
        printed.append((time.monotonic() - begin, content := os.read(terminal, 65536)))
        return content

    if status := pty.spawn(command, read, lambda _: b""):
        sys.exit(f"{command[0]} failed: {os.waitstatus_to_exitcode(status)}")
    return [(when, content.decode().replace("\r", "")) for when, content in printed]


def shortened(printed):
    """The same with no pause that is longer than LONGEST."""
    last = now = 0
    for when, text in printed:
        now, last = now + min(when - last, LONGEST), when
        yield now, text


def pieces(printed):
    """Pieces of text of one style, as (seconds, row, column, style, text)."""
    row = column = 0
    style = ""
    for when, text in printed:
        for piece in re.split(r"(\x1b\[\d+m|\n)", text):
            if piece == "\n":
                row, column = row + 1, 0
            elif piece.startswith("\x1b"):
                style = STYLES[piece[2:-1]]
            elif piece:
                yield when, row, column, style, piece
                column += len(piece)


def texts(found, moment):
    """What was printed at a moment."""
    for when, row, column, style, text in found:
        if when == moment:
            x, y, length = MARGIN + column * WIDTH, MARGIN + (row + 0.75) * HEIGHT, len(text) * WIDTH
            yield f'<text x="{x:.1f}" y="{y:.1f}" class="{style}" textLength="{length:.1f}">{escape(text)}</text>'


def scrolled(found, moment):
    """How far the window is scrolled then."""
    return max(0, max(row for when, row, *_ in found if when <= moment) + 1 - ROWS) * HEIGHT


def svg(found):
    moments = sorted({when for when, *_ in found})
    total = moments[-1] + END
    width = round(max(column + len(text) for *_, column, _, text in found) * WIDTH) + 2 * MARGIN
    height = ROWS * HEIGHT + 2 * MARGIN
    appear, scroll, groups = [], [], []
    for number, moment in enumerate(moments):
        share = f"{100 * moment / total:.2f}%"
        appear.append(f"@keyframes m{number} {{ 0% {{ opacity: 0 }} {share} {{ opacity: 1 }} }}")
        scroll.append(f"{share} {{ transform: translateY(-{scrolled(found, moment)}px) }}")
        groups += [f'<g style="animation-name: m{number}">', *texts(found, moment), "</g>"]
    lines = "\n".join
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">
<title>What make demo prints, when it printed it; pauses are cut to {LONGEST:.0f} s</title>
<style>
text {{ font: 13px ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; fill: #1f2328; white-space: pre }}
rect {{ fill: #f6f8fa; stroke: #d1d9e0 }}
.bold {{ font-weight: bold }} .dim {{ fill: #59636e }} .good {{ fill: #1a7f37 }}
@media (prefers-color-scheme: dark) {{
text {{ fill: #e6edf3 }} rect {{ fill: #0d1117; stroke: #3d444d }} .dim {{ fill: #9198a1 }} .good {{ fill: #3fb950 }}
}}
.all {{ transform: translateY(-{scrolled(found, total)}px) }}
@media (prefers-reduced-motion: no-preference) {{
.all, .all g {{ animation: {total:.2f}s step-end infinite }}
.all {{ animation-name: scroll }}
@keyframes scroll {{
{lines(scroll)}
}}
{lines(appear)}
}}
</style>
<clipPath id="window"><rect y="{MARGIN}" width="{width}" height="{ROWS * HEIGHT}"/></clipPath>
<rect x="0.5" y="0.5" width="{width - 1}" height="{height - 1}" rx="6"/>
<g clip-path="url(#window)"><g class="all" xml:space="preserve">
{lines(groups)}
</g></g>
</svg>
"""


to, *command = sys.argv[1:]
drawn = svg(list(pieces(shortened([(0, "\x1b[1m$ make demo\x1b[0m\n"), *run(command)]))))
with open(to, "w") as file:
    file.write(drawn)
