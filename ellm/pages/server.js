"use strict";
// What the page asks the server for. The API key goes with every request and stays in this tab.
ellm.server = (function () {
  function headers() {
    const { key } = ellm.settings.values();
    return key ? { Authorization: `Bearer ${key}` } : {};
  }

  /** What went wrong, in the server's own words if it has any. */
  async function failure(reply) {
    const text = await reply.text();
    try {
      return new Error(JSON.parse(text).error.message);
    } catch {
      return new Error(`${reply.status} ${reply.statusText}`);
    }
  }

  async function get(path) {
    const reply = await fetch(path, { headers: headers() });
    if (!reply.ok) throw Object.assign(await failure(reply), { status: reply.status });
    return reply.json();
  }

  /** The events of an answer to messages. Throws what the server says is wrong. */
  async function* stream(messages, signal) {
    const body = { ...ellm.settings.sampling(), messages, stream: true, stream_options: { include_usage: true } };
    const reply = await fetch("/v1/chat/completions", {
      method: "POST", signal, body: JSON.stringify(body), headers: { ...headers(), "Content-Type": "application/json" },
    });
    if (!reply.ok) throw await failure(reply);
    const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "", ended = false;
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      const lines = (text + value).split("\n");
      text = lines.pop();
      for (const line of lines) {
        if (!line.startsWith("data:")) continue; // a comment, which keeps the connection open
        const data = line.slice(5).trim();
        if (data === "[DONE]") ended = true;
        else {
          const event = JSON.parse(data);
          if (event.error) throw new Error(event.error.message);
          yield event;
        }
      }
    }
    if (!ended) throw new Error("the connection ended before the answer did");
  }

  return { get, stream };
})();
