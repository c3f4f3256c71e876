"use strict";
// What the server is doing: asked for once a second while somebody looks, from counts that only grow.
ellm.live = (function () {
  const { element, bytes } = ellm;
  const EVERY = 1000; // ms
  const LEAST = 2; // pixels of an expert
  const part = (id) => document.getElementById(id);
  let before = null, timer = 0, asked = 0;

  const percent = (share) => `${(100 * Math.min(1, Math.max(0, share))).toFixed(0)} %`;
  const number = (value) => value.toLocaleString("en");

  /** How much a count has grown in a second; null without an earlier answer of the same process. */
  function rate(now, read) {
    if (!before || now.seconds <= before.seconds || read(now) < read(before)) return null;
    return (read(now) - read(before)) / (now.seconds - before.seconds);
  }

  function figures(now) {
    const { statistics: count } = now;
    const speed = rate(now, (one) => one.statistics.generated_tokens);
    const reading = rate(now, (one) => one.statistics.prompt_tokens);
    const shown = [
      ["running", number(count.running), "requests that are computed"],
      ["waiting", number(count.waiting), `requests, with ${number(count.queued_tokens)} tokens`],
      ["tokens/s", speed === null ? "–" : speed.toFixed(1), "generated, of all requests"],
      ["prompt tokens/s", reading === null ? "–" : reading.toFixed(0), "computed, of all requests"],
      ["keys and values", bytes(count.kv_bytes), "memory of running requests"],
    ];
    part("figures").replaceChildren(...shown.map(([label, value, hint]) =>
      element("div", { class: "figure", title: hint }, element("b", {}, value), element("span", {}, label))));
  }

  /** Whether the model is given back. */
  function sleep(count) {
    if (count.asleep) return count.waiting ? "waking" : "asleep: the next question wakes it";
    return `awake; woken ${ellm.several(count.wakes, "time")}, the last time in ${count.wake_seconds.toFixed(2)} s`;
  }

  function facts(now) {
    const { statistics: count } = now, steps = rate(now, (one) => one.statistics.steps);
    const spent = rate(now, (one) => one.statistics.step_seconds);
    const shown = [
      ["cache hits", count.prefix_queries ? `${number(count.prefix_hits)} of ${number(count.prefix_queries)} prompt tokens (${percent(count.prefix_hits / count.prefix_queries)})` : "no prompts yet"],
      ["a step", steps ? `${(1000 * spent / steps).toFixed(1)} ms, ${steps.toFixed(1)} a second` : "none is running"],
      ["sent back to wait", ellm.several(count.preemptions, "time")],
      ["context", `${number(now.context)} tokens`],
      ...(count.sleeps ? [["model", sleep(count)]] : []),
    ];
    part("facts").replaceChildren(...shown.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]));
  }

  function cores(now) {
    part("cores").replaceChildren(...now.cores.map(({ core }, i) => {
      const share = rate(now, (one) => (one.cores[i] || { seconds: 0 }).seconds) || 0, bar = element("i");
      bar.style.width = `${Math.min(100, 100 * share)}%`;
      const name = core === null ? `worker ${i}` : `core ${core}`;
      return element("div", { class: "core", title: `${name}: ${percent(share)} busy` }, bar, element("span", {}, String(core === null ? i : core)));
    }));
  }

  /** One row a layer, one column an expert; more than one pixel each where there is room. */
  function experts(now) {
    part("experts-part").hidden = !now.experts;
    if (!now.experts) return;
    const canvas = part("experts"), columns = Math.max(...now.experts.map((layer) => layer.experts));
    const size = Math.max(LEAST, Math.floor(canvas.clientWidth / columns));
    canvas.width = size * columns;
    canvas.height = size * now.experts.length;
    const pen = canvas.getContext("2d");
    pen.fillStyle = "#2f6fb7";
    const gap = size > 3 ? 1 : 0;
    now.experts.forEach((layer, row) => layer.woken.forEach((expert) => pen.fillRect(size * expert, size * row, size - gap, size - gap)));
    const woken = now.experts.reduce((sum, layer) => sum + layer.woken.length, 0), all = now.experts.reduce((sum, layer) => sum + layer.experts, 0);
    part("experts-hint").textContent = `${number(woken)} of ${number(all)}: a row is a layer, a column an expert`;
  }

  function trouble(text) {
    part("trouble").textContent = text;
    part("trouble").hidden = !text;
  }

  async function look() {
    clearTimeout(timer);
    const mine = ++asked;
    try {
      const now = await ellm.server.get("/status");
      if (mine !== asked) return;
      for (const show of [figures, facts, cores, experts]) show(now);
      before = now;
      trouble("");
    } catch (error) {
      if (mine !== asked) return;
      before = null;
      trouble(error.message);
      if (error.status === 401) return; // until there is another key
    }
    timer = setTimeout(look, EVERY);
  }

  /** Looks while the page is seen. */
  function start() {
    document.addEventListener("visibilitychange", () => (document.hidden ? clearTimeout(timer) : look()));
    look();
  }

  return { start, look, trouble };
})();
