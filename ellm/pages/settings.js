"use strict";
// How to answer: what is left empty is the model's choice. Kept for this tab.
ellm.settings = (function () {
  const form = document.getElementById("settings");
  const KEPT = "ellm-settings";
  const NUMBERS = ["temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_tokens", "seed"];

  const values = () => Object.fromEntries(new FormData(form));

  /** The fields of a request. */
  function sampling() {
    const given = values(), found = { model: given.model };
    for (const name of NUMBERS) if (given[name] !== "") found[name] = Number(given[name]);
    if (given.reasoning_effort) found.reasoning_effort = given.reasoning_effort;
    return found;
  }

  /** The names that the model has. */
  function offer(names) {
    const select = form.elements.model, chosen = select.value;
    select.replaceChildren(...names.map((name) => ellm.element("option", { value: name }, name)));
    if (names.includes(chosen)) select.value = chosen;
    document.getElementById("name").textContent = select.value;
    document.title = `${select.value}: ellm serve`;
  }

  function start(changed) {
    const kept = JSON.parse(sessionStorage.getItem(KEPT) || "{}");
    for (const [name, value] of Object.entries(kept)) if (form.elements[name] && name !== "model") form.elements[name].value = value;
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("change", (event) => {
      sessionStorage.setItem(KEPT, JSON.stringify(values()));
      changed(event.target.name);
    });
  }

  return { start, values, sampling, offer };
})();
