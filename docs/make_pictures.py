"""Writes the drawings of the README and of docs/design.md: `python docs/make_pictures.py`.

The figures of `ecgr-gain.svg` are read from the table of docs/results.md.  `tests/test_pictures.py` checks that the
files in the repository are the ones that this writes.
"""

import re
from html import escape
from pathlib import Path

DOCS = Path(__file__).parent
INK, GREY, BLUE, PALE, SERVER = "#222222", "#8a8a8a", "#0b6fb8", "#eef4fa", "#fdf3e3"
FONT = "font-family='Helvetica,Arial,sans-serif'"


def text(
    x: float, y: float, words: str, size: int = 13, colour: str = INK, anchor: str = "start", bold: bool = False
) -> str:
    """A line of text."""
    weight = " font-weight='bold'" if bold else ""
    return (
        f"<text x='{x:g}' y='{y:g}' {FONT} font-size='{size}' fill='{colour}' text-anchor='{anchor}'{weight}>"
        f"{escape(words)}</text>"
    )


def line(x1: float, y1: float, x2: float, y2: float, colour: str = GREY, width: float = 1, more: str = "") -> str:
    """A straight line."""
    return f"<line x1='{x1:g}' y1='{y1:g}' x2='{x2:g}' y2='{y2:g}' stroke='{colour}' stroke-width='{width:g}'{more}/>"


def drawing(width: int, height: int, parts: list[str], summary: str) -> str:
    """A whole picture on a white ground."""
    size = f"viewBox='0 0 {width} {height}' width='{width}' height='{height}'"
    head = f"<svg xmlns='http://www.w3.org/2000/svg' {size} role='img'>"
    ground = f"<rect width='{width}' height='{height}' fill='white'/>"
    return "\n".join([head, f"<title>{escape(summary)}</title>", ground, *parts, "</svg>", ""])


def results() -> dict[str, tuple[float, float]]:
    """Mean accuracy and half the width of its 95 % interval for each method on Fashion-MNIST, from docs/results.md."""
    section = (DOCS / "results.md").read_text().partition("## ECGR on Fashion-MNIST")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ([\w+-]+) \| (0\.\d+) \| (0\.\d+) \|", section, re.MULTILINE)
    return {name: (float(mean), float(half)) for name, mean, half in rows}


def gain() -> str:
    """Accuracy of three methods without and with ECGR."""
    values, left, right = results(), 150, 700

    def place(accuracy: float) -> float:
        return left + (accuracy - 0.45) / 0.35 * (right - left)

    parts = [
        text(20, 30, "Fashion-MNIST, ten clients with few classes each", 17, bold=True),
        text(
            20,
            50,
            "Test accuracy without and with ECGR: mean of five seeds over rounds 11 to 20, and its 95 % interval",
            12,
            GREY,
        ),
    ]
    for tick in (0.5, 0.6, 0.7, 0.8):
        parts += [line(place(tick), 70, place(tick), 245, "#e2e2e2")]
        parts += [text(place(tick), 263, f"{tick:.0%}", 12, GREY, "middle")]
    for row, (name, shown) in enumerate({"fedavg": "FedAvg", "fedprox": "FedProx", "fednova": "FedNova"}.items()):
        y = 100 + 55 * row
        (without, half), (with_, other) = values[name], values[f"{name}+ecgr"]
        parts.append(text(left - 20, y + 5, shown, 14, anchor="end", bold=True))
        for mean, width, colour, at in ((without, half, GREY, y - 8), (with_, other, BLUE, y + 8)):
            parts.append(line(place(mean - width), at, place(mean + width), at, colour, 2))
            parts.append(f"<circle cx='{place(mean):g}' cy='{at}' r='6' fill='{colour}'/>")
        parts.append(text(right + 15, y + 5, f"+{100 * (with_ - without):.1f} points", 14, BLUE, bold=True))
    parts += [f"<circle cx='{left}' cy='285' r='6' fill='{GREY}'/>", text(left + 12, 290, "the method alone", 12)]
    parts += [
        f"<circle cx='{left + 150}' cy='285' r='6' fill='{BLUE}'/>",
        text(left + 162, 290, "with ECGR in its chain", 12),
    ]
    return drawing(830, 305, parts, "Accuracy of FedAvg, FedProx and FedNova on Fashion-MNIST, without and with ECGR")


ROUND = (  # side, title, what happens
    ("server", "sample", "the sampler draws the cohort"),
    ("server", "broadcast", "the model w_t, and values from each stage's state"),
    ("client", "train", "K local steps; each gradient passes step()"),
    ("client", "combine", "the steps become one delta"),
    ("client", "send", "weigh, clip, encode: left to right in the chain"),
    ("server", "guard", "finite, shape, number type, bounds"),
    ("server", "collect", "decode and lift; exact sum in any order"),
    ("server", "aggregate", "the sum becomes one update"),
    ("server", "release", "noise, after its budget is reserved"),
    ("server", "receive", "server optimizer: w_t becomes w_t+1"),
)


def round_() -> str:
    """The straight line of one update through a round."""
    step, top, server, client, width, height = 46, 74, 20, 440, 380, 34
    parts = [
        text(20, 28, "One round", 17, bold=True),
        text(server, 58, "server", 14, GREY, bold=True),
        text(client, 58, "participant: one for each client of the cohort", 14, GREY, bold=True),
        line(420, 64, 420, top + step * len(ROUND), "#bbbbbb", 1, " stroke-dasharray='4 4'"),
        text(426, top + step * len(ROUND) - 8, "requests and replies cross here, as messages", 11, GREY),
    ]
    before = None
    for row, (side, title, does) in enumerate(ROUND):
        x, y = (server if side == "server" else client), top + step * row
        fill = SERVER if side == "server" else PALE
        box = f"x='{x}' y='{y}' width='{width}' height='{height}' rx='6'"
        parts.append(f"<rect {box} fill='{fill}' stroke='{GREY}'/>")
        parts.append(text(x + 10, y + 22, title, 13, bold=True))
        parts.append(text(x + 98, y + 22, does, 11))
        if before is not None:
            from_x = (server if before == "server" else client) + width / 2
            parts.append(line(from_x, y - step + height, x + width / 2, y - 2, INK, 1.4, " marker-end='url(#arrow)'"))
        before = side
    arrow = (
        "<defs><marker id='arrow' viewBox='0 0 8 8' refX='7' refY='4' markerWidth='7' markerHeight='7' orient='auto'>"
        f"<path d='M0 0L8 4L0 8z' fill='{INK}'/></marker></defs>"
    )
    parts.insert(0, arrow)
    bottom = top + step * len(ROUND)
    parts.append(
        text(
            server,
            bottom + 16,
            "then: commit or drop each client's pending memory, journal, evaluate, next round",
            12,
            GREY,
        )
    )
    return drawing(830, bottom + 30, parts, "One round of a federated algorithm, from the cohort to the next model")


def pictures() -> dict[str, str]:
    """The text of each file by its name."""
    return {"ecgr-gain.svg": gain(), "round.svg": round_()}


def main() -> None:
    """Writes them."""
    for name, picture in pictures().items():
        (DOCS / "images" / name).write_text(picture)


if __name__ == "__main__":
    main()
