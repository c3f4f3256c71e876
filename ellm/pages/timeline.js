"use strict";
// The timeline: a row for the steps and one for each core, drawn on a canvas; details of what is clicked.
ellm.idle = {
  wait: { label: "waiting", colour: "#e8d9a0" },
  steal: { label: "searching to steal", colour: "#b3261e" },
  park: { label: "asleep", colour: "#cfd6de" },
};

ellm.LABEL = 12; // pixels that a line of text is high

/** Nanoseconds for people. */
ellm.time = function (ns) {
  if (ns >= 1e6) return `${(ns / 1e6).toFixed(3)} ms`;
  return ns >= 1e3 ? `${(ns / 1e3).toFixed(1)} µs` : `${ns} ns`;
};

ellm.timeline = (function () {
  const { element, data, time } = ellm;
  const { activities, cores, operators, steps } = data;
  const [workers, whats, ops, blocks, indices, begins, lengths, onPath] = data.spans;
  const TOP = 26, LEFT = 64, RIGHT = 12, STEP_ROW = 20;
  const canvas = document.getElementById("tracks");
  const holder = document.getElementById("drawing");
  const colours = Object.fromEntries(Object.entries(ellm.idle).map(([name, { colour }]) => [activities[name], colour]));
  const ofWorker = cores.map((_, worker) => d3.range(begins.length).filter((i) => workers[i] === worker).sort((a, b) => begins[a] - begins[b]));
  const path = d3.range(begins.length).filter((i) => onPath[i]).sort((a, b) => begins[a] - begins[b]);
  const whole = [0, steps.length ? steps[steps.length - 1].end : 1];
  const scale = d3.scaleLinear().domain(whole);
  const zoom = d3.zoom().on("zoom", ({ transform }) => { view = transform.rescaleX(scale); draw(); });
  let view = scale, chosen = -1, width = 0, height = 0, row = 0;

  const isTask = (i) => whats[i] <= activities.stolen;
  const shades = kernelShades();
  const colour = (i) => (isTask(i) ? shades[operators[ops[i]].kernel] : colours[whats[i]]);
  const rowTop = (worker) => TOP + STEP_ROW + worker * row;

  /** The colour of each kernel: that of its family, brighter from one kernel to the next. */
  function kernelShades() {
    const found = {};
    for (const kernel of new Set(operators.map((operator) => operator.kernel))) {
      const before = Object.keys(found).filter((other) => ellm.family(other) === ellm.family(kernel)).length;
      found[kernel] = d3.color(ellm.family(kernel).colour).brighter(0.4 * before).formatHex();
    }
    return found;
  }

  /** The last event of a list, which is sorted, that begins at this time or before; -1: none. */
  const last = (list, moment) => d3.bisector((i) => begins[i]).right(list, moment) - 1;

  function resize() {
    width = holder.clientWidth;
    row = Math.max(16, Math.min(64, (holder.clientHeight - TOP - STEP_ROW - 8) / cores.length));
    height = Math.max(holder.clientHeight, rowTop(cores.length) + 8);
    const ratio = window.devicePixelRatio || 1;
    canvas.width = width * ratio;
    canvas.height = height * ratio;
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
    canvas.getContext("2d").setTransform(ratio, 0, 0, ratio, 0, 0);
    const before = view.domain();
    scale.range([LEFT, width - RIGHT]);
    const extent = [[LEFT, 0], [width - RIGHT, height]];
    zoom.extent(extent).translateExtent(extent).scaleExtent([1, whole[1] / 200]);
    show(before);
  }

  /** Zooms to [begin, end]. */
  function show([begin, end]) {
    const [left, right] = scale.range();
    const factor = (right - left) / (scale(end) - scale(begin));
    d3.select(canvas).call(zoom.transform, d3.zoomIdentity.translate(left, 0).scale(factor).translate(-scale(begin), 0));
  }

  function draw() {
    const pen = canvas.getContext("2d");
    pen.clearRect(0, 0, width, height);
    pen.font = "11px system-ui, sans-serif";
    pen.save();
    pen.beginPath();
    pen.rect(LEFT, 0, width - LEFT - RIGHT, height);
    pen.clip();
    axis(pen);
    steps.forEach((step) => label(pen, view(step.begin), TOP, view(step.end), STEP_ROW - 4, "#5f6b7a", step.label));
    cores.forEach((_, worker) => track(pen, worker));
    if (document.getElementById("path").checked) drawPath(pen);
    pen.restore();
    pen.fillStyle = "#1d2733";
    pen.fillText("steps", 8, TOP + 12);
    cores.forEach((core, worker) => pen.fillText(core, 8, rowTop(worker) + row / 2 + 3));
  }

  function axis(pen) {
    const origin = steps.length ? steps[0].begin : 0;
    pen.fillStyle = "#5f6b7a";
    pen.strokeStyle = "#e3e8ee";
    for (const tick of view.ticks(8)) {
      const x = Math.round(view(tick)) + 0.5;
      pen.beginPath();
      pen.moveTo(x, TOP - 8);
      pen.lineTo(x, height);
      pen.stroke();
      pen.fillText(time(tick - origin), x + 3, 12);
    }
  }

  function label(pen, left, top, right, tall, fill, text) {
    pen.fillStyle = fill;
    pen.fillRect(left, top, Math.max(right - left - 0.5, 0.5), tall);
    if (right - left > 40) {
      pen.save();
      pen.beginPath();
      pen.rect(left, top, right - left - 4, tall);
      pen.clip();
      pen.fillStyle = "#fff";
      pen.fillText(text, Math.max(left, LEFT) + 4, top + tall / 2 + 4);
      pen.restore();
    }
  }

  function track(pen, worker) {
    const [begin, end] = view.domain(), list = ofWorker[worker];
    for (let at = Math.max(0, last(list, begin)); at < list.length && begins[list[at]] <= end; at += 1) {
      const i = list[at], left = view(begins[i]), right = view(begins[i] + lengths[i]);
      label(pen, left, rowTop(worker) + 1, right, row - 8, colour(i), isTask(i) ? operators[ops[i]].name : "");
      if (whats[i] === activities.stolen) {
        pen.fillStyle = "#b3261e";
        pen.fillRect(left, rowTop(worker) + 1, Math.max(right - left - 0.5, 0.5), 2);
      }
      if (i === chosen) {
        pen.strokeStyle = "#111";
        pen.lineWidth = 2;
        pen.strokeRect(left, rowTop(worker) + 1, Math.max(right - left, 2), row - 8);
        pen.lineWidth = 1;
      }
    }
  }

  function drawPath(pen) {
    const [begin, end] = view.domain(), y = (i) => rowTop(workers[i]) + row - 5;
    pen.strokeStyle = "#111";
    pen.lineWidth = 2;
    pen.beginPath();
    for (let at = Math.max(0, last(path, begin)); at < path.length && begins[path[at]] <= end; at += 1) {
      const i = path[at];
      pen.moveTo(view(begins[i]), y(i));
      pen.lineTo(view(begins[i] + lengths[i]), y(i));
      if (at + 1 < path.length && onPath[path[at + 1]] === onPath[i]) pen.lineTo(view(begins[path[at + 1]]), y(path[at + 1]));
    }
    pen.stroke();
    pen.lineWidth = 1;
  }

  function pick(event) {
    const [x, y] = d3.pointer(event, canvas), worker = Math.floor((y - TOP - STEP_ROW) / row);
    if (worker < 0 || worker >= cores.length) return;
    const at = last(ofWorker[worker], view.invert(x)), i = ofWorker[worker][at];
    if (at < 0 || begins[i] + lengths[i] < view.invert(x - 2)) return;
    choose(i);
  }

  function choose(i) {
    chosen = i;
    draw();
    const operator = operators[ops[i]], name = Object.keys(activities).find((key) => activities[key] === whats[i]);
    const facts = [["runs on", cores[workers[i]]], ["begins at", time(begins[i])], ["takes", time(lengths[i])]];
    if (isTask(i)) {
      const family = element("span", { class: "chip" }, operator.kernel);
      family.style.background = colour(i);
      facts.push(["block", blocks[i]], ["task", indices[i]], ["stolen", name === "stolen" ? "yes" : "no"], ["on the critical path", onPath[i] ? "yes" : "no"]);
      facts.push(["model line", operator.line], ["output", operator.shape]);
      fill(element("h2", {}, operator.name), element("p", {}, family), facts);
    } else {
      fill(element("h2", {}, ellm.idle[name].label), element("p", {}, operator ? `until ${operator.name} was ready` : "until the step ended"), facts);
    }
  }

  function fill(head, text, facts) {
    const list = element("dl", {}, facts.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, String(value))]));
    document.getElementById("details").replaceChildren(head, text, list);
  }

  function start() {
    const select = document.getElementById("step");
    select.append(...steps.map((step, i) => element("option", { value: i }, `${i}: ${step.label}, ${time(step.end - step.begin)}`)));
    select.addEventListener("change", () => show([steps[select.value].begin, steps[select.value].end]));
    document.getElementById("whole").addEventListener("click", () => show(whole));
    document.getElementById("path").addEventListener("change", draw);
    d3.select(canvas).call(zoom).on("dblclick.zoom", null).on("click", pick);
    window.addEventListener("resize", resize);
    resize();
    if (path.length) choose(path[path.length - 1]);
  }

  return { start, show, choose, domain: () => view.domain() };
})();
