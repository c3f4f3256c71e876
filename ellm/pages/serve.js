"use strict";
// The page of a server: brings its parts together.
(function () {
  const { settings, live, server, chat } = ellm;
  const main = document.querySelector("main"), side = document.getElementById("side-switch");

  function open(wanted) {
    main.classList.toggle("alone", !wanted);
    side.setAttribute("aria-expanded", wanted);
  }

  async function connect() {
    try {
      settings.offer((await server.get("/v1/models")).data.map((model) => model.id));
    } catch (error) {
      live.trouble(error.message);
      if (error.status === 401) {
        open(true);
        document.querySelector("[name=key]").focus();
      }
    }
  }

  side.addEventListener("click", () => open(main.classList.contains("alone")));
  open(window.innerWidth > 800);
  settings.start((name) => {
    if (name === "key") connect().then(live.look);
    if (name === "model") settings.offer([...document.querySelector("[name=model]").options].map((one) => one.value));
  });
  chat.start();
  connect().then(live.start);
})();
