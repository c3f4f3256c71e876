"""Which tokens end a turn by their names."""

import pytest

from ellm.text.end_of_turn import end_of_turn_ids


def ends(*names, ordinary=()):
    tokens = {name: number for number, name in enumerate([*names, *ordinary, "word"])}
    found = end_of_turn_ids(tokens, set(range(len(names))))
    return {name for name, number in tokens.items() if number in found}


@pytest.mark.parametrize(
    "names, expected",
    [
        (
            ("<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|start_header_id|>"),
            {"<|end_of_text|>", "<|eot_id|>"},
        ),
        (("<|endoftext|>", "<|im_start|>", "<|im_end|>"), {"<|endoftext|>", "<|im_end|>"}),
        (("<s>", "</s>", "<unk>"), {"</s>"}),
        (("<|user|>", "<|assistant|>", "<|end|>"), {"<|end|>"}),
        (("<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|return|>", "<|call|>"), {"<|return|>", "<|call|>"}),
        (("<|end|>", "<|flush|>", "<|calls|>"), {"<|flush|>", "<|calls|>"}),
    ],
    ids=["llama3", "chatml", "llama2", "phi3", "harmony", "solar-open"],
)
def test_families(names, expected):
    assert ends(*names) == expected


def test_a_name_counts_though_the_vocabulary_does_not_call_it_special_unless_it_is_html():
    assert ends("<bos>", ordinary=("<|im_end|>", "</s>")) == {"<|im_end|>"}
