"use strict";
// The heat map of a mixture of experts: rows that each expert of each layer got.
ellm.experts = (function () {
  const { element, data } = ellm;
  const LEFT = 90, TOP = 30;

  function draw() {
    const { layers, rows } = data.experts, experts = rows[0].length;
    const room = document.getElementById("experts").clientWidth - LEFT - 40;
    const cell = Math.max(5, Math.min(22, room / experts)), most = d3.max(rows, (row) => d3.max(row));
    const colour = d3.scaleSequential([0, most], d3.interpolateBlues);
    const svg = d3.select("#heat").attr("width", LEFT + cell * experts + 20).attr("height", TOP + cell * layers.length + 20);
    svg.selectAll("*").remove();
    const ticks = d3.scaleLinear([0, experts], [LEFT, LEFT + cell * experts]);
    svg.append("g").attr("class", "axis").attr("transform", `translate(0,${TOP - 4})`).call(d3.axisTop(ticks).ticks(Math.min(experts, 16)));
    layers.forEach((name, layer) => {
      if (layer % Math.ceil(ellm.LABEL / cell) === 0) svg.append("text").attr("x", 10).attr("y", TOP + layer * cell + cell / 2 + 4).text(name);
      rows[layer].forEach((count, expert) => {
        const made = svg.append("rect").attr("class", "expert").attr("x", LEFT + expert * cell).attr("y", TOP + layer * cell);
        made.attr("width", cell - 0.5).attr("height", cell - 0.5).attr("fill", count ? colour(count) : "#fff").on("click", () => choose(layer, expert));
        made.append("title").text(`${name}, expert ${expert}: ${ellm.several(count, "row")}`);
      });
    });
  }

  function choose(layer, expert) {
    const { layers, rows, imbalance, unused, reuse } = data.experts;
    const facts = [
      ["expert", expert], ["rows", rows[layer][expert]], ["rows of the layer", d3.sum(rows[layer])],
      ["busiest over mean", imbalance[layer].toFixed(2)], ["experts without a row", unused[layer]],
      ["shared with the token before", reuse[layer] === null ? "no two tokens were decoded" : `${(100 * reuse[layer]).toFixed(0)} %`],
    ];
    document.getElementById("details").replaceChildren(
      element("h2", {}, layers[layer]),
      element("dl", {}, facts.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, String(value))])));
  }

  function start() {
    if (!data.experts) {
      document.getElementById("experts-tab").remove();
      return;
    }
    const { rows, imbalance, reuse } = data.experts, known = reuse.filter((share) => share !== null);
    const shared = known.length ? `; ${(100 * d3.mean(known)).toFixed(0)} % of a token's experts were those of the token before` : "";
    document.getElementById("routing").textContent = `darkest: ${ellm.several(d3.max(rows, (row) => d3.max(row)), "row")}; busiest expert over the mean: ${d3.mean(imbalance).toFixed(2)}${shared}`;
    document.getElementById("experts").addEventListener("shown", draw);
  }

  return { start, choose };
})();
