"""Lines of the output, in the shape of OpenAI's batch output. They hold no time and nothing random."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from ellm.server.errors import ApiError

ANSWERED = b'"response":{"status_code":200,'  # never within a text, whose quotes are escaped


@dataclass(frozen=True)
class Answers:
    """Makes the lines of one batch; `batch` is its name."""

    batch: str

    def name(self, number: int) -> str:
        """Of the answer to a line, and of no other one."""
        return f"{self.batch}_{number}"

    def begin(self, number: int) -> bytes:
        """What the answer to a line, and none to another line or of another batch, begins with."""
        return f'{{"id":"batch_req_{self.name(number)}",'.encode()

    def number(self, line: bytes) -> int:
        """The line of the input that this is the answer to; 0 if it is none."""
        number = line.partition(b'",')[0].rpartition(b"_")[2]
        return int(number) if number.isdigit() and line.startswith(self.begin(int(number))) else 0

    def answer(self, number: int, custom_id: object, reply: BaseModel) -> bytes:
        """The line of an answer, without what would make two runs differ: its time, and what was found in a cache."""
        body = json.loads(reply.model_dump_json())
        body["created"] = 0
        body["usage"].pop("prompt_tokens_details", None)
        return self._line(number, custom_id, 200, body)

    def error(self, number: int, custom_id: object, error: ApiError) -> bytes:
        """The line of a request that was refused or has failed."""
        return self._line(number, custom_id, error.status, error.openai())

    def _line(self, number: int, custom_id: object, status: int, body: dict[str, Any]) -> bytes:
        rest = {
            "custom_id": custom_id if isinstance(custom_id, str) else f"line-{number}",
            "response": {"status_code": status, "request_id": f"req_{self.name(number)}", "body": body},
            "error": None,
        }
        text = json.dumps(rest, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        return self.begin(number) + text[1:].encode("utf-8", "backslashreplace") + b"\n"  # half a surrogate pair
