"""A census of Python: every module of the standard library is read, parsed and measured, on all cores.

The graph is nested, and grows while it runs. Nobody says beforehand how large it will be:

    census                looks which packages there are
    ├── package ...       a call for each, which looks which files it has
    │   ├── measure ...   a call for each, which reads and parses one file: the work, in parallel processes
    │   └── total         adds up what was found in the files
    └── total             adds up what was found in the packages

    python examples/census.py                  # a table, and a picture in images/census.png
    python examples/census.py --installed      # the packages that are installed, too
    python examples/census.py --limit 10       # at most ten files of each package
    python examples/census.py --compare 5      # one worker against two, five times
"""

import argparse
import ast
import os
import platform
import statistics
import sysconfig
import time
import warnings
from collections import Counter
from pathlib import Path

from tinygraph import File, Node, run

IMAGES = Path(__file__).resolve().parents[1] / "images"
LIBRARY = Path(sysconfig.get_paths()["stdlib"])
INSTALLED = Path(sysconfig.get_paths()["purelib"])
ROWS = 14  # packages with a line of their own in the table


# The graph. What is found is a triple everywhere, in a file as in a package: how many files, lines, ...; how many
# files import which module; and the longest functions.


@Node
def measure(file, path):
    """Read and parse one file. With a store it is read again only when its content has changed."""
    try:
        source = Path(file).read_bytes()
        with warnings.catch_warnings(action="ignore"):
            tree = ast.parse(source)
    except (OSError, SyntaxError, ValueError, RecursionError):
        return Counter(unparsable=1), Counter(), []

    counts = Counter(files=1, lines=source.count(b"\n"))
    imports = set()
    functions = []
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                functions.append((node.end_lineno - node.lineno + 1, node.name, path))
            case ast.ClassDef():
                counts["classes"] += 1
            case ast.Import():
                imports.update(alias.name.partition(".")[0] for alias in node.names)
            case ast.ImportFrom(level=0):
                imports.add(node.module.partition(".")[0])
    counts["functions"] = len(functions)
    return counts, Counter(imports), longest(functions)


@Node
def total(parts):
    """Add up what was found in some parts."""
    counts, imports, functions = zip(*parts, strict=True)
    return added(counts), added(imports), longest([function for some in functions for function in some])


def added(counters):
    return sum(counters, Counter())


def longest(functions):
    return sorted(functions, reverse=True)[:5]


@Node
def package(paths):
    """Measure the files of a package."""
    return total(measure.map([File(path) for path in paths], paths))


@Node(cache=False)  # it looks into folders, which no argument tells of
def census(folders, limit):
    """Measure the packages in some folders, and the single modules beside them."""
    found = {}  # files by package
    for folder in folders:
        for path in sorted(folder.iterdir()):
            if path.is_dir() and path.name not in ("site-packages", "dist-packages"):
                found[path.name] = sorted(path.rglob("*.py"))
            elif path.suffix == ".py":
                found.setdefault("single modules", []).append(path)
    packages = {name: package(files[:limit]) for name, files in found.items() if files}
    return packages, total(list(packages.values()))


# The report.


def bar(share, width):
    eighths = round(share * width * 8)
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()


def report(packages, everything):
    counts, imports, functions = everything
    columns = "files", "lines", "functions", "classes"

    def row(name, counts, shown=""):
        print(f"  {name:20}" + "".join(f"{counts[column]:>11,}" for column in columns) + f"   {shown}")

    def rule():
        print("  " + "─" * 64)

    print(f"\n  {'package':20}" + "".join(f"{column:>11}" for column in columns))
    rule()
    ranked = sorted(((counts, name) for name, (counts, _, _) in packages.items()), key=lambda pair: -pair[0]["lines"])
    for some, name in ranked[:ROWS]:
        row(name, some, bar(some["lines"] / ranked[0][0]["lines"], 30))
    if rest := ranked[ROWS:]:
        row(f"{len(rest)} more", sum((some for some, _ in rest), Counter()))
    rule()
    row("all", counts)

    print("\n  Imported by the most files")
    top = imports.most_common(8)
    for name, files in top:
        print(f"  {name:20}{files:>11,}   {bar(files / top[0][1], 30)}")

    print("\n  The longest functions, in lines")
    for lines, name, path in functions:
        print(f"  {lines:>11,}   {name}   {place(path)}")
    if counts["unparsable"]:
        print(f"\n  {counts['unparsable']} files could not be parsed and are left out.")


def place(path):
    folder = INSTALLED if path.is_relative_to(INSTALLED) else LIBRARY
    return path.relative_to(folder)


def compare(pairs, *arguments):
    """Take the census with one worker and with two, and print how much sooner two are done."""
    print(f"\n  1 worker   2 workers   ratio       ({os.cpu_count()} cores)")
    ratios = []
    for _ in range(pairs):
        took = []
        for workers in (1, 2):
            began = time.perf_counter()
            run(census(*arguments), workers=workers)
            took.append(time.perf_counter() - began)
        one, two = took
        ratios.append(one / two)
        print(f"  {one:6.2f} s   {two:7.2f} s   {one / two:5.2f}")
    print(f"\n  With two workers it is {statistics.median(ratios):.2f} times as fast (median of {pairs}).")


def main():
    parser = argparse.ArgumentParser(description="Measure every module of this Python.")
    parser.add_argument("--workers", type=int, help="how many processes (default: one for each core)")
    parser.add_argument("--limit", type=int, metavar="N", help="measure at most N files of each package")
    parser.add_argument("--installed", action="store_true", help="measure the packages that are installed, too")
    parser.add_argument("--compare", type=int, nargs="?", const=1, metavar="PAIRS", help="compare one worker with two")
    options = parser.parse_args()

    folders = [LIBRARY, INSTALLED] if options.installed else [LIBRARY]
    if options.compare:
        compare(options.compare, folders, options.limit)
        return

    future = census(folders, options.limit)
    result = run(future, workers=options.workers)
    print(f"\n  Python {platform.python_version()}, {len(future.graph):,} calls in {result.makespan:.1f} s")
    report(*result.value)

    future.graph.draw(IMAGES / "census.png")
    print("\n  How it was done is drawn in images/census.png")


if __name__ == "__main__":
    main()
