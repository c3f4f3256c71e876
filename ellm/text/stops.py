"""Stop strings: where text that comes in pieces ends."""

from __future__ import annotations

from ellm.text.piece import Unit


class StopMatcher:
    """Finds stop strings in text that comes in pieces, and holds back what may turn out to be the start of one.

    Attributes:
        matched: whether a stop string has come.
        stop: which it was.
        rest: the text behind the stop string.
    """

    def __init__(self, stops: list[str], include: bool = False):
        """Look for `stops`; `include`: the one that comes is part of the text."""
        self.stops = stops
        self.matched = False
        self.stop: str | None = None
        self.rest = ""
        self._include = include
        self._withheld = ""
        self._unseen = 0  # characters of it among which no stop string ends
        self._longest = max(map(len, stops), default=0)

    def push(self, text: str, looking: bool = True) -> str:
        """Text that can be shown; once a stop string has matched, the text before it.

        With `looking` false no stop string ends within this text, but one may begin there.
        """
        text = self._withheld + text
        if not looking:
            self._unseen = len(text)
        places = [(text.find(stop, max(0, self._unseen + 1 - len(stop))), -len(stop), stop) for stop in self.stops]
        found = [place for place in places if place[0] >= 0]
        if found:
            at, length, self.stop = min(found)
            self.matched, self._withheld, self.rest = True, "", text[at - length :]
            return text[: at - length if self._include else at]
        held = range(min(len(text), self._longest - 1), 0, -1)
        n = next((n for n in held if any(stop.startswith(text[-n:]) for stop in self.stops)), 0)
        shown = len(text) - n
        self._withheld, self._unseen = text[shown:], max(0, self._unseen - shown)
        return text[:shown]

    def finish(self) -> str:
        """What is still held back when the text has ended."""
        text, self._withheld = self._withheld, ""
        return text


class StopFilter:
    """Lets what is generated through up to a stop string, which may begin in one unit and end in another.

    The texts of tokens count, so that a stop string may be a special token. A token passes whole or not at all.
    """

    def __init__(self, stops: list[str], include: bool = False):
        self._matcher = StopMatcher(stops, include)
        self._withheld: list[Unit] = []
        self._due = 0  # characters of what is withheld that may pass

    @property
    def matched(self) -> bool:
        """Whether a stop string has come."""
        return self._matcher.matched

    @property
    def stop(self) -> str | None:
        """Which it was."""
        return self._matcher.stop

    def push(self, unit: Unit, looking: bool = True) -> list[Unit]:
        """What can be shown; once a stop string has matched, what is before it. `looking` as of StopMatcher."""
        if not self._matcher.stops:
            return [unit]
        self._withheld.append(unit)
        return self._release(len(self._matcher.push(unit.text, looking)))

    def finish(self) -> list[Unit]:
        """What is still held back when the answer has ended."""
        return self._release(len(self._matcher.finish()))

    def _release(self, length: int) -> list[Unit]:
        self._due += length
        released = []
        while self._withheld and self._due:
            text, is_token = self._withheld[0]
            if is_token and len(text) > self._due:
                break
            released.append(Unit(text[: self._due], is_token))
            if len(text) > self._due:
                self._withheld[0] = Unit(text[self._due :])
            else:
                del self._withheld[0]
            self._due -= len(released[-1].text)
        return released
