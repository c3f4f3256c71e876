"""SamplingParams, stop strings and memory: what needs no model."""

import numpy as np
import pytest

from ellm import InputError, SamplingParams
from ellm.serving.output import StopMatcher
from ellm.serving.ranges import PromptCache, RangePool
from ellm.system.memory import Mapping, available, cgroup_limits


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("temperature", "hot"),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("top_k", -2),
        ("top_k", 1.5),
        ("min_p", -0.1),
        ("min_p", 2),
        ("repeat_penalty", 0.0),
        ("max_tokens", 0),
        ("max_tokens", True),
        ("seed", -1),
        ("seed", 1 << 64),
        ("stop", ""),
        ("stop", ["a", ""]),
        ("stop", [1]),
        ("stop", 7),
        ("ignore_eos", "no"),
    ],
)
def test_a_value_out_of_range_is_named(field, value):
    with pytest.raises(InputError, match=field) as caught:
        SamplingParams(**{field: value})
    assert repr(value) in str(caught.value)


def test_params_cannot_be_made_wrong_afterwards():
    with pytest.raises(AttributeError):
        SamplingParams().max_tokens = 0


def test_the_record_holds_what_the_kernel_reads():
    params = SamplingParams(temperature=0.5, top_p=0.9, top_k=-1, min_p=0.1, repeat_penalty=1.2, seed=(1 << 64) - 1)
    record = params.record(4096)
    assert (record["temperature"], record["top_p"], record["min_p"], record["repeat_penalty"]) == (0.5, 0.9, 0.1, 1.2)
    assert (record["top_k"], record["seed"], record["history"]) == (0, (1 << 64) - 1, 4096)


def test_without_a_seed_each_request_has_its_own():
    assert SamplingParams().record(0)["seed"] != SamplingParams().record(0)["seed"]


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_text_before_a_stop_string_is_given_and_nothing_of_it(size):
    text, stops = "one aab two aaab three", ["aaab", "hree"]
    matcher, given = StopMatcher(stops), ""
    for begin in range(0, len(text), size):
        given += matcher.push(text[begin : begin + size])
        assert not any(given.endswith(stop[0]) for stop in stops) or matcher.matched
        if matcher.matched:
            break
    assert given == "one aab two " and matcher.matched and matcher.finish() == ""


def test_what_only_looked_like_a_stop_string_is_given_in_the_end():
    matcher = StopMatcher(["</end>"])
    assert [matcher.push("a <"), matcher.push("/en"), matcher.push("t </e"), matcher.finish()] == [
        "a ",
        "",
        "</ent ",
        "</e",
    ]
    assert not matcher.matched


def test_without_stop_strings_nothing_is_held_back():
    matcher = StopMatcher([])
    assert matcher.push("text") == "text" and matcher.finish() == ""


def test_a_range_reads_as_zeros_again_after_release():
    pool = RangePool(1 << 40)  # far more than there is: address space only
    first = pool.take()
    first.array[123456789] = 7
    pool.give(first)
    assert pool.take() is first and first.array[123456789] == 0
    assert pool.take() is not first
    pool.close()


def test_address_space_that_is_not_there_is_bad_input():
    with pytest.raises(InputError, match="address space for a test"):
        Mapping(1 << 60, "a test")


def test_available_memory_is_some_but_not_more_than_there_is():
    assert 1 << 20 < available() < 1 << 50


@pytest.mark.parametrize("version", [1, 2])
def test_the_memory_limit_of_every_cgroup_above_counts_and_cached_files_do_not(tmp_path, version):
    (tmp_path / "proc/self").mkdir(parents=True)
    top = tmp_path / "sys/fs/cgroup" / ("memory" if version == 1 else "")
    (top / "outer/inner").mkdir(parents=True)
    line, limit, used, prefix = (
        ("4:memory:/outer/inner", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
        if version == 1
        else ("0::/outer/inner", "memory.max", "memory.current", "")
    )
    (tmp_path / "proc/self/cgroup").write_text(f"7:cpu:/elsewhere\n{line}\n")
    (top / "outer/inner" / limit).write_text("max\n")
    (top / "outer/inner" / used).write_text("100\n")
    (top / "outer" / limit).write_text("5000\n")
    (top / "outer" / used).write_text("3000\n")
    (top / "outer/memory.stat").write_text(f"anon 1\n{prefix}active_file 200\n{prefix}inactive_file 800\n")
    assert cgroup_limits(tmp_path) == [(5000, 2000)]


def test_common_prefix():
    cache = PromptCache()
    tokens = np.array([1, 2, 3], np.int32)
    assert cache.common_prefix(tokens) == 0
    cache.tokens = np.array([1, 2, 4, 5], np.int32)
    assert cache.common_prefix(tokens) == 2
    assert cache.common_prefix(cache.tokens[:3]) == 3
