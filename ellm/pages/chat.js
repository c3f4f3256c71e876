"use strict";
// The conversation: what was said, what is being said, and how a turn is changed. Texts of the model are text nodes alone.
ellm.chat = (function () {
  const { element } = ellm;
  const list = document.getElementById("turns");
  const question = document.getElementById("question");
  const [send, stop, speed] = ["send", "stop", "speed"].map((id) => document.getElementById(id));
  const KEPT = "ellm-turns";
  let turns = []; // {role, content, reasoning, spent, error}
  let running = null; // the AbortController of the answer that comes

  const button = (label, act) => element("button", { class: "tool", type: "button", click: act }, label);

  /** A text with what stands between ``` lines as code. */
  function formatted(text) {
    return text.split(/^```[^\n]*\n?/m).map((part, i) => (i % 2 ? element("pre", {}, part) : part));
  }

  /** The elements of a turn, kept with it, since an answer grows in place. */
  function made(turn) {
    const part = (name) => element("div", { class: name });
    const view = { text: part("text"), error: part("error"), spent: part("spent"), thoughts: element("div") };
    view.summary = element("summary");
    view.thought = element("details", { class: "thought" }, view.summary, view.thoughts);
    view.head = part("head");
    view.error.setAttribute("role", "alert");
    const whole = element("article", { class: `turn ${turn.role}` }, view.head, view.thought, view.text, view.error, view.spent);
    return { ...view, whole };
  }

  function fill(turn) {
    const view = (turn.view ??= made(turn)), mine = turn.role === "user", busy = running !== null;
    const acts = busy ? [] : [button("Edit", () => edit(turn)), mine ? null : button("Again", () => again(turn))];
    view.head.replaceChildren(element("b", {}, mine ? "You" : "Model"), ...acts.filter(Boolean));
    view.thought.hidden = !turn.reasoning;
    view.summary.textContent = turn.content || !turn.live ? "Thought before it answered" : "Thinking…";
    view.thoughts.textContent = turn.reasoning || "";
    view.text.replaceChildren(...formatted(turn.content));
    view.error.textContent = turn.error || "";
    view.spent.textContent = turn.spent || "";
    view.whole.setAttribute("aria-busy", Boolean(turn.live));
    return view.whole;
  }

  function draw() {
    list.replaceChildren(...turns.map(fill));
    list.scrollTop = list.scrollHeight;
    send.hidden = running !== null;
    stop.hidden = running === null;
    const kept = turns.map(({ role, content, reasoning, spent, error }) => ({ role, content, reasoning, spent, error }));
    try {
      sessionStorage.setItem(KEPT, JSON.stringify(kept));
    } catch {
      // more than the browser keeps: then a reload forgets the conversation
    }
  }

  /** Puts a text field in the place of a turn. What was asked is asked anew; what was answered is taken as if it were so. */
  function edit(turn) {
    const field = element("textarea", { "aria-label": "Changed text" });
    field.value = turn.content;
    const done = () => {
      turn.content = field.value;
      if (turn.role === "user") {
        turns = turns.slice(0, turns.indexOf(turn) + 1);
        answer();
      } else draw();
    };
    field.addEventListener("keydown", (event) => {
      if (event.key === "Escape") draw();
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) done();
    });
    turn.view.text.replaceChildren(field, button(turn.role === "user" ? "Ask again" : "Keep", done), button("Cancel", draw));
    field.focus();
  }

  /** Drops an answer and what came after it, and asks for another. */
  function again(turn) {
    turns = turns.slice(0, turns.indexOf(turn));
    answer();
  }

  function messages() {
    const { system } = ellm.settings.values();
    const said = turns.filter((turn) => turn.content).map(({ role, content, reasoning }) =>
      (reasoning ? { role, content, reasoning_content: reasoning } : { role, content }));
    return system ? [{ role: "system", content: system }, ...said] : said;
  }

  /** Asks for an answer to what was said, and shows it as it comes. */
  async function answer() {
    if (running) return;
    const asked = messages(), turn = { role: "assistant", content: "", reasoning: "", live: true };
    const mine = new AbortController(), begun = performance.now();
    let first = 0, last = 0, pieces = 0, usage = null, due = false;
    running = mine;
    turns.push(turn);
    draw();
    const show = () => {
      due = false;
      const below = list.scrollHeight - list.scrollTop - list.clientHeight < 60;
      fill(turn);
      if (below) list.scrollTop = list.scrollHeight;
      if (last > first && turn.live) speed.textContent = `${(1000 * (pieces - 1) / (last - first)).toFixed(1)} tokens/s`;
    };
    try {
      for await (const event of ellm.server.stream(asked, mine.signal)) {
        usage = event.usage || usage;
        const delta = event.choices && event.choices[0] ? event.choices[0].delta : {};
        if (!delta.content && !delta.reasoning_content) continue;
        last = performance.now();
        first = first || last;
        pieces += 1;
        turn.content += delta.content || "";
        turn.reasoning += delta.reasoning_content || "";
        if (!due) requestAnimationFrame(show);
        due = true;
      }
    } catch (error) {
      if (!mine.signal.aborted) turn.error = error.message;
    }
    turn.live = false;
    turn.spent = spent(usage, pieces, begun, first, last, mine.signal.aborted);
    speed.textContent = "";
    running = null;
    draw();
  }

  /** A line on how long an answer took. Without the server's counts, each piece was a token. */
  function spent(usage, pieces, begun, first, last, stopped) {
    const tokens = usage ? usage.completion_tokens : pieces, parts = [];
    if (stopped) parts.push("stopped");
    if (tokens) parts.push(ellm.several(tokens, "token"));
    if (tokens > 1 && last > first) parts.push(`${(1000 * (tokens - 1) / (last - first)).toFixed(1)} tokens/s`);
    if (first) parts.push(`first after ${((first - begun) / 1000).toFixed(2)} s`);
    const details = usage && usage.prompt_tokens_details;
    if (usage) parts.push(`${ellm.several(usage.prompt_tokens, "token")} of prompt${details && details.cached_tokens ? `, ${details.cached_tokens} of them cached` : ""}`);
    return parts.join(" · ");
  }

  function ask() {
    const text = question.value;
    if (!text.trim() || running) return;
    question.value = "";
    turns.push({ role: "user", content: text });
    answer();
  }

  function start() {
    try {
      turns = JSON.parse(sessionStorage.getItem(KEPT)) || [];
    } catch {
      turns = [];
    }
    document.getElementById("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      ask();
    });
    question.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        ask();
      }
    });
    stop.addEventListener("click", () => {
      running.abort();
      question.focus();
    });
    document.addEventListener("keydown", (event) => event.key === "Escape" && running && running.abort());
    document.getElementById("fresh").addEventListener("click", () => {
      if (running) running.abort();
      turns = [];
      draw();
      question.focus();
    });
    draw();
  }

  return { start };
})();
