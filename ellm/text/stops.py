"""Stop strings: where text that comes in pieces ends."""

from __future__ import annotations

from ellm.text.piece import Unit


class StopMatcher:
    """Finds stop strings in text that comes in pieces, and holds back what may turn out to be the start of one.

    Attributes:
        matched: whether a stop string has come.
        rest: the text behind the stop string.
    """

    def __init__(self, stops: list[str]):
        self.stops = stops
        self.matched = False
        self.rest = ""
        self._withheld = ""
        self._longest = max(map(len, stops), default=0)

    def push(self, text: str) -> str:
        """Text that can be shown; once a stop string has matched, the text before it."""
        text = self._withheld + text
        found = [(at, -len(stop)) for stop in self.stops if (at := text.find(stop)) >= 0]
        if found:
            at, length = min(found)
            self.matched, self._withheld, self.rest = True, "", text[at - length :]
            return text[:at]
        for n in range(min(len(text), self._longest - 1), 0, -1):
            if any(stop.startswith(text[-n:]) for stop in self.stops):
                self._withheld = text[-n:]
                return text[:-n]
        self._withheld = ""
        return text

    def finish(self) -> str:
        """What is still held back when the text has ended."""
        text, self._withheld = self._withheld, ""
        return text


class StopFilter:
    """Lets what is generated through up to a stop string, which may begin in one unit and end in another.

    The texts of tokens count, so that a stop string may be a special token. A token passes whole or not at all.
    """

    def __init__(self, stops: list[str]):
        self._matcher = StopMatcher(stops)
        self._withheld: list[Unit] = []
        self._due = 0  # characters of what is withheld that may pass

    @property
    def matched(self) -> bool:
        """Whether a stop string has come."""
        return self._matcher.matched

    def push(self, unit: Unit) -> list[Unit]:
        """What can be shown; once a stop string has matched, what is before it."""
        self._withheld.append(unit)
        return self._release(len(self._matcher.push(unit.text)))

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
