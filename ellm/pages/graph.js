"use strict";
// The dataflow graph on the screen: laid out in layers, folded, unfolded and chosen from.
ellm.graph = (function () {
  const { operators, repeats } = ellm.model;
  const { state, isSpread, isUnfolded } = ellm.elements;
  let cy = null;

  /** The corners of an edge to the next block: below its source, along the right border of the block, above its target. */
  function corners(edge) {
    const [source, target] = [edge.source(), edge.target()];
    const block = source.ancestors(".block").union(target.ancestors(".block"));
    const right = block.boundingBox({ includeLabels: false }).x2 + 14 + 9 * cy.$(".loop").indexOf(edge);
    const below = source.position("y") + source.height() / 2 + 15;
    const above = target.position("y") - target.height() / 2 - 15;
    return [
      { x: source.position("x") + aside(source), y: below }, { x: right, y: below },
      { x: right, y: above }, { x: target.position("x") + aside(target), y: above },
    ];
  }

  /** How far from the middle of a node such an edge begins or ends, so that other edges do not hide it. */
  const aside = (node) => node.width() / 5;

  /** The corners as cytoscape wants them: shares of the straight line between the ends, and distances from it. */
  function segments(edge) {
    const [from, to] = [edge.source().position(), edge.target().position()];
    const line = { x: to.x - from.x, y: to.y - from.y };
    const length = Math.hypot(line.x, line.y);
    const apart = corners(edge).map((corner) => ({ x: corner.x - from.x, y: corner.y - from.y }));
    return {
      weights: apart.map(({ x, y }) => (x * line.x + y * line.y) / length ** 2),
      distances: apart.map(({ x, y }) => (y * line.x - x * line.y) / length),
    };
  }

  const style = [
    { selector: "node", style: { "font-family": "system-ui, Segoe UI, Noto Sans, DejaVu Sans, sans-serif", "font-size": 14, "text-wrap": "wrap", "text-valign": "center", "text-max-width": 240, "line-height": 1.15 } },
    { selector: ".operator, .group", style: { shape: "round-rectangle", width: 240, height: 46, "background-color": "data(colour)", color: "#fff", label: "data(label)" } },
    { selector: ".group", style: { width: 112, height: 42, "background-blacken": -0.2, "font-size": 13 } },
    { selector: ".rest", style: { width: 180, "background-blacken": -0.4 } },
    { selector: ".task", style: { shape: "round-rectangle", width: 30, height: 26, "background-color": "data(colour)", color: "#fff", "font-size": 12, label: "data(label)" } },
    { selector: ".tasks", style: { shape: "round-rectangle", width: 112, height: 34, "background-color": "#fff", "border-color": "data(colour)", "border-width": 1.5, "border-style": "double", color: "#1d2733", "font-size": 12, label: "data(label)" } },
    { selector: ".critical", style: { "underlay-color": "#f2b400", "underlay-opacity": 0.5, "underlay-padding": 5 } },
    { selector: "edge.critical", style: { "underlay-padding": 3 } },
    { selector: ".event", style: { shape: "ellipse", width: 30, height: 30, "background-color": "#fff", "border-width": 2, "border-color": "#5f6b7a", color: "#1d2733", label: "data(label)", "font-size": 12, "underlay-shape": "ellipse" } },
    { selector: ".event[count > 1], .start", style: { width: 52, height: 52 } },
    { selector: ".block", style: { shape: "round-rectangle", "background-color": "#eef3f8", "border-color": "#b9c7d6", "border-width": 1.5, label: "data(label)", "text-events": "yes", "text-valign": "top", "text-halign": "center", "text-margin-y": -5, "text-margin-x": "data(shift)", "text-background-color": "#fff", "text-background-opacity": 0.9, "text-background-padding": 3, "z-index": 9, color: "#41536a", "font-weight": 600, "font-size": 15, padding: 20, "text-max-width": 600 } },
    { selector: ".box", style: { shape: "round-rectangle", "background-color": "#fff", "border-color": "data(colour)", "border-width": 1.5, label: "data(label)", "text-events": "yes", "text-valign": "top", "text-margin-y": -3, "text-margin-x": "data(shift)", "text-background-color": "#eef3f8", "text-background-opacity": 0.9, color: "#1d2733", padding: 10 } },
    { selector: ".folded", style: { shape: "round-rectangle", width: 240, height: 54, "background-color": "#dbe4ee", "border-color": "#8fa3b8", "border-width": 3, "border-style": "double", label: "data(label)", color: "#26384c", "font-weight": 600 } },
    { selector: "edge", style: { width: 1.4, "line-color": "#8b98a8", "target-arrow-color": "#8b98a8", "target-arrow-shape": "triangle", "arrow-scale": 0.9, "curve-style": "bezier" } },
    { selector: ".routed", style: { "curve-style": "unbundled-bezier", "control-point-weights": (edge) => edge.scratch("controlPointWeights"), "control-point-distances": (edge) => edge.scratch("controlPointDistances"), "edge-distances": "intersection" } },
    { selector: ".loop", style: { "line-style": "dashed", "line-color": "#a9b7c7", "target-arrow-color": "#a9b7c7", "curve-style": "round-segments", "segment-weights": (edge) => segments(edge).weights, "segment-distances": (edge) => segments(edge).distances, "segment-radii": 12, "edge-distances": "node-position", "source-endpoint": "20% 50%", "target-endpoint": "20% -50%" } },
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
      cy.add(ellm.elements.all());
      if (!document.getElementById("path").checked) cy.elements().removeClass("critical");
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

  const order = (element) => {
    const { task, group, event, operator } = element.data();
    return element.isNode() ? task ?? group ?? event ?? operator ?? -1 : 0;
  };

  /** Fits the graph into the view, from its top if it would be too small to read. */
  function show() {
    cy.fit(undefined, 24);
    if (cy.zoom() > 1.2) cy.zoom(1.2).center();
    if (cy.zoom() >= 0.62) return;
    cy.zoom(Math.max(0.62, Math.min(0.9, (cy.width() - 60) / cy.elements().boundingBox().w)));
    const box = cy.elements().boundingBox();
    cy.pan({ x: cy.width() / 2 - (cy.zoom() * (box.x1 + box.x2)) / 2, y: 24 - cy.zoom() * box.y1 });
  }

  /** What a double click on a node does; null if nothing. */
  function action({ repeat, operator, group }) {
    if (repeat !== undefined) return state.open.has(repeat) ? "Fold this block" : "Unfold this block";
    if (group !== undefined) return isSpread(group) ? "Tasks as one node" : "Tasks one by one";
    if (operator === undefined) return null;
    return isUnfolded(operators[operator]) ? "Fold tasks and events" : "Unfold to tasks and events";
  }

  /** Unfolds or folds what a node stands for, and selects what stands for it then. */
  function toggle({ repeat, operator, group }) {
    if (repeat !== undefined) {
      flip(state.open, repeat);
      draw(true);
      select(`repeat${repeat}`);
    } else if (group !== undefined) {
      flip(state.flipped, group);
      draw(false);
      select(`group${group}`);
      frame(cy.$(`[group = ${group}]`).closedNeighborhood().nodes());
    } else if (operator !== undefined) {
      flip(state.unfolded, operator);
      draw(false);
      select(idOf(operator));
      reveal(operator);
    }
  }

  function flip(set, member) {
    if (!set.delete(member)) set.add(member);
  }

  const idOf = (number) => (isUnfolded(operators[number]) ? `box${number}` : `op${number}`);

  function select(id) {
    cy.$(":selected").unselect();
    cy.getElementById(id).select();
  }

  /** Brings an operator into view, with its groups, their events and what these lead to if it is unfolded. */
  function reveal(number) {
    const node = cy.getElementById(idOf(number));
    if (isUnfolded(operators[number])) return frame(node.descendants().closedNeighborhood().closedNeighborhood().nodes().union(node));
    const [view, box] = [cy.extent(), node.boundingBox()];
    if (box.x1 < view.x1 || box.x2 > view.x2 || box.y1 < view.y1 || box.y2 > view.y2) cy.center(node);
  }

  /** Zooms to some nodes. */
  function frame(nodes) {
    cy.fit(nodes, 40);
    if (cy.zoom() > 1) cy.zoom(1);
    cy.center(nodes);
    const box = nodes.renderedBoundingBox();
    if (box.h < cy.height()) cy.panBy({ x: 0, y: 40 - box.y1 });
  }

  /** Shows an operator: the instance of its block it is in, opened, selected and in view. */
  function choose(operator) {
    if (operator.repeat) open(operator.repeat, operator.instance);
    draw(false);
    select(idOf(operator.number));
    reveal(operator.number);
  }

  function open(repeat, instance) {
    state.open.add(repeat.number);
    ellm.elements.setInstance(repeat, instance);
    document.getElementById("layer").value = repeat.first + instance * repeat.period;
  }

  function showLayer(layer) {
    const repeat = repeats.find((one) => one.first <= layer && layer < one.first + one.period * one.times);
    if (!repeat) return;
    open(repeat, Math.floor((layer - repeat.first) / repeat.period));
    draw(false);
  }

  function listen() {
    const unfold = document.getElementById("unfold");
    const said = () => {
      const [chosen] = cy.$("node:selected");
      const text = chosen && action(chosen.data());
      unfold.disabled = !text;
      unfold.textContent = text || "Unfold to tasks and events";
    };
    cy.on("select", "node", (event) => {
      cy.edges().removeClass("near");
      event.target.connectedEdges().addClass("near");
      ellm.details.ofNode(event.target.data());
      said();
    });
    cy.on("unselect", "node", () => {
      cy.edges().removeClass("near");
      said();
    });
    cy.on("dbltap", "node", (event) => setTimeout(() => toggle(event.target.data()))); // after the click has selected the node
    unfold.addEventListener("click", () => toggle(cy.$("node:selected").first().data()));
    document.getElementById("fold").addEventListener("click", () => {
      state.unfolded.clear();
      state.flipped.clear();
      draw(true);
    });
    document.getElementById("fit").addEventListener("click", () => cy.fit(undefined, 24));
    document.getElementById("path").addEventListener("change", () => draw(false));
    listenToLayer(document.getElementById("layer"));
  }

  function listenToLayer(layer) {
    const last = Math.max(-1, ...operators.map((operator) => operator.layer));
    document.getElementById("layer-tool").hidden = last < 1;
    document.getElementById("layer-range").textContent = `of 0–${last}`;
    layer.max = last;
    layer.value = repeats.find((repeat) => state.open.has(repeat.number))?.first ?? 0;
    layer.addEventListener("change", () => {
      layer.value = Math.max(0, Math.min(last, Math.round(Number(layer.value))));
      showLayer(Number(layer.value));
    });
  }

  function start() {
    const container = document.getElementById("drawing");
    cytoscape.warnings(false); // it warns of edges that cannot be drawn by dagre's points: startsInside finds those
    cy = cytoscape({ container, style, minZoom: 0.08, maxZoom: 3, boxSelectionEnabled: false, multiClickDebounceTime: 500 });
    ellm.cy = cy;
    listen();
    draw(true);
    document.getElementById("graph").addEventListener("shown", () => cy.resize());
  }

  return { start, choose, toggle };
})();
