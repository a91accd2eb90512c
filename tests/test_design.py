"""What docs/design.md says about the house is what stands there."""

import configparser
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
DESIGN = (ROOT / "docs" / "design.md").read_text()


def test_the_arrows_are_those_of_the_contract():
    contract = configparser.ConfigParser()
    contract.read(ROOT / "setup.cfg")
    layers = contract["importlinter:contract:inwards"]["layers"].strip().splitlines()
    drawn = re.search(r"^## The arrows.*?```text\n(.*?)```", DESIGN, re.MULTILINE | re.DOTALL)[1].splitlines()
    assert [re.findall(r"\w+", line) for line in drawn] == [re.findall(r"\w+", layer) for layer in layers]


def test_every_room_is_in_the_tour():
    tour = DESIGN.partition("## The rooms")[2].partition("## The arrows")[0]
    package = ROOT / "tinygraph"
    rooms = {path.stem for path in package.rglob("*.py")}
    rooms |= {path.parent.name + "/" for path in package.glob("*/__init__.py")}
    assert {room for room in rooms if f"`{room}`" not in tour} == set()


def test_the_tour_names_no_room_that_is_not_there():
    """A word in small letters at the head of an item of the tour is a room."""
    tour = DESIGN.partition("## The rooms")[2].partition("## The arrows")[0]
    rooms = {path.stem for path in (ROOT / "tinygraph").rglob("*.py")}
    headed = set(re.findall(r"^- `([a-z]+)`:", tour, re.MULTILINE))
    followed = set(re.findall(r"`([a-z]+)` \(", tour))
    assert headed | followed <= rooms


def test_the_front_door_looks_up_events_when_they_are_asked_for():
    look = "import sys, tinygraph; assert 'tinygraph.events' not in sys.modules; tinygraph.Finished"
    subprocess.run([sys.executable, "-c", look], check=True)
