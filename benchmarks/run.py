"""Measure tinygraph beside the floor and print a table.

python benchmarks/run.py                          everything, about ten minutes
python benchmarks/run.py record inline            some rows
python benchmarks/run.py --quick                  a tenth of the size, once: does it work?
python benchmarks/run.py --peers joblib dask      other libraries in the same turns
python benchmarks/run.py --markdown               the table as it stands in README.md
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Iterator

from measure import FLOOR, OURS, CellFailed, Line
from peers import PEERS, importable
from rows import ROWS, Scale

COLUMNS = ("what", "unit", "ours", "floor", "ratio", "promised", "verdict")
WIDTHS = (52, 30, 9, 46, 8, 17, 7)


def main() -> int:
    """Run the rows that were asked for; returns 1 when one could not be measured."""
    parser = argparse.ArgumentParser(description="Measure tinygraph beside the floor, and print a table.")
    parser.add_argument("rows", nargs="*", metavar="row", help=f"which rows (default: all): {', '.join(ROWS)}")
    parser.add_argument("--quick", action="store_true", help="a tenth of the size, once")
    parser.add_argument("--peers", nargs="+", default=[], choices=PEERS, help="libraries to measure in the same turns")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    options = parser.parse_args()
    unknown = [row for row in options.rows if row not in ROWS]
    if unknown:
        parser.error(f"no row is called {unknown[0]!r}; the rows are {', '.join(ROWS)}")
    absent = [name for name in options.peers if not importable(name)]
    if absent:
        print(f"not installed, left out: {', '.join(absent)}", file=sys.stderr)
    scale = Scale(options.quick, [name for name in options.peers if name not in absent])

    failed = False
    print_row(COLUMNS, options.markdown)
    if options.markdown:
        print_row(("---",) * len(COLUMNS), True)
    for row in options.rows or ROWS:
        for line in lines_of(row, scale):
            failed |= bool(line.failure)
            for cells in cells_of(line):
                print_row(cells, options.markdown)
    print(f"\n{machine()}")
    return int(failed)


def lines_of(row: str, scale: Scale) -> Iterator[Line]:
    """Yield the lines of a row; a row that cannot be measured says so in the table, and the others go on."""
    try:
        yield from ROWS[row](scale)
    except CellFailed as error:
        yield Line(row, "", failure=str(error))


def cells_of(line: Line) -> Iterator[tuple[str, ...]]:
    """Yield the cells of a line, and under it one line for each peer."""
    promised = ""
    if line.promise is not None:
        promised = figure(line.promise.figure)
        if line.promise.ratio is not None:
            promised += f" ({ratio(line.promise.ratio)})"
    floor = f"{figure(line.figure(FLOOR))} ({line.floor_is})" if line.samples else ""
    yield line.what, line.unit, figure(line.figure(OURS)), floor, ratio(line.ratio()), promised, line.verdict
    for side in line.samples:
        if side not in (OURS, FLOOR):
            yield f"  {side}", line.unit, figure(line.figure(side)), "", ratio(line.ratio(side)), "", ""


def figure(value: float | None) -> str:
    """Return a figure as people read it: three digits, four where it is near one."""
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.4g}" if 0.9 < value < 2 else f"{value:.3g}"


def ratio(value: float | None) -> str:
    """Return a multiple of the floor."""
    return "" if value is None else f"{value:,.0f}x" if value >= 100 else f"{value:.3g}x"


def print_row(cells: tuple[str, ...], markdown: bool) -> None:
    """Print one row of the table as soon as it is known."""
    if markdown:
        print("|", " | ".join(cell.strip() for cell in cells), "|", flush=True)
    else:
        print("  ".join(cell.ljust(width) for cell, width in zip(cells, WIDTHS, strict=True)).rstrip(), flush=True)


def machine() -> str:
    """Return what the figures were measured on, and how busy it was."""
    busy = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, {python}{busy}"


if __name__ == "__main__":
    sys.exit(main())
