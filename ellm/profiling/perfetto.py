"""Writes a trace that ui.perfetto.dev opens: a track for each core, arrows along the critical paths, and counters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import Trace, TracePacket, TrackDescriptor, TrackEvent

from ellm.profiling.account import Accountant
from ellm.profiling.demand import demand
from ellm.profiling.dependencies import StepOrder, critical_path
from ellm.profiling.recorder import Step
from ellm.scheduler.spans import Activity

PROCESS, CALLER, READY, RATE, FIRST_CORE = 1, 2, 3, 4, 16  # numbers of tracks
SEQUENCE = 1
BINS = 200  # of a step, over which GB/s are means
SHORTEST_BIN_NS = 10_000
LABELS = {Activity.STEAL: "steal", Activity.PARK: "parked"}


def serialize(accountant: Accountant, names: list[str], steps: list[Step], model: str) -> bytes:
    """The trace of these steps, in Perfetto's protobuf format."""
    return b"".join(parts(accountant, names, steps, model))


def parts(accountant: Accountant, names: list[str], steps: list[Step], model: str) -> Iterator[bytes]:
    """That trace in parts, to be written one after the other: its tracks, and each step."""
    yield _serialized([*_tracks(names, model), *_caller(steps)])
    for step in steps:
        yield _serialized(_step(accountant, step))


def _serialized(packets: Iterable[TracePacket]) -> bytes:
    return Trace(packet=packets).SerializeToString()


def _tracks(names: list[str], model: str) -> Iterator[TracePacket]:
    yield _track(TrackDescriptor(uuid=PROCESS, process={"pid": 1, "process_name": f"ellm {model}"}))
    yield _track(TrackDescriptor(uuid=CALLER, parent_uuid=PROCESS, thread={"pid": 1, "tid": 1, "thread_name": "steps"}))
    for worker, name in enumerate(names):
        thread = {"pid": 1, "tid": FIRST_CORE + worker, "thread_name": name}
        yield _track(TrackDescriptor(uuid=FIRST_CORE + worker, parent_uuid=PROCESS, thread=thread))
    unit = {"unit": "UNIT_COUNT"}
    yield _track(TrackDescriptor(uuid=READY, parent_uuid=PROCESS, name="ready tasks", counter=unit))
    unit = {"unit_name": "GB/s"}
    yield _track(TrackDescriptor(uuid=RATE, parent_uuid=PROCESS, name="weights, keys and values GB/s", counter=unit))


def _track(descriptor: TrackDescriptor) -> TracePacket:
    packet = TracePacket(trusted_packet_sequence_id=SEQUENCE, track_descriptor=descriptor)
    if descriptor.uuid == PROCESS:
        packet.sequence_flags = TracePacket.SEQ_INCREMENTAL_STATE_CLEARED
    return packet


def _caller(steps: list[Step]) -> Iterator[TracePacket]:
    for step in steps:
        name = f"{step.phase} {step.rows} at {step.first}"
        yield from _slice(CALLER, name, "step", step.begin_ns, step.end_ns, {"step": step.number, "rows": step.rows})


def _step(accountant: Accountant, step: Step) -> Iterator[TracePacket]:
    """All that the workers did in a step."""
    names = accountant.program.op_names
    spans = accountant.of(step.number)
    order = accountant.order(step.number)
    flows = _flows(critical_path(order, step.begin_ns), step.number)
    for span in spans[spans["what"] < Activity.JOIN]:
        what, op = Activity(span["what"]), int(span["op"])
        if what <= Activity.STOLEN:
            category, name = "kernel", names[op]
        else:
            category = what.name.lower()
            name = LABELS.get(what) or f"wait for {names[op] if op >= 0 else 'the end'}"
        details = {"step": step.number}
        if what <= Activity.STOLEN:
            details |= {"group": span["group"], "block": span["block"], "task": span["index"]}
            details |= {"stolen": what == Activity.STOLEN}
        track = FIRST_CORE + int(span["worker"])
        begins, ends = flows.get(_key(span), ([], []))
        yield from _slice(track, name, category, span["start_ns"], span["end_ns"], details, begins, ends)
    yield from _counter(READY, *_ready(order, accountant, step))
    yield from _counter(RATE, *_rate(order.tasks, accountant, step))


