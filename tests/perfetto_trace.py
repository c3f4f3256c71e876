"""Reads what `ellm profile --trace` writes, by Perfetto's own schema."""

from dataclasses import dataclass

from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import Trace, TrackEvent


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
