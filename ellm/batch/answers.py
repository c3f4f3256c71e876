"""Lines of the output, in the shape of OpenAI's batch output. They hold no time and nothing random."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from ellm.batch.request import Refusal, Request
from ellm.serving.output import Output

ANSWERED = b'"response":{"status_code":200,'  # never within a text, whose quotes are escaped
REFUSED, FAILED = 400, 500


@dataclass(frozen=True)
class Answers:
    """Makes the lines of one batch: `batch` is its name, `model` the model's."""

    batch: str
    model: str

    def begin(self, number: int) -> bytes:
        """What the answer to a line, and none to another line or of another batch, begins with."""
        return f'{{"id":"batch_req_{self.batch}_{number}",'.encode()

    def number(self, line: bytes) -> int:
        """The line of the input that this is the answer to; 0 if it is none."""
        number = line.partition(b'",')[0].rpartition(b"_")[2]
        return int(number) if number.isdigit() and line.startswith(self.begin(int(number))) else 0

    def answer(self, number: int, request: Request, output: Output) -> bytes:
        """The line of an answer."""
        choice: dict[str, Any] = {"index": 0}
        if request.chat:
            message = {"role": "assistant", "content": output.text}
            if output.reasoning is not None:
                message["reasoning_content"] = output.reasoning
            choice["message"] = message
        else:
            choice["text"] = output.text
        kind, name = ("chat.completion", "chatcmpl") if request.chat else ("text_completion", "cmpl")
        prompt, generated = len(output.prompt_token_ids), len(output.token_ids)
        body = {
            "id": f"{name}-{self.batch}_{number}",
            "object": kind,
            "created": 0,  # a time would make two runs differ
            "model": self.model,
            "choices": [choice | {"logprobs": None, "finish_reason": output.finish_reason}],
            "usage": {
                "prompt_tokens": prompt,
                "completion_tokens": generated,
                "total_tokens": prompt + generated,
                "completion_tokens_details": {"reasoning_tokens": int(output.metrics.reasoning_tokens)},
            },
        }
        return self._line(number, request.custom_id, 200, body)

    def error(self, number: int, custom_id: object, error: Exception, status: int) -> bytes:
        """The line of a request that was refused or has failed."""
        about = {
            "message": str(error),
            "type": "invalid_request_error" if status == REFUSED else "server_error",
            "param": error.param if isinstance(error, Refusal) else None,
            "code": None,
        }
        return self._line(number, custom_id, status, {"error": about})

    def _line(self, number: int, custom_id: object, status: int, body: dict[str, Any]) -> bytes:
        response = {"status_code": status, "request_id": f"req_{self.batch}_{number}", "body": body}
        rest = {
            "custom_id": custom_id if isinstance(custom_id, str) else f"line-{number}",
            "response": response,
            "error": None,
        }
        text = json.dumps(rest, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        return (
            self.begin(number) + text[1:].encode("utf-8", "backslashreplace") + b"\n"
        )  # half a surrogate pair: \udxxx
