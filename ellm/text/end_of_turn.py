"""Tokens that end a turn by their names, whatever a checkpoint says of its end of sequence."""

from __future__ import annotations

from collections.abc import Mapping, Set

ENDS = frozenset(  # llama.cpp, src/llama-vocab.cpp, special_eog_ids
    {
        "<|eot_id|>",
        "<|eom_id|>",
        "<|im_end|>",
        "<|end|>",
        "<|return|>",
        "<|call|>",
        "<|flush|>",
        "<|calls|>",
        "<end_of_turn>",
        "<turn|>",
        "<|tool_response>",
        "<|endoftext|>",
        "<|end_of_text|>",
        "<｜end▁of▁sentence｜>",  # noqa: RUF001 - DeepSeek's name
        "<end_of_utterance>",
        "<EOT>",
        "_<EOT>",
        "[EOT]",
        "[EOS]",
        "<eos>",
        "</s>",
        "[e~[",
        *("<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"),
        *("<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>", "<|file_sep|>"),
    }
)
_HTML = "</s>"
_MESSAGE_END, _OTHER_ENDS = "<|end|>", {"<|return|>", "<|flush|>"}


def end_of_turn_ids(tokens: Mapping[str, int], special: Set[int]) -> set[int]:
    """The ids of tokens that end a turn, given a vocabulary's names, and which of its ids are special.

    `</s>` as an ordinary token is HTML. `<|end|>` only ends a message where a turn has an end of its own.
    """
    names = ENDS & tokens.keys()
    if _OTHER_ENDS & tokens.keys():
        names -= {_MESSAGE_END}
    return {tokens[name] for name in names if name != _HTML or tokens[name] in special}
