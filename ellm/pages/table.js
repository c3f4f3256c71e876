"use strict";
// The table of operators: sorts by any column, searches all of them.
ellm.table = (function () {
  const { element, bytes, readable } = ellm;
  const { operators } = ellm.model;
  const columns = [
    { name: "#", value: (operator) => operator.number, number: true },
    { name: "operator", value: (operator) => operator.name },
    { name: "kernel", value: (operator) => operator.kernel },
    { name: "weights", value: (operator) => operator.precision },
    { name: "shape", value: (operator) => operator.shape },
    { name: "tasks", value: (operator) => operator.tiles, number: true, show: (n) => n.toLocaleString("en") },
    { name: "groups", value: (operator) => operator.groups.length, number: true },
    { name: "packed", value: (operator) => operator.weight_bytes, number: true, show: (n) => (n ? bytes(n) : "") },
    { name: "a token", value: (operator) => operator.token_bytes, number: true, show: (n) => (n ? bytes(n) : "") },
    { name: "FLOP", value: (operator) => operator.flops, number: true, show: (n) => (n ? readable(n) : "") },
    { name: "model line", value: (operator) => operator.line },
  ];
  const texts = operators.map((operator) => [
    ...columns.map((column) => column.value(operator)), ...Object.values(operator.weights).map((weight) => weight.name),
  ].join(" ").toLowerCase());
  const order = { column: columns[0], sign: 1 };
  const body = document.querySelector("#rows tbody");
  const search = document.getElementById("search");
  const folded = document.getElementById("folded");

  function heads() {
    return element("tr", {}, columns.map((column) => {
      const head = element("th", { class: column.number ? "number" : null, tabindex: 0, click: () => sortBy(column, head) }, column.name);
      head.addEventListener("keydown", (event) => event.key === "Enter" && sortBy(column, head));
      return head;
    }));
  }

  function sortBy(column, head) {
    order.sign = order.column === column ? -order.sign : 1;
    order.column = column;
    document.querySelectorAll("#rows th").forEach((one) => one.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", order.sign > 0 ? "ascending" : "descending");
    draw();
  }

  /** What operators have in common that are one row: their place in a repeated block, unless layers are not folded. */
  const placeOf = (operator) => (folded.checked && operator.repeat ? `${operator.repeat.number} ${operator.place}` : operator.number);

  function draw() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const { value, number } = order.column;
    const compare = number ? (a, b) => value(a) - value(b) : (a, b) => value(a).localeCompare(value(b), "en", { numeric: true });
    const matches = operators.filter((operator) => words.every((word) => texts[operator.number].includes(word)));
    const alike = d3.rollup(matches, (some) => some.length, placeOf);
    const found = d3.groups(matches, placeOf).map(([, [first]]) => first)
      .sort((a, b) => order.sign * compare(a, b) || a.number - b.number);
    body.replaceChildren(...found.map((operator) => row(operator, alike.get(placeOf(operator)))));
    document.getElementById("found").textContent = `${found.length} of ${ellm.several(operators.length, "operator")}`;
  }

  function row(operator, alike) {
    const made = element("tr", { click: () => {
      body.querySelectorAll(".chosen").forEach((one) => one.classList.remove("chosen"));
      made.classList.add("chosen");
      ellm.details.ofOperator(operator);
    } }, columns.map(({ name, value, number, show }) => {
      const text = show ? show(value(operator)) : String(value(operator));
      const times = name === "operator" && alike > 1 ? ` × ${alike}` : "";
      return element("td", { class: number ? "number" : null }, text + times);
    }));
    return made;
  }

  function start() {
    document.querySelector("#rows thead").append(heads());
    search.addEventListener("input", draw);
    folded.addEventListener("change", draw);
    draw();
  }

  return { start };
})();
