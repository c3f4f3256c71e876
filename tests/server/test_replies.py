"""What streams are made of: parts in order, none forgotten, and frames that write what the whole record would."""

import pytest

from ellm.server.errors import ApiError
from ellm.server.openai_chat import ChatChunk, ChunkChoice, Delta
from ellm.server.replies import Events, Frame, event
from ellm.text.piece import Piece


class Scripted:
    """An answer of which poll after poll gives what is written there; it has ended when the last piece is there."""

    def __init__(self, *polls):
        self.polls = list(polls)

    @property
    def ended(self):
        return len(self.polls) <= 2

    def poll(self):
        found = self.polls.pop(0)
        if isinstance(found, Exception):
            raise found
        return None if found is None else [Piece(text, "answer") for text in found]


class Letters(Events):
    def begin(self):
        return b"<"

    def more(self, index, piece):
        return f"{index}{piece.text}".encode()

    def end(self, index):
        return f"{index}.".encode()

    def last(self):
        return b">"


def test_parts_come_in_order_and_are_waited_for_only_where_more_will_come():
    alone = Letters([Scripted([], ["a", "b"], [], ["c"], None)])
    assert [*alone.parts()] == [b"<", None, b"0a", b"0b", None, b"0c", b"0.", b">"]
    both = Letters([Scripted(["a"], None), Scripted(["x"], ["y"], [], None)])
    assert [*both.parts()] == [b"<", b"0a", b"1x", b"0.", b"1y", b"1.", b">"]


def test_what_was_written_before_a_failure_is_sent():
    parts = Letters([Scripted(["a"], [], ApiError(503, "no"), None)]).parts()
    assert [next(parts) for _ in range(3)] == [b"<", b"0a", None]
    with pytest.raises(ApiError):
        next(parts)


@pytest.mark.parametrize("text", ["", "a", '"\\\n\t\x00', "é\u2028😀", '"content":""'])
def test_a_frame_writes_what_the_record_would(text):
    def chunk(text):
        choice = ChunkChoice(index=3, delta=Delta(content=text))
        return ChatChunk(id="1", created=2, model='m"content":""', choices=[choice])

    assert Frame(chunk(""), "content").event(text) == event(chunk(text).model_dump_json())
