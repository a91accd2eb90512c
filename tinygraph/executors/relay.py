"""The relay: what nodes print, log and warn on workers goes to where the run writes that called them.

A worker says what it says with the number of a task. Here that becomes the call, and its run's outlet is given it. A
worker that says more than its run can write is not listened to for a while, so that its nodes have to wait, and nobody
else does. Nothing that goes wrong with what is said breaks a run: what a node does counts more than what it says.
"""

from __future__ import annotations

from tinygraph.engine import Engine
from tinygraph.executors.output import LAST_WORDS, Outlet, Said, Whose, write
from tinygraph.executors.roster import Hand


class Relay:
    """Passes on what workers say; used by the thread of their supervisor."""

    def __init__(self) -> None:
        self._outlets: dict[Engine, Outlet] = {}  # where what the tasks of a run say goes
        self._unheard: list[Hand] = []  # workers that say so much that they have to wait

    def open(self, engine: Engine, outlet: Outlet | None) -> None:
        """Begin to pass on what the tasks of a run say."""
        if outlet is not None:
            self._outlets[engine] = outlet

    def close(self, engine: Engine) -> None:
        """Give a run no more: what its tasks still say is written at once."""
        self._outlets.pop(engine, None)

    def hear(self, hand: Hand) -> None:
        """Pass on what the nodes on a worker have said."""
        said = hand.said()
        if said:
            self._pass_on(hand, said)

    def hear_out(self, hand: Hand, ended: list[int]) -> None:
        """Pass on lines that were begun and will not be longer, because their tasks have ended."""
        for task in getattr(hand.member, "begun", ()):
            if task not in hand.tasks or task in ended:
                self._pass_on(hand, hand.said(task))

    def hear_again(self) -> None:
        """Listen again to the workers that had to wait, if what they said has been written."""
        for hand in self._unheard[:]:
            outlet = self._outlets.get(hand.voice[2]) if hand.voice is not None else None
            if outlet is None or not outlet.full:
                self._unheard.remove(hand)
                hand.member.hear(True)  # type: ignore[attr-defined]

    def leave(self, hand: Hand, engine: Engine) -> None:
        """Hear a worker once more for a run that ends."""
        if hand.voice is not None and hand.voice[2] is engine:
            self.hear(hand)
            hand.voice = None

    def forget(self, hand: Hand) -> None:
        """Wait no more for a worker that is gone."""
        if hand in self._unheard:
            self._unheard.remove(hand)

    def _pass_on(self, hand: Hand, pieces: list[Said]) -> None:
        for said in pieces:
            whose, engine = _voice(hand, said)
            if said.text:
                hand.words = (hand.words + said.text)[-LAST_WORDS:]
            outlet = self._outlets.get(engine) if engine is not None else None
            if outlet is None:  # its run is over
                _write(whose, said)
                continue
            outlet.put(whose, said)
            if outlet.full and hand not in self._unheard:
                hand.member.hear(False)  # type: ignore[attr-defined]  # who says something has this as well
                self._unheard.append(hand)
                outlet.awaited = True  # said before we look once more, in `hear_again`: one of the two sees the other


def _voice(hand: Hand, said: Said) -> tuple[Whose, Engine | None]:
    """Return which task said something."""
    # All that a task said was heard before it was settled: what comes later is of the one that runs.
    task = hand.tasks.get(said.task) or hand.tasks.get(hand.member.running()[0])
    if task is not None and (hand.voice is None or hand.voice[0] != task.number):
        hand.words = ""
        hand.voice = task.number, Whose(task.call.name, task.call.number), task.engine
    return (Whose("worker", hand.member.number), None) if hand.voice is None else hand.voice[1:]


def _write(whose: Whose, said: Said) -> None:
    try:
        write(whose, said)
    except BaseException:  # a stream of the user's that ends the program: not this thread, and not for a line
        return