def _key(span: np.void) -> tuple[int, int]:
    return int(span["group"]), int(span["index"])


def _flows(path, number: int) -> dict[tuple[int, int], tuple[list[int], list[int]]]:
    """The arrows that begin and those that end at each task of a critical path."""
    found = {_key(link.task): ([number << 24 | i + 1], [number << 24 | i]) for i, link in enumerate(path)}
    if path:
        found[_key(path[0].task)][1].clear()
        found[_key(path[-1].task)][0].clear()
    return found


def _slice(track, name, category, begin_ns, end_ns, details, begins=(), ends=()) -> Iterator[TracePacket]:
    event = TrackEvent(type=TrackEvent.TYPE_SLICE_BEGIN, track_uuid=track, name=name, categories=[category])
    for key, value in details.items():
        event.debug_annotations.add(name=key, int_value=int(value))
    event.flow_ids.extend(begins)
    event.terminating_flow_ids.extend(ends)
    yield TracePacket(timestamp=int(begin_ns), trusted_packet_sequence_id=SEQUENCE, track_event=event)
    event = TrackEvent(type=TrackEvent.TYPE_SLICE_END, track_uuid=track)
    yield TracePacket(timestamp=int(end_ns), trusted_packet_sequence_id=SEQUENCE, track_event=event)


def _counter(track: int, times: np.ndarray, values: np.ndarray) -> Iterator[TracePacket]:
    for moment, value in zip(times.tolist(), values.tolist(), strict=True):
        event = TrackEvent(type=TrackEvent.TYPE_COUNTER, track_uuid=track, double_counter_value=value)
        yield TracePacket(timestamp=int(moment), trusted_packet_sequence_id=SEQUENCE, track_event=event)


def _ready(order: StepOrder, accountant: Accountant, step: Step) -> tuple[np.ndarray, np.ndarray]:
    """Moments, and how many tasks were then ready and not begun."""
    tasks = order.tasks
    groups, sizes = np.unique(tasks["group"], return_counts=True)
    after = [order.ready_after(group) for group in groups.tolist()]
    ready = np.array([tasks["end_ns"][index] if index >= 0 else step.begin_ns for index in after], np.int64)
    times = np.concatenate([ready, tasks["start_ns"]])
    changes = np.concatenate([sizes, np.full(len(tasks), -1)])
    sorted_by_time = np.argsort(times, kind="stable")
    times, counts = times[sorted_by_time], np.cumsum(changes[sorted_by_time])
    last = np.append(times[1:] != times[:-1], True) if len(times) else np.zeros(0, bool)
    return times[last], counts[last].astype(float)


def _rate(tasks: np.ndarray, accountant: Accountant, step: Step) -> tuple[np.ndarray, np.ndarray]:
    """Moments, and the GB/s that the tasks read from then on; each task reads evenly while it runs."""
    ran = accountant.task_counts(step.number)
    size, _ = demand(accountant.program, step, ran)
    own = (size / np.maximum(ran, 1))[tasks["op"]]
    length = np.maximum(tasks["end_ns"] - tasks["start_ns"], 1)
    times = np.concatenate([tasks["start_ns"], tasks["start_ns"] + length])
    slopes = np.concatenate([own / length, -own / length])
    sorted_by_time = np.argsort(times, kind="stable")
    times, slope = times[sorted_by_time], np.cumsum(slopes[sorted_by_time])
    read = np.concatenate([[0.0], np.cumsum(slope[:-1] * np.diff(times))])
    width = max(SHORTEST_BIN_NS, step.ns // BINS)
    edges = np.minimum(np.arange(step.begin_ns, step.end_ns + width, width), step.end_ns)
    sizes = np.maximum(np.diff(np.interp(edges, times, read)), 0)  # rounding may leave less than nothing
    return edges, np.append(sizes / np.diff(edges), 0.0)
