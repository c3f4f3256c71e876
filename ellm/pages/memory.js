"use strict";
// The memory plan: address against the order of the operators, one rectangle a buffer, lower bounds drawn.
ellm.memory = (function () {
  const { operators, repeats } = ellm.model;
  const { plan } = ellm.data;
  const margin = { left: 76, right: 84, top: 30, bottom: 26, between: 64 };
  const regions = [
    { title: "section of one row block", buffers: plan.buffers, size: plan.section_bytes, bound: plan.lower_bound, base: 0, shared: false },
    {
      title: "shared by all row blocks", buffers: plan.shared_buffers, size: plan.shared_bytes, bound: plan.shared_lower_bound,
      base: d3.min(plan.shared_buffers, (buffer) => buffer.offset) || 0, shared: true,
    },
  ].filter((region) => region.buffers.length);
  const svg = d3.select("#plan");
  let zoom = null;
  let x = null;
  let drawn = false;

  function start() {
    document.getElementById("memory").addEventListener("shown", () => drawn || draw());
    window.addEventListener("resize", () => {
      drawn = false;
      if (!document.getElementById("memory").hidden) draw();
    });
    document.getElementById("whole").addEventListener("click", () => range(0, operators.length + 1));
    document.getElementById("one-block").addEventListener("click", showBlock);
    document.getElementById("one-block").hidden = !repeats.some((repeat) => repeat.times > 1);
  }

  function draw() {
    drawn = true;
    const area = svg.node().parentNode.getBoundingClientRect();
    const width = area.width - 2;
    const height = Math.max(420, area.height - 6);
    svg.attr("width", width).attr("height", height).selectAll("*").remove();
    x = d3.scaleLinear([0, operators.length + 1], [margin.left, width - margin.right]);
    const rest = height - margin.top - margin.bottom - margin.between * (regions.length - 1);
    const least = regions.length > 1 ? 0.3 : 1;
    const total = d3.sum(regions, (region) => region.size);
    const shares = regions.map((region) => Math.min(1 - least, Math.max(least, region.size / total)) || 1);
    let top = margin.top;
    regions.forEach((region, number) => {
      const tall = regions.length > 1 ? rest * shares[number] : rest;
      frame(region, top, tall, width);
      top += tall + margin.between;
    });
    zoom = d3.zoom().scaleExtent([1, Math.max(2, operators.length / 6)])
      .translateExtent([[margin.left, 0], [width - margin.right, height]]).extent([[margin.left, 0], [width - margin.right, height]])
      .on("zoom", (event) => render(event.transform.rescaleX(x)));
    svg.call(zoom);
    if (operators.length > 90 && repeats.some((repeat) => repeat.times > 1)) showBlock();
    else render(x);
  }

  /** The parts of a region that zooming does not move. */
  function frame(region, top, tall, width) {
    region.y = d3.scaleLinear([0, Math.max(region.size, region.bound)], [top + tall, top]);
    const g = svg.append("g");
    region.clip = `clip${region.shared ? 1 : 0}`;
    g.append("clipPath").attr("id", region.clip).append("rect")
      .attr("x", margin.left).attr("y", top - 16).attr("width", width - margin.left - margin.right).attr("height", tall + 18);
    g.append("text").attr("class", "title").attr("x", margin.left).attr("y", top - 14)
      .text(`${region.title}: ${ellm.bytes(region.size)} planned, lower bound ${ellm.bytes(region.bound)}, ${ellm.several(region.buffers.length, "buffer")}`);
    region.layers = g.append("g").attr("clip-path", `url(#${region.clip})`);
    region.rectangles = g.append("g").attr("clip-path", `url(#${region.clip})`);
    g.append("g").attr("class", "axis").attr("transform", `translate(${margin.left},0)`)
      .call(d3.axisLeft(region.y).ticks(Math.max(3, tall / 60)).tickFormat((value) => ellm.bytes(value)));
    g.append("text").attr("class", "title").attr("x", width - margin.right).attr("y", top - 14).attr("text-anchor", "end").text("order of the operators →");
    region.axis = g.append("g").attr("class", "axis").attr("transform", `translate(0,${top + tall})`);
    const bound = region.y(region.bound);
    g.append("line").attr("class", "bound").attr("x1", margin.left).attr("x2", width - margin.right).attr("y1", bound).attr("y2", bound);
    g.append("text").attr("class", "bound-label").attr("x", width - margin.right + 6).attr("y", bound + 4).text("lower bound");
  }

  function render(scale) {
    const [left, right] = scale.range();
    for (const region of regions) {
      const visible = region.buffers.filter((buffer) => scale(buffer.last + 1) >= left && scale(buffer.first) <= right);
      const boxes = region.rectangles.selectAll("g").data(visible, (buffer) => buffer.name).join((enter) => add(enter, region));
      boxes.select("rect").attr("x", (buffer) => scale(buffer.first)).attr("width", (buffer) => wide(scale, buffer));
      boxes.select("text").attr("x", (buffer) => Math.max(left, scale(buffer.first)) + 5)
        .text((buffer) => label(region, buffer, Math.min(right, scale(buffer.last + 1)) - Math.max(left, scale(buffer.first))));
      region.axis.call(d3.axisBottom(scale).ticks(Math.floor((right - left) / 90)).tickFormat(d3.format("d")));
      region.layers.selectAll("line").data(layerStarts()).join("line").attr("class", "layer")
        .attr("x1", scale).attr("x2", scale).attr("y1", region.y.range()[1]).attr("y2", region.y.range()[0]);
    }
  }

  function add(enter, region) {
    const g = enter.append("g");
    g.append("rect").attr("class", "buffer").attr("y", (buffer) => region.y(buffer.offset - region.base + buffer.bytes))
      .attr("height", (buffer) => Math.max(2, region.y(0) - region.y(buffer.bytes))).attr("fill", colour)
      .on("click", (event, buffer) => {
        svg.selectAll(".buffer").classed("chosen", (one) => one === buffer);
        ellm.details.ofBuffer(buffer, region.shared);
      })
      .append("title").text((buffer) => `${buffer.name}: ${ellm.bytes(buffer.bytes)}`);
    g.append("text").attr("class", "name").attr("y", (buffer) => region.y(buffer.offset - region.base + buffer.bytes / 2) + 4);
    return g;
  }

  const wide = (scale, buffer) => Math.max(1, scale(buffer.last + 1) - scale(buffer.first));

  /** As much of a buffer's name as fits. */
  function label(region, buffer, width) {
    if (region.y(0) - region.y(buffer.bytes) < 12) return "";
    const fits = Math.floor((width - 10) / 6.2);
    const { name, part } = operators[buffer.first];
    const inBlock = buffer.name.slice(name.length - part.length);
    const names = [`${buffer.name} · ${ellm.bytes(buffer.bytes)}`, buffer.name, inBlock, buffer.name.split(".").slice(-2).join("."), buffer.name.split(".").pop()];
    return names.find((name) => name.length <= fits) || "";
  }

  const colour = (buffer) => ellm.family((operators[buffer.first] || operators[0]).kernel).colour;

  function layerStarts() {
    return operators.filter((operator, number) => operator.layer >= 0 && (!number || operators[number - 1].layer !== operator.layer)).map((operator) => operator.number);
  }

  /** Zooms to the second instance of the block that repeats most, with a little around it. */
  function showBlock() {
    const repeat = d3.greatest(repeats, (one) => one.times);
    const inside = operators.filter((operator) => operator.repeat === repeat && operator.instance === Math.min(1, repeat.times - 1));
    const size = inside.length;
    range(Math.max(0, inside[0].number - size * 0.3), inside[size - 1].number + 1 + size * 0.3);
  }

  function range(begin, end) {
    const [left, right] = x.range();
    const k = (right - left) / (x(end) - x(begin));
    svg.call(zoom.transform, d3.zoomIdentity.translate(left - k * x(begin), 0).scale(k));
  }

  return { start };
})();
