"use strict";
// The dataflow graph: repeated blocks folded into one, operators that unfold to their groups of tasks and events.
ellm.graph = (function () {
  const { operators, repeats, groups, events, roots, tasks, inInstance } = ellm.model;
  const MOST_GROUPS = 16; // of an operator, and MOST_EVENTS around it, that are drawn one by one
  const MOST_EVENTS = 48;
  const largest = repeats.reduce((best, repeat) => (!best || repeat.times > best.times ? repeat : best), null);
  const state = {
    open: new Set(repeats.filter((repeat) => repeat.times === 1 || repeat === largest).map((repeat) => repeat.number)),
    shown: repeats.map(() => 0),
    unfolded: new Set(),
  };
  let cy = null;

  const shownOf = (operator) => inInstance(operator, operator.repeat ? state.shown[operator.repeat.number] : 0);
  const isOpen = (operator) => !operator.repeat || state.open.has(operator.repeat.number);

  /** The node that stands for an operator, whichever instance of its block it is in; unfolded ones have no such node. */
  function nodeOf(operator) {
    return isOpen(operator) ? `op${shownOf(operator).number}` : `repeat${operator.repeat.number}`;
  }

  function isUnfolded(operator) {
    return isOpen(operator) && state.unfolded.has(shownOf(operator).number);
  }

  /** The node that stands for a group. */
  function nodeOfGroup(number) {
    const operator = operators[groups[number].op];
    if (!isUnfolded(operator)) return nodeOf(operator);
    const shown = shownOf(operator);
    if (shown.groups.length > MOST_GROUPS) return `groups${shown.number}`;
    return `group${shown.groups[operator.groups.indexOf(number)]}`;
  }

  function operatorNode(operator) {
    const count = operator.groups.length;
    const detail = operator.experts ? `${operator.experts} × ${operator.tiles} tasks` : ellm.several(operator.tiles, "task");
    return {
      data: {
        id: `op${operator.number}`, parent: parentOf(operator), operator: operator.number,
        label: `${operator.short}\n${operator.kernel} · ${detail}`, colour: ellm.family(operator.kernel).colour, count,
      },
      classes: "operator",
    };
  }

  const parentOf = (operator) => (operator.repeat ? `repeat${operator.repeat.number}` : undefined);

  function layersOf(repeat, instance) {
    const first = repeat.first + instance * repeat.period;
    return repeat.period === 1 ? `layer ${first}` : `layers ${first}–${first + repeat.period - 1}`;
  }

  function repeatNode(repeat) {
    const all = repeat.period * repeat.times === 1
      ? `layer ${repeat.first}` : `layers ${repeat.first}–${repeat.first + repeat.period * repeat.times - 1}`;
    const open = state.open.has(repeat.number);
    const shown = layersOf(repeat, state.shown[repeat.number]);
    const times = `× ${repeat.times}`;
    let label = open ? `${shown} of ${all}  (${times})` : `${all}\n${times}, folded`;
    if (repeat.times === 1) label = all;
    return { data: { id: `repeat${repeat.number}`, repeat: repeat.number, label, shift: 0 }, classes: open ? "block" : "folded" };
  }

  /** An unfolded operator: a box with its groups, or with one node for all of them if they are many. */
  function unfoldedNodes(operator) {
    const box = `box${operator.number}`;
    const colour = ellm.family(operator.kernel).colour;
    const found = [{
      data: { id: box, parent: parentOf(operator), operator: operator.number, label: operator.short, colour, shift: 0 }, classes: "box",
    }];
    if (operator.groups.length > MOST_GROUPS) {
      const label = `${operator.groups.length} groups, one an expert\n${operator.tiles} tasks a row tile`;
      found.push({ data: { id: `groups${operator.number}`, parent: box, operator: operator.number, label, colour }, classes: "group many" });
      return found;
    }
    for (const number of operator.groups) {
      const label = `${ellm.model.groupName(groups[number])}\n${ellm.several(groups[number].tiles, "task")}`;
      found.push({ data: { id: `group${number}`, parent: box, group: number, label, colour }, classes: "group" });
    }
    return found;
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

  /** Nodes and edges of the events; those with the same neighbours are one node if there are many. */
  function eventElements(unfolded) {
    const around = eventsAround(unfolded);
    const bundles = new Map(); // what makes events one node -> its id
    const idOf = new Map(); // event -> the id of its node
    const nodes = new Map();
    const edges = [];
    for (const [number, operator] of around) {
      const event = events[number];
      const from = event.signalledBy.map((group) => [nodeOfGroup(group), isShown(group) ? "signals" : "loop"]);
      const to = event.publishes.map((group) => [nodeOfGroup(group), isShown(group) ? "publishes" : "loop"]);
      const key = around.size > MOST_EVENTS || operator.groups.length > MOST_GROUPS ? `${[...new Set(from)].join()} ${[...new Set(to)].join()}` : number;
      if (!bundles.has(key)) bundles.set(key, `event${number}`);
      const id = bundles.get(key);
      idOf.set(number, id);
      const node = nodes.get(id) || { data: { id, parent: parentOf(operator), event: number, count: 0 }, classes: "event" };
      node.data.count += 1;
      node.data.label = eventLabel(event, node.data.count);
      nodes.set(id, node);
      edges.push(...from.map(([source, kind]) => [source, id, kind]), ...to.map(([target, kind]) => [id, target, kind]));
    }
    for (const [number, id] of idOf) {
      for (const other of events[number].triggers) if (idOf.has(other)) edges.push([id, idOf.get(other), "triggers"]);
    }
    return { nodes: [...nodes.values()], edges };
  }

  function eventLabel(event, count) {
    if (count > 1) return `${count}\nevents`;
    if (event.number === tasks.end) return "end";
    return event.woken ? "all" : `${event.needed}${event.dynamic < 0 ? "" : "+n"}`;
  }

  /** Whether a group's operator is the instance that is shown, not one folded behind it. */
  function isShown(number) {
    const operator = operators[groups[number].op];
    return !isOpen(operator) || shownOf(operator) === operator;
  }

  /** What an operator waits for, where neither end is unfolded: [from, to, kind]. */
  function dataEdges() {
    const found = [];
    for (const operator of operators) {
      for (const number of operator.after) {
        const earlier = operators[number];
        if (isUnfolded(operator) || isUnfolded(earlier)) continue;
        const both = operator.repeat && operator.repeat === earlier.repeat && isOpen(operator);
        if (both && operator.instance === earlier.instance && operator.instance !== state.shown[operator.repeat.number]) continue;
        found.push([nodeOf(earlier), nodeOf(operator), both && operator.instance !== earlier.instance ? "loop" : "data"]);
      }
    }
    return found;
  }

  function wakeEdges(unfolded) {
    const seen = new Set(unfolded.map((operator) => operator.number));
    return tasks.wakes
      .filter((wake) => [wake.group, wake.first].some((group) => seen.has(groups[group].op)))
      .map((wake) => [nodeOfGroup(wake.group), nodeOfGroup(wake.first), "wakes"]);
  }

  function elements() {
    const visible = operators.filter((operator) => isOpen(operator) && shownOf(operator) === operator);
    const unfolded = visible.filter((operator) => state.unfolded.has(operator.number));
    const around = eventElements(unfolded);
    const nodes = [
      ...repeats.map(repeatNode),
      ...visible.flatMap((operator) => (unfolded.includes(operator) ? unfoldedNodes(operator) : [operatorNode(operator)])),
      ...around.nodes,
    ];
    const edges = [...dataEdges(), ...around.edges, ...wakeEdges(unfolded)];
    const starts = unfolded.flatMap((operator) => operator.groups.filter((group) => roots.has(group)));
    if (starts.length) {
      nodes.push({ data: { id: "start", label: "step\nstarts" }, classes: "event start" });
      edges.push(...starts.map((group) => ["start", nodeOfGroup(group), "publishes"]));
    }
    const distinct = new Map(edges.filter(([from, to]) => from !== to).map((edge) => [edge.join(" "), edge]));
    return [...nodes, ...[...distinct].map(([id, [source, target, kind]]) => ({ data: { id, source, target, kind }, classes: kind }))];
  }

  /** How far an edge to the next block bends aside, so that it passes the nodes between its ends. */
  const bulge = (edge) => [150 + 0.35 * Math.abs(edge.source().position("y") - edge.target().position("y"))];

  const style = [
    { selector: "node", style: { "font-family": "system-ui, Segoe UI, Noto Sans, DejaVu Sans, sans-serif", "font-size": 14, "text-wrap": "wrap", "text-valign": "center", "text-max-width": 240, "line-height": 1.15 } },
    { selector: ".operator, .group", style: { shape: "round-rectangle", width: 240, height: 46, "background-color": "data(colour)", color: "#fff", label: "data(label)" } },
    { selector: ".group", style: { width: 112, height: 42, "background-opacity": 0.85, "font-size": 13 } },
    { selector: ".many", style: { width: 240, height: 46 } },
    { selector: ".event", style: { shape: "ellipse", width: 30, height: 30, "background-color": "#fff", "border-width": 2, "border-color": "#5f6b7a", color: "#1d2733", label: "data(label)", "font-size": 12 } },
    { selector: ".event[count > 1], .start", style: { width: 52, height: 52 } },
    { selector: ".block", style: { shape: "round-rectangle", "background-color": "#eef3f8", "border-color": "#b9c7d6", "border-width": 1.5, label: "data(label)", "text-valign": "top", "text-halign": "center", "text-margin-y": -5, "text-margin-x": "data(shift)", "text-background-color": "#fff", "text-background-opacity": 0.9, "text-background-padding": 3, "z-index": 9, color: "#41536a", "font-weight": 600, "font-size": 15, padding: 20, "text-max-width": 600 } },
    { selector: ".box", style: { shape: "round-rectangle", "background-color": "#fff", "border-color": "data(colour)", "border-width": 1.5, label: "data(label)", "text-valign": "top", "text-margin-y": -3, "text-margin-x": "data(shift)", "text-background-color": "#eef3f8", "text-background-opacity": 0.9, color: "#1d2733", padding: 10 } },
    { selector: ".folded", style: { shape: "round-rectangle", width: 240, height: 54, "background-color": "#dbe4ee", "border-color": "#8fa3b8", "border-width": 3, "border-style": "double", label: "data(label)", color: "#26384c", "font-weight": 600 } },
    { selector: "edge", style: { width: 1.4, "line-color": "#8b98a8", "target-arrow-color": "#8b98a8", "target-arrow-shape": "triangle", "arrow-scale": 0.9, "curve-style": "bezier" } },
    { selector: ".routed", style: { "curve-style": "unbundled-bezier", "control-point-weights": (edge) => edge.scratch("controlPointWeights"), "control-point-distances": (edge) => edge.scratch("controlPointDistances"), "edge-distances": "intersection" } },
    { selector: ".loop", style: { "line-style": "dashed", "line-color": "#a9b7c7", "target-arrow-color": "#a9b7c7", "curve-style": "unbundled-bezier", "control-point-distances": bulge, "control-point-weights": [0.5] } },
    { selector: ".triggers", style: { "line-style": "dotted", "curve-style": "unbundled-bezier", "control-point-distances": [-22], "control-point-weights": [0.5] } },
    { selector: ".wakes", style: { "line-color": "#c2457e", "target-arrow-color": "#c2457e", "line-style": "dashed" } },
    { selector: "node:selected", style: { "border-width": 3.5, "border-color": "#111", "border-style": "solid" } },
    { selector: "edge:selected, .near", style: { "line-color": "#1d2733", "target-arrow-color": "#1d2733", width: 2.2 } },
  ];

  /** Draws the present state, keeping the view unless told to fit. */
  function draw(fit) {
    const chosen = cy.$("node:selected").map((node) => node.id());
    cy.batch(() => {
      cy.elements().remove();
      cy.add(elements());
    });
    const laidOut = cy.elements().not(".loop, .triggers");
    laidOut.layout({
      name: "dagre", rankDir: "TB", nodeSep: 22, edgeSep: 14, rankSep: 34, fit: false,
      useDagreEdgeControlPoints: true, automaticDagreEdgeStyle: false, sort: (a, b) => order(b) - order(a),
    }).run();
    laidOut.edges().filter(passesRanks).addClass("routed").filter(startsInside).removeClass("routed");
    if (isMirrored()) mirror();
    cy.$(".block, .box").forEach((node) => node.data("shift", (8 * node.data("label").length - node.width()) / 2));
    if (fit) show();
    chosen.forEach((id) => cy.getElementById(id).select());
  }

  /** Whether an edge passes ranks between its ends: dagre leads it around their nodes, others are straight. */
  function passesRanks(edge) {
    const far = Math.abs(edge.source().position("y") - edge.target().position("y")) > 120;
    return far && edge.scratch("controlPointWeights");
  }

  /** Whether a control point of an edge lies within one of its ends, so that it could not be drawn. */
  function startsInside(edge) {
    const points = edge.controlPoints() || [];
    return edge.connectedNodes().some((node) => {
      const box = node.boundingBox();
      return points.some((point) => point.x > box.x1 && point.x < box.x2 && point.y > box.y1 && point.y < box.y2);
    });
  }

  /** Whether the layout put the groups of an unfolded operator in descending order. */
  function isMirrored() {
    const [first, second] = cy.$(".group").sort((a, b) => a.data("group") - b.data("group"));
    return second && first.parent().same(second.parent()) && first.position("x") > second.position("x");
  }

  function mirror() {
    cy.nodes().filter((node) => !node.isParent()).positions((node) => ({ x: -node.position("x"), y: node.position("y") }));
    cy.$(".routed").forEach((edge) => {
      edge.scratch("controlPointDistances", [edge.scratch("controlPointDistances")].flat().map((distance) => -distance));
    });
    cy.style().update();
  }

  const order = (element) => (element.isNode() ? element.data("group") ?? element.data("event") ?? element.data("operator") ?? -1 : 0);

  /** Fits the graph into the view, from its top if it would be too small to read. */
  function show() {
    cy.fit(undefined, 24);
    if (cy.zoom() >= 0.62) return;
    cy.zoom(Math.max(0.62, Math.min(0.9, (cy.width() - 60) / cy.elements().boundingBox().w)));
    const box = cy.elements().boundingBox();
    cy.pan({ x: cy.width() / 2 - (cy.zoom() * (box.x1 + box.x2)) / 2, y: 24 - cy.zoom() * box.y1 });
  }

  /** Unfolds or folds what a node stands for. */
  function toggle(node) {
    const { repeat, operator, group } = node.data();
    const owner = group === undefined ? operator : groups[group].op;
    if (repeat !== undefined) flip(state.open, repeat);
    else if (owner !== undefined) flip(state.unfolded, owner);
    else return;
    draw(repeat !== undefined);
    if (owner !== undefined) reveal(owner);
  }

  function flip(set, member) {
    if (!set.delete(member)) set.add(member);
  }

  /** Brings an operator into view. */
  function reveal(number) {
    const node = cy.getElementById(state.unfolded.has(number) ? `box${number}` : `op${number}`);
    if (!node.length) return;
    if (state.unfolded.has(number)) {
      const area = node.descendants().closedNeighborhood().closedNeighborhood().nodes().union(node);
      cy.fit(area, 40);
      if (cy.zoom() > 1) cy.zoom(1);
      cy.center(area);
      const box = area.renderedBoundingBox();
      if (box.h < cy.height()) cy.panBy({ x: 0, y: 40 - box.y1 });
      return;
    }
    const [view, box] = [cy.extent(), node.boundingBox()];
    if (box.x1 < view.x1 || box.x2 > view.x2 || box.y1 < view.y1 || box.y2 > view.y2) cy.center(node);
  }

  /** Shows an operator: the instance of its block it is in, opened, selected and in view. */
  function choose(operator) {
    if (operator.repeat) {
      state.open.add(operator.repeat.number);
      setInstance(operator.repeat, operator.instance);
    }
    draw(false);
    cy.$(":selected").unselect();
    cy.getElementById(isUnfolded(operator) ? `box${operator.number}` : `op${operator.number}`).select();
    reveal(operator.number);
  }

  function setInstance(repeat, instance) {
    if (state.shown[repeat.number] === instance) return;
    const moved = [...state.unfolded].map((number) =>
      (operators[number].repeat === repeat ? inInstance(operators[number], instance).number : number));
    state.unfolded = new Set(moved);
    state.shown[repeat.number] = instance;
    document.getElementById("layer").value = repeat.first + instance * repeat.period;
  }

  function showLayer(layer) {
    const repeat = repeats.find((one) => one.first <= layer && layer < one.first + one.period * one.times);
    if (!repeat) return;
    state.open.add(repeat.number);
    setInstance(repeat, Math.floor((layer - repeat.first) / repeat.period));
    draw(false);
  }

  function chosenNode() {
    return cy.$("node:selected").first();
  }

  function listen() {
    cy.on("select", "node", (event) => {
      cy.edges().removeClass("near");
      event.target.connectedEdges().addClass("near");
      ellm.details.ofNode(event.target.data());
    });
    cy.on("unselect", "node", () => cy.edges().removeClass("near"));
    cy.on("dbltap", "node", (event) => toggle(event.target));
    document.getElementById("unfold").addEventListener("click", () => chosenNode().length && toggle(chosenNode()));
    document.getElementById("fold").addEventListener("click", () => {
      state.unfolded.clear();
      draw(true);
    });
    document.getElementById("fit").addEventListener("click", () => cy.fit(undefined, 24));
    const last = Math.max(-1, ...operators.map((operator) => operator.layer));
    const layer = document.getElementById("layer");
    document.getElementById("layer-tool").hidden = last < 1;
    document.getElementById("layer-range").textContent = `of 0–${last}`;
    layer.max = last;
    layer.addEventListener("change", () => showLayer(Number(layer.value)));
  }

  function start() {
    const container = document.getElementById("drawing");
    cytoscape.warnings(false); // it warns of edges that cannot be drawn by dagre's points: startsInside finds those
    cy = cytoscape({ container, style, minZoom: 0.08, maxZoom: 3, boxSelectionEnabled: false });
    ellm.cy = cy;
    listen();
    draw(true);
    document.getElementById("graph").addEventListener("shown", () => cy.resize());
  }

  return { start, choose, toggle: (number) => toggle({ data: () => ({ operator: number }) }), isUnfolded: (number) => state.unfolded.has(number) };
})();
