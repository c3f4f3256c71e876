"use strict";
// Starts the page of `ellm inspect`.
ellm.header();
ellm.tabs();
document.getElementById("legend").append(...ellm.legend(Object.keys(ellm.data.kernels)));
ellm.graph.start();
ellm.memory.start();
ellm.table.start();
ellm.details.ofOperator(ellm.data.operators[0]);
