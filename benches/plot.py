#!/usr/bin/env python3
"""Draws latency and throughput over message size as an SVG, from what `tramline bench --json` wrote.

    benches/plot.py LATENCY.json THROUGHPUT.json > docs/benchmarks.svg

benches/table.sh makes both files and the picture. Python's standard library only.
"""

import html
import json
import math
import sys

WIDTH, HEIGHT = 460, 330
LEFT, TOP, RIGHT, BOTTOM = 62, 42, 14, 74
COLOURS = {
    "ring, in place": "#0b6e4f",
    "ring, copied in": "#e08e0b",
    "ring": "#0b6e4f",
    "ring, 99 %": "#8fc3ae",
    "socket": "#2b59c3",
    "socket, 99 %": "#a3b8e8",
    "limit: fill and read": "#777777",
    "limit: copy and read": "#bbbbbb",
}


def readable_bytes(size):
    for unit, name in ((1 << 20, "MiB"), (1 << 10, "KiB")):
        if size >= unit:
            return f"{size // unit} {name}"
    return f"{size} B"


def readable_micros(value):
    return f"{value:g} µs" if value < 1000 else f"{value / 1000:g} ms"


class Panel:
    """One pair of logarithmic axes, with lines."""

    def __init__(self, x, title, series, ticks):
        self.x, self.title, self.series = x, title, series
        points = [point for line in series.values() for point in line]
        if not points:
            sys.exit(f"nothing was measured for: {title}")
        self.sizes = sorted({size for size, _ in points})
        self.low = math.floor(math.log10(min(value for _, value in points)))
        self.high = math.ceil(math.log10(max(value for _, value in points)))
        self.ticks = ticks

    def place(self, size, value):
        wide, high = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
        first, last = math.log2(self.sizes[0]), math.log2(self.sizes[-1])
        across = (math.log2(size) - first) / max(last - first, 1)
        up = (math.log10(value) - self.low) / max(self.high - self.low, 1)
        return self.x + LEFT + across * wide, TOP + (1 - up) * high

    def draw(self):
        out = [f'<text x="{self.x + LEFT}" y="24" font-weight="bold">{html.escape(self.title)}</text>']
        right = self.x + WIDTH - RIGHT
        for power in range(self.low, self.high + 1):
            _, y = self.place(self.sizes[0], 10.0**power)
            out.append(f'<path d="M{self.x + LEFT} {y:.1f}H{right}" stroke="#ddd"/>')
            tick = html.escape(self.ticks(10.0**power))
            out.append(f'<text x="{self.x + LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick}</text>')
        for size in self.sizes:
            x, _ = self.place(size, 10.0**self.low)
            y = HEIGHT - BOTTOM
            out.append(f'<path d="M{x:.1f} {y}v4" stroke="#888"/>')
            out.append(
                f'<text x="{x:.1f}" y="{y + 14}" text-anchor="end" '
                f'transform="rotate(-35 {x:.1f} {y + 14})">{readable_bytes(size)}</text>'
            )
        for number, (name, line) in enumerate(self.series.items()):
            colour = COLOURS[name]
            places = [self.place(size, value) for size, value in sorted(line)]
            path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
            if not name.startswith("limit"):
                out.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
            out += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in places]
            x, y = self.x + LEFT + 8 + 190 * (number % 2), HEIGHT - 6 - 14 * (number // 2)
            out.append(f'<circle cx="{x}" cy="{y - 4}" r="4" fill="{colour}"/>')
            out.append(f'<text x="{x + 9}" y="{y}">{html.escape(name)}</text>')
        return out


# Queues and services are not about size; the picture shows the two planes.
PLANES = ("ring", "socket")


def latency(report):
    series = {}
    for it in report["measurements"]:
        if it["kind"] == "latency" and it["path"] in PLANES and it["rate"] is None and it["latency"]:
            path = it["path"]
            series.setdefault(path, []).append((it["bytes"], it["latency"]["p50"] / 1e3))
            series.setdefault(f"{path}, 99 %", []).append((it["bytes"], it["latency"]["p99"] / 1e3))
    return series


def throughput(report):
    series = {}
    for it in report["measurements"]:
        if it["kind"] == "throughput" and it["path"] in PLANES and it["readers"] == 1:
            name = it["path"]
            if name == "ring":
                name = "ring, in place" if it["in_place"] else "ring, copied in"
            series.setdefault(name, []).append((it["bytes"], it["gigabytes_per_second"]))
    names = {"fill_and_read": "limit: fill and read", "copy_and_read": "limit: copy and read"}
    for it in report["baselines"]:
        if it["kind"] in names and it["readers"] == 1:
            series.setdefault(names[it["kind"]], []).append((it["bytes"], it["value"]))
    return series


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    reports = []
    for name in sys.argv[1:]:
        with open(name, encoding="utf-8") as file:
            reports.append(json.load(file))
    panels = [
        Panel(0, "Round trip, adaptive wait, two cores", latency(reports[0]), readable_micros),
        Panel(WIDTH, "Throughput, one reader", throughput(reports[1]), lambda v: f"{v:g} GB/s"),
    ]
    print(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="11">'
    )
    print(f'<rect width="{2 * WIDTH}" height="{HEIGHT}" fill="white"/>')
    for panel in panels:
        print("\n".join(panel.draw()))
    print("</svg>")


if __name__ == "__main__":
    main()
