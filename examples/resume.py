"""The census with a store: nothing is computed twice, whatever happens in between.

    first      nothing is kept yet: everything runs
    again      nothing has changed: everything is found
    edited     one helper is changed: what it touches runs again, and it is said why
    killed     a new store, and the program is killed half-way
    resumed    what had finished is found, the rest runs

Each of them is a program of its own, as it would be from one day to the next.

    python examples/resume.py                  # the whole standard library
    python examples/resume.py --limit 3        # at most three files of each package
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tinygraph import Recalled, Started, Store, run

CENSUS = Path(__file__).with_name("census.py")


def take(folder, store, limit):
    """Take the census with the copy of its code that lies in a folder; print what ran, what was found, and why."""
    sys.path.insert(0, str(folder))
    import census

    began = time.perf_counter()
    result = run(census.census([census.LIBRARY], limit), store=store)
    _, (counts, _, _) = result.value
    took = time.perf_counter() - began
    ran = Counter(event.name for event in result.events if isinstance(event, Started))
    found = Counter(event.name for event in result.events if isinstance(event, Recalled))
    why = Counter((task.name, task.why) for task in Store(store).run(result.id).tasks if task.state == "finished")
    print(json.dumps({"lines": counts["lines"], "took": took, "ran": ran, "found": found, "why": [*why.items()]}))


def chapter(title, done):
    ran, found = Counter(done["ran"]), Counter(done["found"])

    def told(counter):
        return ", ".join(f"{count:,} {name}" for name, count in counter.most_common()) or "nothing"

    print(f"\n  {title:10}{done['took']:7.2f} s   ran    {told(ran)}")
    print(f"  {'':21}found  {told(found)}")
    return ran, found


def main():
    parser = argparse.ArgumentParser(description="Take the census of Python, again and again.")
    parser.add_argument("--limit", type=int, metavar="N", help="measure at most N files of each package")
    parser.add_argument("--take", nargs=2, metavar=("FOLDER", "STORE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.take:
        take(*options.take, options.limit)
        return

    with tempfile.TemporaryDirectory() as folder:
        code, store, other = Path(folder, "code"), Path(folder, "store"), Path(folder, "other")
        code.mkdir()
        shutil.copy(CENSUS, code)

        def start(store):
            limit = [] if options.limit is None else ["--limit", str(options.limit)]
            command = [sys.executable, __file__, "--take", str(code), str(store), *limit]
            return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

        def done(program):
            said, _ = program.communicate()
            return json.loads(said.splitlines()[-1])

        first = done(start(store))
        chapter("first", first)
        again = done(start(store))
        chapter("again", again)
        print(f"  {'':21}{first['took'] / again['took']:.0f} times as fast, the same {again['lines']:,} lines")

        text = (code / "census.py").read_text()
        (code / "census.py").write_text(text.replace("sum(counters, Counter())", "sum(list(counters), Counter())"))
        edited = done(start(store))
        chapter("edited", edited)
        for (name, why), count in edited["why"]:
            print(f"  {'':21}why    {count:,} {name}: {why}")

        program = start(other)
        half = sum(first["ran"].values()) // 2
        while program.poll() is None and finished(other) < half:
            time.sleep(0.02)
        program.kill()
        program.wait()
        before = finished(other)
        print(f"\n  killed               when {before:,} calls had finished")
        ran, found = chapter("resumed", done(start(other)))
        if found["measure"]:
            print(
                f"  {'':21}{found['measure']:,} of {ran['measure'] + found['measure']:,} files had been measured before"
            )


def finished(store):
    """Return how many calls have finished in the last run that a store knows of."""
    runs = Store(store).runs() if store.exists() else []
    return sum(task.state == "finished" for task in runs[-1].tasks) if runs else 0


if __name__ == "__main__":
    main()
