"""Stop strings: where text that comes in pieces ends."""

from __future__ import annotations


class StopMatcher:
    """Finds stop strings in text that comes in pieces, and holds back what may turn out to be the start of one."""

    def __init__(self, stops: list[str]):
        self.stops = stops
        self.matched = False
        self._withheld = ""
        self._longest = max(map(len, stops), default=0)

    def push(self, text: str) -> str:
        """Text that can be shown; once a stop string has matched, the text before it."""
        text = self._withheld + text
        found = [at for at in map(text.find, self.stops) if at >= 0]
        if found:
            self.matched, self._withheld = True, ""
            return text[: min(found)]
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
