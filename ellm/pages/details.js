"use strict";
// The panel on the right: what is known of the operator, group, event, block or buffer that was chosen.
ellm.details = (function () {
  const { element, bytes, readable, several } = ellm;
  const { operators, groups, events, tasks, critical } = ellm.model;
  const panel = document.getElementById("details");

  function fill(...parts) {
    panel.replaceChildren(...parts.flat().filter(Boolean));
    panel.scrollTop = 0;
  }

  const facts = (pairs) => element("dl", {}, pairs.filter(Boolean).flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]));

  function chip(kernel) {
    const made = element("span", { class: "chip" }, kernel);
    made.style.background = ellm.family(kernel).colour;
    return made;
  }

  function table(head, rows) {
    const cells = (tag, row) => element("tr", {}, row.map((cell) => element(tag, {}, cell)));
    return element("table", {}, element("thead", {}, cells("th", head)), element("tbody", {}, rows.map((row) => cells("td", row))));
  }

  const jump = (operator) => element("button", { class: "tool", click: () => choose(operator) }, operator.name);

  function choose(operator) {
    ellm.show("graph");
    ellm.graph.choose(operator);
  }

  function ofOperator(operator) {
    const { contract, fields } = contractOf(operator);
    const source = ellm.data.sources[operator.line];
    const weights = Object.entries(operator.weights);
    fill(
      element("h2", {}, operator.name),
      element("p", {}, chip(operator.kernel), operator.precision ? `${operator.precision} weights` : "no matrix of weights"),
      element("h3", {}, `model line ${operator.line}`), source ? element("code", { class: "block" }, source) : null,
      element("h3", {}, "contract of the kernel"), element("p", {}, contract),
      facts([["output", operator.shape], ...costs(operator), path(`op${operator.number}`, operator)]),
      element("button", { class: "tool", click: () => unfold(operator) },
        ellm.elements.isUnfolded(operator) ? "Fold its tasks and events" : "Unfold to tasks and events"),
      element("h3", {}, "tiles and home cores"), tiling(operator), taskStrip(operator),
      weights.length ? [element("h3", {}, "weights in the checkpoint"),
        table(["role", "tensor"], weights.map(([role, weight]) => [role, `${weight.name} [${weight.shape.join(", ")}]`]))] : null,
      operator.after.length ? [element("h3", {}, "waits for"), element("p", {}, operator.after.map((number) => jump(operators[number])))] : null,
      element("h3", {}, "arguments"), table(["field", "value", "meaning"], fields),
    );
  }

  /** Whether a node lies on the critical path. */
  function path(node, operator) {
    if (!critical.has(node)) return ["critical path", "not on it"];
    const place = operator ? critical.place(operator) : 0;
    if (place) return ["critical path", `on it: task ${place} of ${critical.length}`];
    return ["critical path", operator ? "on it, without a task in the step of a first token" : "on it"];
  }

  function unfold(operator) {
    choose(operator);
    ellm.graph.toggle({ operator: operator.number });
  }

  function contractOf(operator) {
    const { text, fields } = ellm.data.kernels[operator.kernel];
    const rows = Object.entries(fields).map(([name, [kind, meaning]]) => [name, shownArgument(kind, operator.args[name]), meaning || kind]);
    return { contract: text, fields: rows };
  }

  function shownArgument(kind, value) {
    if (value === -1 && (kind === "buffer" || kind === "shared")) return "absent";
    return ["buffer", "shared", "weight", "range"].includes(kind) ? `+${value}` : String(value);
  }

  function costs(operator) {
    const experts = operator.experts ? `, ${operator.top_k} of ${operator.experts} experts a row` : "";
    return [
      ["a row", operator.flops || operator.flops_per_key ? `${readable(operator.flops, "FLOP")}${operator.flops_per_key ? ` and ${readable(operator.flops_per_key, "FLOP")} a key` : ""}${experts}` : "no products"],
      operator.token_bytes ? ["a token reads", `${bytes(operator.token_bytes)} of weights`] : null,
      operator.weight_bytes ? ["packed weights", bytes(operator.weight_bytes)] : null,
    ];
  }

  function tiling(operator) {
    const { args } = operator;
    if (!("n_tiles" in args)) return element("p", {}, `${several(operator.tiles, "task")} ${ellm.model.extent(groups[operator.groups[0]])}.`);
    const size = args.task_tiles * operator.column_bytes;
    const banks = args.heads && args.bank_stride ? ` for each of ${args.heads} heads` : "";
    return element("p", {}, `${several(args.n_tiles, "column tile")}${banks} of 16 columns × k ${args.k}, ${bytes(operator.column_bytes)} each; up to ${args.task_tiles} a task: ${several(operator.tiles, "task")} that read up to ${bytes(size)} of weights in one piece.`);
  }

  /** One square a task, coloured by the worker whose memory holds its weights. */
  function taskStrip(operator) {
    const count = operator.tiles;
    const said = element("p", {}, homes(count));
    const squares = d3.range(Math.min(count, 1200)).map((index) => {
      const square = element("i", { title: taskLabel(operator, index), click: () => {
        square.parentNode.querySelectorAll(".chosen").forEach((one) => one.classList.remove("chosen"));
        square.classList.add("chosen");
        said.textContent = taskLabel(operator, index);
      } });
      square.style.background = ellm.model.homeColour(index, count);
      return square;
    });
    return [element("div", { class: "tasks" }, squares), count > 1200 ? element("p", {}, `and ${count - 1200} more`) : null, said];
  }

  function homes(count) {
    const { cores } = ellm.data;
    if (cores.length > 8) return `${cores.length} workers own ${Math.floor(count / cores.length)} or ${Math.ceil(count / cores.length)} tasks each.`;
    return cores.map((core, worker) => {
      const [begin, end] = [worker, worker + 1].map((one) => Math.floor((count * one) / cores.length));
      const owned = end - begin === 1 ? `task ${begin}` : `tasks ${begin}–${end - 1}`;
      return `core ${core}: ${begin < end ? owned : "none"}`;
    }).join(", ");
  }

  function taskLabel(operator, index) {
    const { args } = operator;
    const core = `core ${ellm.data.cores[ellm.model.home(index, operator.tiles)]}`;
    if (!("n_tiles" in args)) return `task ${index}: home ${core}`;
    const tiles = columns(operator, index);
    const head = args.heads && args.bank_stride ? `head ${Math.floor(index / Math.ceil(args.n_tiles / args.task_tiles))}, ` : "";
    return `task ${index}: ${head}column tiles ${tiles[0]}–${tiles.at(-1)}, home ${core}`;
  }

  /** The column tiles of a task. */
  function columns({ args }, index) {
    const first = (index % Math.ceil(args.n_tiles / args.task_tiles)) * args.task_tiles;
    return d3.range(first, Math.min(args.n_tiles, first + args.task_tiles));
  }

  function ofGroup(group) {
    const operator = operators[group.op];
    fill(
      element("h2", {}, `group ${group.number}`),
      element("p", {}, chip(operator.kernel), `${operator.name}, ${ellm.model.groupName(group)}`),
      facts([
        ["tasks", `${group.tiles.toLocaleString("en")} ${ellm.model.extent(group)}`],
        ["published by", group.publishedBy.length ? list("event", group.publishedBy) : published(group)],
        ["signals", list("event", group.signals)],
        path(`group${group.number}`, operator),
      ]),
      element("h3", {}, "tasks and home cores"), taskStrip(operator),
      element("h3", {}, "operator"), element("p", {}, jump(operator)),
    );
  }

  function ofTask(group, index) {
    const operator = operators[group.op];
    const { args } = operator;
    fill(
      element("h2", {}, `task ${index} of group ${group.number}`),
      element("p", {}, chip(operator.kernel), `${operator.name}, ${ellm.model.groupName(group)}`),
      element("p", {}, `${taskLabel(operator, index)}.`),
      facts([
        "n_tiles" in args ? ["reads", `${bytes(columns(operator, index).length * operator.column_bytes)} of weights`] : null,
        ["may run when", group.publishedBy.length ? `${list("event", group.publishedBy)} has fired` : `after ${published(group)}`],
        ["the last signals", list("event", group.signals)],
        path(`group${group.number}`, operator),
      ]),
      element("h3", {}, "all tasks of the group"), taskStrip(operator),
      element("h3", {}, "operator"), element("p", {}, jump(operator)),
    );
  }

  function published(group) {
    const wake = tasks.wakes.find((one) => one.first <= group.number && groups[one.first].op === group.op);
    return wake ? `group ${wake.group}, if its expert has rows` : "the start of the step";
  }

  function list(noun, numbers) {
    if (!numbers.length) return "none";
    const some = numbers.slice(0, 12).join(", ");
    return `${noun} ${some}${numbers.length > 12 ? ` and ${numbers.length - 12} more` : ""}`;
  }

  function ofEvent(event, count) {
    const by = [...new Set(event.signalledBy.map((group) => operators[groups[group].op]))];
    fill(
      element("h2", {}, count > 1 ? `${count} events like event ${event.number}` : `event ${event.number}`),
      element("p", {}, event.number === tasks.end ? "When it fires, the step is done." : "When it has all its signals, it fires: it publishes groups, whose tasks any core may then run."),
      facts([
        ["needs", ellm.model.needs(event)],
        ["signalled by", list("group", event.signalledBy)],
        ["triggered by", list("event", event.triggeredBy)],
        ["publishes", list("group", event.publishes)],
        ["triggers", list("event", event.triggers)],
        path(`event${event.number}`),
      ]),
      by.length ? [element("h3", {}, "signalled by groups of"), element("p", {}, by.slice(0, 12).map(jump))] : null,
    );
  }

  function ofRepeat(repeat) {
    const inside = operators.filter((operator) => operator.repeat && operator.repeat.number === repeat.number);
    const sum = (name) => d3.sum(inside, (operator) => operator[name]);
    fill(
      element("h2", {}, `${several(repeat.period, "layer")} × ${repeat.times}`),
      element("p", {}, "Blocks that differ only in where their weights and buffers lie. Double click to fold or unfold; the box in the toolbar chooses the layer that is shown."),
      facts([
        ["layers", `${repeat.first}–${repeat.first + repeat.period * repeat.times - 1}`],
        ["operators", `${inside.length} (${inside.length / repeat.times} a block)`],
        ["packed weights", bytes(sum("weight_bytes"))],
        ["a token reads", `${bytes(sum("token_bytes"))} of weights`],
        ["a row", readable(sum("flops"), "FLOP")],
        ["critical path", `${inside.filter(critical.place).length} of its ${critical.length} tasks`],
      ]),
    );
  }

  function ofBuffer(buffer, shared) {
    const [first, last] = [buffer.first, buffer.last].map((number) => operators[number]);
    fill(
      element("h2", {}, buffer.name),
      element("p", {}, shared ? "A buffer that all row blocks share." : "A buffer of every row block's section."),
      facts([
        ["offset", buffer.offset.toLocaleString("en")],
        ["bytes", buffer.bytes.toLocaleString("en")],
        ["first access", first ? jump(first) : "the start"],
        ["last access", last ? jump(last) : "held until the step ends: other row blocks read it"],
      ]),
    );
  }

  function ofNode({ operator, group, event, count, repeat, task, rest }) {
    if (event !== undefined) ofEvent(events[event], count);
    else if (task !== undefined && !rest) ofTask(groups[group], task);
    else if (group !== undefined) ofGroup(groups[group]);
    else if (operator !== undefined) ofOperator(operators[operator]);
    else if (repeat !== undefined) ofRepeat(ellm.model.repeats[repeat]);
  }

  return { ofNode, ofBuffer, ofOperator, choose };
})();
