"use strict";
// The program: which operator stands where in which repeated block, and which group signals which event.
ellm.model = (function () {
  const { operators, tasks, layers } = ellm.data;
  const repeats = layers.map((layer, number) => ({ ...layer, number, places: new Map() }));

  operators.forEach((operator, number) => {
    operator.number = number;
    operator.groups = [];
    operator.repeat = repeats.find(
      (repeat) => repeat.first <= operator.layer && operator.layer < repeat.first + repeat.period * repeat.times,
    );
    if (!operator.repeat) return;
    const { first, period, places } = operator.repeat;
    operator.instance = Math.floor((operator.layer - first) / period);
    operator.place = `${(operator.layer - first) % period}.${operator.part}`;
    if (!places.has(operator.place)) places.set(operator.place, []);
    places.get(operator.place)[operator.instance] = number;
  });

  const groups = tasks.groups.op.map((op, number) => {
    operators[op].groups.push(number);
    return {
      number, op, block: tasks.groups.block[number], tiles: tasks.groups.tiles[number],
      kind: tasks.kinds[tasks.groups.kind[number]], routed: tasks.routed[number] === 1,
      signals: tasks.signals[number], publishedBy: [],
    };
  });
  const events = tasks.events.needed.map((needed, number) => ({
    number, needed, dynamic: tasks.events.dynamic[number], publishes: tasks.publishes[number],
    triggers: tasks.triggers[number], signalledBy: [], triggeredBy: [],
  }));
  for (const group of groups) for (const event of group.signals) events[event].signalledBy.push(group.number);
  for (const event of events) {
    for (const group of event.publishes) groups[group].publishedBy.push(event.number);
    for (const other of event.triggers) events[other].triggeredBy.push(event.number);
  }
  for (const wake of tasks.wakes) events[wake.join].woken = true;
  const roots = new Set(tasks.roots);

  /** What lies on the critical path: nodes "op3", "group7", "event5", and which of them follow each other there. */
  const critical = (function () {
    const path = ellm.data.critical_path;
    const chains = [
      path.map(({ group, event }) => (group === undefined ? `event${event}` : `group${group}`)),
      path.filter(({ group }) => group !== undefined).map(({ group }) => `op${groups[group].op}`),
    ];
    const nodes = new Set(chains.flat());
    const links = new Set(chains.flatMap((chain) => d3.pairs(chain).map((pair) => pair.join())));
    const ran = path.filter(({ tasks: count }) => count > 0).map(({ group }) => groups[group].op);
    return {
      first: path[0].group, length: ran.length, has: (node) => nodes.has(node), joins: (from, to) => links.has(`${from},${to}`),
      /** Which task of the path an operator runs, from 1; 0 if it runs none. */
      place: (operator) => ran.indexOf(operator.number) + 1,
    };
  })();

  /** The operator at the same place in another instance of its repeated block. */
  function inInstance(operator, instance) {
    return operator.repeat ? operators[operator.repeat.places.get(operator.place)[instance]] : operator;
  }

  /** What a group is called: its row block, or its expert. */
  function groupName(group) {
    return group.routed ? `expert ${group.block}` : `row block ${group.block}`;
  }

  /** What the tasks of a group are counted by. */
  function extent(group) {
    if (group.routed) return "for each row tile of the expert";
    return { rows: "if the block holds rows", logits: "if the block holds logit rows", sample: "for each sampled row" }[group.kind]
      || `for each of its ${group.kind}`;
  }

  /** How many tasks a group has, for each unit of which it may have several in a step. */
  function count(group) {
    const by = group.routed ? "a row tile" : { rows: "", logits: "", sample: "a row", pieces: "a piece", items: "an item", merges: "a merge" }[group.kind.split(" ")[0]];
    return `${ellm.several(group.tiles, "task")} ${by}`.trim();
  }

  /** How many signals make an event fire. */
  function needs(event) {
    if (event.woken) return "one signal of every expert that is woken";
    const plus = event.dynamic < 0 ? "" : ` and one for each row block with ${tasks.kinds[event.dynamic]}`;
    return ellm.several(event.needed, "signal") + plus;
  }

  /** The worker that owns task `index` of `count`: it packed its weights. */
  function home(index, count) {
    const workers = ellm.data.cores.length;
    return Math.min(workers - 1, Math.floor(((index + 1) * workers - 1) / count));
  }

  const homeColour = (index, count) => d3.schemeTableau10[home(index, count) % 10];

  return { operators, repeats, groups, events, roots, tasks, critical, inInstance, groupName, extent, count, needs, home, homeColour };
})();
