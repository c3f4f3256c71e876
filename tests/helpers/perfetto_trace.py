"""Reads what `ellm profile --trace` writes, by Perfetto's own schema, or asks its trace processor."""

from dataclasses import dataclass

import numpy as np
from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import Trace, TrackEvent

TABLES = """
create perfetto table task as
select slice.id, ts, ts + dur as ends, slice.name as op, thread.name as core,
       extract_arg(slice.arg_set_id, 'debug.step') as step, extract_arg(slice.arg_set_id, 'debug.group') as grp
from slice join thread_track on slice.track_id = thread_track.id join thread using (utid)
where category = 'kernel';

create perfetto table path as
select task.*, arrive.slice_out as source, leave.slice_in as target
from task left join flow as arrive on arrive.slice_in = task.id left join flow as leave on leave.slice_out = task.id
where arrive.id is not null or leave.id is not null;

create perfetto table waits as
with recursive fired(event, cause) as (
  select event, grp from signals
  union select other, cause from fired join triggers using (event)
)
select grp, cause from publishes join fired using (event) union select grp, cause from wakes;
"""
OVERLAPPING = """
select count(*) as n from (
  select depth, dur, ts, max(ts + dur) over (
    partition by track_id order by ts, id rows between unbounded preceding and 1 preceding
  ) as before from slice
) where depth > 0 or dur < 0 or ts < before
"""
EARLY = """
select count(*) as compared, sum(task.ts < cause.ends) as n
from waits join task using (grp) join task as cause on cause.grp = waits.cause and cause.step = task.step
"""
PATHS = """
select step, count(*) as tasks, count(distinct id) as apart, sum(source is null) as begins, sum(target is null) as ends,
       max(ends) = (select max(ends) from task where task.step = path.step) as last
from path group by step order by step
"""
NOT_CRITICAL = """
with recursive back(id, step, grp) as (
  select id, step, cause from path join waits using (grp)
  union select back.id, back.step, cause from back join passes using (grp) join waits using (grp)
  where not exists (select 1 from task where task.step = back.step and task.grp = back.grp)
), before as (
  select back.id, task.ends from back join task using (step, grp)
  union all select path.id, task.ends from path join task using (step, core) where task.ts < path.ts
), latest as (select id, max(ends) as ends from before group by id)
select count(*) as n from path left join latest using (id) left join task as source on source.id = path.source
where source.ends is not latest.ends
"""
COUNTER = """
select counter_track.unit, ts, value, lead(ts) over (order by ts) - ts as dur
from counter join counter_track on counter.track_id = counter_track.id where name = '{name}'
"""


def define(processor, program):
    """Tables for the queries above: the tasks, the critical paths, and which groups wait for which, of the program."""
    groups = program.groups
    passes = np.flatnonzero((groups["counts"] < 0) & (groups["completes_empty"] != 0))
    wakes = []
    for wake in program.wakes:
        experts = program.operators[groups["op"][wake["first"]]].experts
        wakes += [(int(wake["first"]) + expert, int(wake["group"])) for expert in range(experts)]
    _table(processor, "signals", "grp, event", _pairs(program.signals))
    _table(processor, "triggers", "event, other", _pairs(program.triggers))
    _table(processor, "publishes", "event, grp", _pairs(program.publishes))
    _table(processor, "wakes", "grp, cause", wakes)
    _table(processor, "passes", "grp, always", [(group, 1) for group in passes.tolist()])
    processor.query(TABLES)


def _pairs(ranges):
    return [(owner, item) for owner in range(len(ranges)) for item in ranges[owner].tolist()]


def _table(processor, name, columns, rows):
    values = ", ".join(map(str, [(-1, -1), *rows]))  # without a row it would have no types
    processor.query(f"create perfetto table {name} as with pairs({columns}) as (values {values}) select * from pairs")


@dataclass
class Slice:
    track: int
    name: str
    category: str
    begin: int
    end: int
    details: dict
    flows: list
    terminating_flows: list


@dataclass
class Read:
    """tracks: uuid -> name; counters: uuid -> [(ns, value), ...]."""

    tracks: dict
    slices: list
    counters: dict

    def of(self, category):
        return [one for one in self.slices if one.category == category]


def read(content: bytes) -> Read:
    """Raises AssertionError for slices that do not nest, or that have no begin or no end."""
    found = Read({}, [], {})
    open_slices: dict[int, list[Slice]] = {}
    for packet in Trace.FromString(content).packet:
        if packet.HasField("track_descriptor"):
            one = packet.track_descriptor
            assert not one.parent_uuid or one.parent_uuid in found.tracks
            found.tracks[one.uuid] = one.name or one.thread.thread_name or one.process.process_name
            continue
        event = packet.track_event
        assert packet.timestamp > 0 and event.track_uuid in found.tracks
        stack = open_slices.setdefault(event.track_uuid, [])
        if event.type == TrackEvent.TYPE_COUNTER:
            found.counters.setdefault(event.track_uuid, []).append((packet.timestamp, event.double_counter_value))
        elif event.type == TrackEvent.TYPE_SLICE_BEGIN:
            details = {one.name: one.int_value for one in event.debug_annotations}
            flows = list(event.flow_ids), list(event.terminating_flow_ids)
            stack.append(Slice(event.track_uuid, event.name, event.categories[0], packet.timestamp, 0, details, *flows))
        else:
            assert stack, "a slice ends that did not begin"
            stack[-1].end = packet.timestamp
            assert stack[-1].end >= stack[-1].begin
            found.slices.append(stack.pop())
    assert not any(open_slices.values()), "a slice begins that does not end"
    return found
