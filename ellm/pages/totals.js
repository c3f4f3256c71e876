"use strict";
// Where the time of a mean step of a phase went: a bar for each core, and a line for each kind of operator.
ellm.totals = (function () {
  const { element, data, time } = ellm;
  const PARTS = {
    kernel: "#2f6fb7", schedule: "#7a4fb5", steal: "#b3261e", wait: "#e8d9a0", park: "#cfd6de", prepare: "#3b8c5a", start: "#8fbfa3", end: "#5f6b7a",
  };
  const select = document.getElementById("phase");
  const columns = [
    ["operator", (kind) => kind.name], ["calls", (kind) => kind.calls, true],
    ["tasks", (kind) => kind.tasks, true], ["stolen", (kind) => kind.stolen, true], ["time a step", (kind) => time(Math.round(kind.ns)), true],
    ["share", (kind, total) => `${(100 * kind.ns / total.step).toFixed(1)} %`, true],
    ["waited for", (kind) => time(Math.round(kind.waited)), true],
    ["critical path", (kind, total) => `${(100 * kind.path / total.path.step).toFixed(1)} %`, true],
    ["GB/s", (kind) => (kind.rate ? kind.rate.toFixed(1) : ""), true], ["TFLOP/s", (kind) => (kind.flops ? kind.flops.toFixed(3) : ""), true],
    ["limit", (kind) => kind.limit, true],
  ];

  function draw() {
    const total = data.totals[select.value];
    document.querySelector("#rows thead").replaceChildren(
      element("tr", {}, columns.map(([name, , number]) => element("th", { class: number ? "number" : null }, name))));
    document.querySelector("#rows tbody").replaceChildren(
      ...total.kinds.map((kind) => element("tr", {}, columns.map(([, value, number]) =>
        element("td", { class: number ? "number" : null }, String(value(kind, total)))))));
    bars(total);
  }

  function bars(total) {
    const left = 70, width = 720, row = Math.max(8, Math.min(30, 480 / total.cores.length)), top = 44;
    const x = d3.scaleLinear([0, total.step], [left, left + width]);
    const svg = d3.select("#shares").attr("width", left + width + 40).attr("height", top + row * total.cores.length + 16);
    svg.selectAll("*").remove();
    svg.append("g").attr("class", "axis").attr("transform", `translate(0,${top - 6})`).call(d3.axisTop(x).ticks(6).tickFormat(time));
    let legend = left;
    for (const [name, colour] of Object.entries(PARTS)) {
      svg.append("rect").attr("x", legend).attr("y", 4).attr("width", 10).attr("height", 10).attr("fill", colour);
      legend += 14 + svg.append("text").attr("x", legend + 14).attr("y", 13).text(name).node().getComputedTextLength() + 14;
    }
    total.cores.forEach((core, i) => {
      if (i % Math.ceil(ellm.LABEL / row) === 0) svg.append("text").attr("x", 12).attr("y", top + i * row + row / 2 + 4).text(core.name);
      let at = 0;
      for (const [name, colour] of Object.entries(PARTS)) {
        const part = svg.append("rect").attr("class", `part ${name}`).attr("x", x(at)).attr("y", top + i * row).attr("height", row - 3);
        part.attr("width", Math.max(0, x(at + core[name]) - x(at))).attr("fill", colour);
        part.on("click", () => choose(core, total)).append("title").text(`${name}: ${time(Math.round(core[name]))}`);
        at += core[name];
      }
    });
  }

  /** What a core did in a mean step, and what it waited for: the operators whose tasks ended its idle time. */
  function choose(core, total) {
    const facts = [["step", total.step], ...Object.keys(PARTS).map((name) => [name, core[name]])], waits = core.waits.filter(([, ns]) => ns >= 1);
    const list = (rows) => element("dl", {}, rows.flatMap(([name, ns]) => [
      element("dt", {}, name), element("dd", {}, time(Math.round(ns)))]));
    document.getElementById("details").replaceChildren(
      element("h2", {}, core.name), list(facts), element("h3", {}, waits.length ? "idle until" : "never idle"), list(waits));
  }

  function start() {
    select.append(...data.totals.map((total, i) => element("option", { value: i }, total.phase)));
    select.value = data.totals.length - 1;
    select.addEventListener("change", draw);
    document.getElementById("totals").addEventListener("shown", draw);
  }

  return { start };
})();
