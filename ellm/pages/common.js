"use strict";
// What every page uses. Whatever is shown goes through `element`, which makes text of it, never markup.
const ellm = { data: JSON.parse(document.getElementById("data").textContent) };

/** An element with attributes (functions are listeners) and children (elements or text; null is left out). */
ellm.element = function (tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(name, value);
    else if (value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return made;
};

/** A number of bytes, operations... for people: 12.3 M. */
ellm.readable = function (number, unit = "") {
  const scales = [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]];
  for (const [scale, prefix] of scales) {
    if (number >= scale) return `${(number / scale).toPrecision(3)} ${prefix}${unit}`;
  }
  return `${number} ${unit}`.trim();
};

ellm.bytes = (number) => ellm.readable(number, "B");

/** Several of something: 1 task, 2 tasks. */
ellm.several = (number, noun) => `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;

/** The family of a kernel: its label, and its colour in every picture. */
ellm.family = (kernel) => ellm.data.families.find((family) => family.kernels.includes(kernel));

/** Shows the view whose tab is clicked. Views that draw themselves when first shown listen to "shown". */
ellm.tabs = function () {
  for (const tab of document.querySelectorAll("[role=tab]")) {
    tab.addEventListener("click", () => ellm.show(tab.getAttribute("aria-controls")));
  }
};

ellm.show = function (view) {
  for (const tab of document.querySelectorAll("[role=tab]")) {
    const chosen = tab.getAttribute("aria-controls") === view;
    tab.setAttribute("aria-selected", chosen);
    document.getElementById(tab.getAttribute("aria-controls")).hidden = !chosen;
  }
  document.getElementById(view).dispatchEvent(new Event("shown"));
};

/** Fills the header: the name, and figures as [label, value, what it means]. */
ellm.header = function () {
  document.getElementById("name").append(ellm.data.name);
  document.getElementById("figures").append(
    ...ellm.data.figures.map(([label, value, hint]) =>
      ellm.element("div", { class: "figure", title: hint }, ellm.element("b", {}, value), ellm.element("span", {}, label))),
  );
};

/** A legend of the families that the kernels of this page belong to. */
ellm.legend = function (kernels) {
  const used = new Set(kernels.map(ellm.family));
  return ellm.data.families.filter((family) => used.has(family)).map((family) => {
    const swatch = ellm.element("i", {});
    swatch.style.background = family.colour;
    return ellm.element("span", { class: "key" }, swatch, family.label);
  });
};
