"use strict";
// Starts the page of `ellm profile`.
ellm.header();
ellm.tabs();
document.getElementById("legend").append(...ellm.legend(ellm.data.operators.map((operator) => operator.kernel)),
  ...Object.values(ellm.idle).map(({ label, colour }) => {
    const swatch = ellm.element("i", {});
    swatch.style.background = colour;
    return ellm.element("span", { class: "key" }, swatch, label);
  }));
ellm.timeline.start();
ellm.totals.start();
ellm.experts.start();
