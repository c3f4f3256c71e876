"""What an engine is doing, and what it has done."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Statistics:
    """Numbers for metrics; those from `preemptions` on only grow."""

    waiting: int = 0  # requests
    running: int = 0
    queued_tokens: int = 0  # of the requests that wait
    kv_bytes: int = 0  # of keys and values of the running ones
    prefix_bytes: int = 0  # of blocks that others may read, some of the running ones among them
    asleep: bool = False  # the model is given back until a request comes, and has it back
    wake_seconds: float = 0.0  # that the last waking took
    preemptions: int = 0  # times that a running request was sent back to wait
    prefix_queries: int = 0  # tokens of requests when they began
    prefix_hits: int = 0  # of these: tokens whose keys and values were there
    prefix_evictions: int = 0  # blocks
    prompt_tokens: int = 0  # computed, again where a request had to wait
    generated_tokens: int = 0
    steps: int = 0
    rows: int = 0  # of them: of prompts, of tokens to go on from, and of drafts
    expert_rows: int = 0  # rows that experts had, in all layers
    experts_woken: int = 0  # how often an expert had any in a step, so that its weights were read
    step_seconds: float = 0.0  # that they and those of prediction heads took
    sleeps: int = 0  # times that the model was given back
    wakes: int = 0  # and was had again
