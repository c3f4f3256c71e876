"use strict";
// Nodes and edges of the graph: repeated blocks folded into one, operators that unfold to events, groups and tasks.
ellm.elements = (function () {
  const { operators, repeats, groups, events, roots, tasks, critical, inInstance } = ellm.model;
  const MOST_GROUPS = 16; // of an operator are drawn one by one; of more, only SOME
  const SOME = 6;
  const MOST_TASKS = 24; // of a group likewise, and of an operator that has just been unfolded
  const largest = repeats.reduce((best, repeat) => (!best || repeat.times > best.times ? repeat : best), null);
  const state = {
    open: new Set(repeats.filter((repeat) => repeat.times === 1 || repeat === largest).map((repeat) => repeat.number)),
    shown: repeats.map(() => 0), // the instance of each repeated block
    unfolded: new Set(), // operators
    flipped: new Set(), // groups whose tasks are not drawn as `spreads` would have it
  };

  const shownOf = (operator) => inInstance(operator, operator.repeat ? state.shown[operator.repeat.number] : 0);
  const isOpen = (operator) => !operator.repeat || state.open.has(operator.repeat.number);
  const isUnfolded = (operator) => isOpen(operator) && state.unfolded.has(shownOf(operator).number);
  const parentOf = (operator) => (operator.repeat ? `repeat${operator.repeat.number}` : undefined);
  const isDrawn = (operator) => isOpen(operator) && shownOf(operator) === operator;

  /** The groups of an operator that are drawn one by one. */
  function singles(operator) {
    return operator.groups.length > MOST_GROUPS ? operator.groups.slice(0, SOME) : operator.groups;
  }

  /** Whether the tasks of a group are drawn one by one. */
  function isSpread(number) {
    const operator = operators[groups[number].op];
    const few = singles(operator).length * operator.tiles <= MOST_TASKS;
    return few !== state.flipped.has(number);
  }

  /** The node that stands for an operator that is not unfolded, whichever instance of its block it is in. */
  function nodeOf(operator) {
    return isOpen(operator) ? `op${shownOf(operator).number}` : `repeat${operator.repeat.number}`;
  }

  /** The group that is drawn for this one, which may be in another instance; null if it has no node of its own. */
  function drawnGroup(number) {
    const operator = operators[groups[number].op];
    if (!isUnfolded(operator)) return null;
    const group = shownOf(operator).groups[operator.groups.indexOf(number)];
    return singles(shownOf(operator)).includes(group) ? group : null;
  }

  /** The node that is published for a group. */
  function entry(number) {
    const operator = operators[groups[number].op];
    if (!isUnfolded(operator)) return nodeOf(operator);
    return drawnGroup(number) === null ? `rest${shownOf(operator).number}` : `group${drawnGroup(number)}`;
  }

  /** The nodes that signal for a group: those of its tasks, if they are drawn. */
  function exits(number) {
    return drawnGroup(number) === null ? [entry(number)] : taskNodes(drawnGroup(number)).map((task) => task.data.id);
  }

  function operatorNode(operator) {
    const detail = operator.experts ? `${operator.experts} × ${operator.tiles} tasks` : ellm.several(operator.tiles, "task");
    const label = `${operator.part}\n${operator.kernel} · ${detail}`;
    const data = { id: `op${operator.number}`, parent: parentOf(operator), operator: operator.number, label, colour: ellm.family(operator.kernel).colour };
    return { data, classes: `operator ${mark(critical.has(data.id))}` };
  }

  const mark = (is) => (is ? "critical" : "");

  function repeatNode(repeat) {
    const last = repeat.first + repeat.period * repeat.times - 1;
    const all = repeat.first === last ? `layer ${last}` : `layers ${repeat.first}–${last}`;
    const open = state.open.has(repeat.number);
    const first = repeat.first + state.shown[repeat.number] * repeat.period;
    const shown = repeat.period === 1 ? `layer ${first}` : `layers ${first}–${first + repeat.period - 1}`;
    let label = open ? `▾ ${shown}, for all of ${all} (× ${repeat.times})` : `▸ ${all}\n× ${repeat.times}, folded`;
    if (repeat.times === 1) label = open ? `▾ ${all}` : `▸ ${all}, folded`;
    const passed = !open && operators.some((operator) => operator.repeat === repeat && critical.has(`op${operator.number}`));
    return { data: { id: `repeat${repeat.number}`, repeat: repeat.number, label, shift: 0 }, classes: `${open ? "block" : "folded"} ${mark(passed)}` };
  }

  /** An unfolded operator: a box with its groups and their tasks. */
  function unfoldedNodes(operator) {
    const box = `box${operator.number}`;
    const colour = ellm.family(operator.kernel).colour;
    const base = { data: { id: box, parent: parentOf(operator), operator: operator.number, label: `▾ ${operator.part}`, colour, shift: 0 }, classes: "box" };
    const found = singles(operator).flatMap((number) => {
      const data = { id: `group${number}`, parent: box, group: number, label: ellm.model.groupName(groups[number]), colour };
      return [{ data, classes: `group ${mark(critical.has(data.id))}` }, ...taskNodes(number)];
    });
    const rest = operator.groups.length - singles(operator).length;
    if (rest) {
      const first = groups[operator.groups[0]];
      const label = `${rest} more ${first.routed ? "experts" : "row blocks"}\n${ellm.model.count(first)} each`;
      found.push({ data: { id: `rest${operator.number}`, parent: box, operator: operator.number, label, colour }, classes: "group rest" });
    }
    return [base, ...found];
  }

  /** The tasks of a group: one by one as far as they are drawn so, and the others as one node. */
  function taskNodes(number) {
    const group = groups[number];
    const drawn = isSpread(number) ? Math.min(group.tiles, MOST_TASKS) : 0;
    const common = { parent: `box${group.op}`, group: number, colour: ellm.family(operators[group.op].kernel).colour };
    const found = d3.range(drawn).map((task) => {
      const colour = ellm.model.homeColour(task, group.tiles);
      return { data: { ...common, id: `task${number}.${task}`, task, label: String(task), colour }, classes: "task" };
    });
    if (drawn < group.tiles) {
      const label = drawn ? `${group.tiles - drawn} more` : ellm.model.count(group).replace(/ (an? .*)/, "\n$1");
      found.push({ data: { ...common, id: `tasks${number}`, task: drawn, rest: true, label }, classes: "tasks" });
    }
    return found.map((node) => ({ ...node, classes: `${node.classes} ${mark(critical.has(`group${number}`))}` }));
  }

  /** Edges from a group to its tasks. */
  function taskEdges(operator) {
    return singles(operator).flatMap((number) =>
      exits(number).map((task) => edge(`group${number}`, task, "runs", critical.has(`group${number}`))));
  }

  /** Events that publish or are signalled by groups of the operators, and what triggers or is triggered by those. */
  function eventsAround(unfolded) {
    const found = new Map(); // event -> the operator that it is drawn beside
    const add = (number, operator) => found.has(number) || found.set(number, operator);
    for (const operator of unfolded) {
      const before = operator.groups.flatMap((group) => groups[group].publishedBy);
      const after = operator.groups.flatMap((group) => groups[group].signals);
      for (const event of before) [event, ...events[event].triggeredBy].forEach((one) => add(one, operator));
      for (const event of after) [event, ...events[event].triggers].forEach((one) => add(one, operator));
    }
    return found;
  }

  /** Edges to and from an event. */
  function edgesOf(event, id) {
    const kind = (number, name) => (isDrawn(operators[groups[number].op]) || !isOpen(operators[groups[number].op]) ? name : "loop");
    return [
      ...event.signalledBy.flatMap((number) => exits(number).map((from) =>
        edge(from, id, kind(number, "signals"), critical.joins(`group${number}`, `event${event.number}`)))),
      ...event.publishes.map((number) =>
        edge(id, entry(number), kind(number, "publishes"), critical.joins(`event${event.number}`, `group${number}`))),
    ];
  }

  /** Nodes and edges of the events; those of the groups that share a node share one too. */
  function eventElements(unfolded) {
    const around = eventsAround(unfolded);
    const bundles = new Map(); // the neighbours of events that are one node -> its id
    const idOf = new Map(); // event -> the id of its node
    const nodes = new Map();
    const edges = [];
    for (const [number, operator] of around) {
      const event = events[number];
      const neighbours = [...new Set([...event.signalledBy.flatMap(exits), ">", ...event.publishes.map(entry)])];
      const key = neighbours.some((node) => node.startsWith("rest")) ? neighbours.join() : number;
      if (!bundles.has(key)) bundles.set(key, `event${number}`);
      const id = bundles.get(key);
      idOf.set(number, id);
      const node = nodes.get(id) || { data: { id, parent: parentOf(operator), event: number, count: 0 }, classes: `event ${mark(critical.has(id))}` };
      node.data.count += 1;
      node.data.label = eventLabel(event, node.data.count);
      nodes.set(id, node);
      edges.push(...edgesOf(event, id));
    }
    for (const [number, id] of idOf) {
      for (const other of events[number].triggers) {
        if (idOf.has(other)) edges.push(edge(id, idOf.get(other), "triggers", critical.joins(`event${number}`, `event${other}`)));
      }
    }
    return { nodes: [...nodes.values()], edges };
  }

  function eventLabel(event, count) {
    if (count > 1) return `${count}\nevents`;
    if (event.number === tasks.end) return "end";
    return event.woken ? "all" : `${event.needed}${event.dynamic < 0 ? "" : "+n"}`;
  }

  /** What an operator waits for, where neither end is unfolded. */
  function dataEdges() {
    const found = [];
    for (const operator of operators) {
      for (const earlier of operator.after.map((number) => operators[number])) {
        if (isUnfolded(operator) || isUnfolded(earlier)) continue;
        const both = operator.repeat && operator.repeat === earlier.repeat && isOpen(operator);
        const next = both && operator.instance !== earlier.instance;
        if (both && !next && !isDrawn(operator)) continue;
        const passed = critical.joins(`op${earlier.number}`, `op${operator.number}`);
        found.push(edge(nodeOf(earlier), nodeOf(operator), next ? "loop" : "data", passed));
      }
    }
    return found;
  }

  function wakeEdges() {
    return tasks.wakes.flatMap((wake) => {
      const [waker, woken] = [wake.group, wake.first].map((group) => operators[groups[group].op]);
      if (![waker, woken].some((operator) => isDrawn(operator) && isUnfolded(operator))) return [];
      return woken.groups.flatMap((group) => exits(wake.group).map((from) =>
        edge(from, entry(group), "wakes", critical.joins(`group${wake.group}`, `group${group}`))));
    });
  }

  const edge = (source, target, kind, passed) => ({ source, target, kind, passed });

  /** What is to be drawn now. */
  function all() {
    const visible = operators.filter(isDrawn);
    const unfolded = visible.filter(isUnfolded);
    const around = eventElements(unfolded);
    const nodes = [
      ...repeats.map(repeatNode),
      ...visible.flatMap((operator) => (isUnfolded(operator) ? unfoldedNodes(operator) : [operatorNode(operator)])),
      ...around.nodes,
    ];
    const edges = [...dataEdges(), ...unfolded.flatMap(taskEdges), ...around.edges, ...wakeEdges()];
    const starts = unfolded.flatMap((operator) => operator.groups.filter((group) => roots.has(group)));
    if (starts.length) {
      nodes.push({ data: { id: "start", label: "step\nstarts" }, classes: `event start ${mark(starts.some((group) => critical.first === group))}` });
      edges.push(...starts.map((group) => edge("start", entry(group), "publishes", critical.first === group)));
    }
    return [...nodes, ...distinct(edges)];
  }

  /** One edge for all that join the same nodes alike: on the critical path if any of them is. */
  function distinct(edges) {
    const found = new Map();
    for (const { source, target, kind, passed } of edges) {
      if (source === target) continue;
      const id = `${source} ${target} ${kind}`;
      const known = found.get(id);
      found.set(id, { data: { id, source, target, kind }, passed: passed || (known && known.passed) });
    }
    return [...found.values()].map(({ data, passed }) => ({ data, classes: `${data.kind} ${mark(passed)}` }));
  }

  /** Shows another instance of a repeated block; what is unfolded stays unfolded, in the other instance. */
  function setInstance(repeat, instance) {
    const moved = (operator) => (operator.repeat === repeat ? inInstance(operator, instance) : operator);
    state.flipped = new Set([...state.flipped].map((number) => {
      const operator = operators[groups[number].op];
      return moved(operator).groups[operator.groups.indexOf(number)];
    }));
    state.unfolded = new Set([...state.unfolded].map((number) => moved(operators[number]).number));
    state.shown[repeat.number] = instance;
  }

  return { state, all, isSpread, isUnfolded, setInstance };
})();
