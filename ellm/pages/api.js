"use strict";
// The page of an OpenAPI document: its operations and the records that they take and give.
(function () {
  const { data, element, several } = ellm;
  const records = data.components.schemas;
  const BOUNDS = [
    ["minimum", "≥"], ["exclusiveMinimum", ">"], ["maximum", "≤"], ["exclusiveMaximum", "<"], ["minLength", "characters ≥"],
    ["maxLength", "characters ≤"], ["minItems", "items ≥"], ["maxItems", "items ≤"], ["maxProperties", "entries ≤"],
  ];

  /** Text and links that say what a schema allows. */
  function type(schema) {
    if (schema.$ref) return [link(schema.$ref.split("/").pop())];
    const any = schema.anyOf || schema.oneOf;
    if (any) return any.flatMap((one, number) => (number ? [" or ", ...type(one)] : type(one)));
    if (schema.enum) return [schema.enum.map((value) => JSON.stringify(value)).join(" or ")];
    if ("const" in schema) return [JSON.stringify(schema.const)];
    const bounds = BOUNDS.filter(([name]) => name in schema).map(([name, sign]) => `${sign} ${schema[name]}`);
    const more = bounds.length ? ` (${bounds.join(", ")})` : "";
    if (schema.type === "array") return ["list of ", ...type(schema.items || {}), more];
    if (schema.additionalProperties instanceof Object) return ["object of ", ...type(schema.additionalProperties), more];
    return [(schema.type || "anything") + more];
  }

  const link = (name) => element("a", { href: `#${name}`, click: () => (document.getElementById(name).open = true) }, name);

  function fields(record) {
    const required = record.required || [];
    const rows = Object.entries(record.properties || {}).map(([name, schema]) =>
      element("tr", {}, element("td", {}, element("code", {}, name), required.includes(name) ? " (required)" : ""),
        element("td", {}, ...type(schema)), element("td", {}, "default" in schema ? JSON.stringify(schema.default) : "")));
    const head = element("tr", {}, ...["field", "type", "if left out"].map((text) => element("th", {}, text)));
    return rows.length ? element("table", {}, element("thead", {}, head), element("tbody", {}, rows)) : element("p", {}, ...type(record));
  }

  function operation(path, method, found) {
    const content = (holder) => Object.entries((holder && holder.content) || {});
    const request = content(found.requestBody).flatMap(([, body]) => type(body.schema));
    const replies = content(found.responses[200]).flatMap(([media, body], number) =>
      [number ? ", or " : "", ...type(body.schema || body.itemSchema), body.itemSchema ? `, one after the other, as ${media}` : ` as ${media}`]);
    const errors = Object.entries(found.responses).filter(([status]) => status !== "200")
      .map(([status, reply]) => element("tr", {}, element("td", {}, status), element("td", {}, reply.description)));
    return element("details", { class: "operation" },
      element("summary", {}, element("span", { class: "method" }, method.toUpperCase()), element("code", {}, path),
        element("span", { class: "said" }, found.summary)),
      request.length ? element("p", {}, "Takes ", ...request, ".") : null,
      element("p", {}, "Gives ", ...replies, "."),
      element("p", {}, found.security ? "Wants the key of the server, if that has one." : "Wants no key."),
      element("table", {}, element("tbody", {}, errors)));
  }

  function record(name) {
    const said = element("span", { class: "said" }, records[name].description);
    return element("details", { id: name, class: "record" }, element("summary", {}, element("code", {}, name), said), fields(records[name]));
  }

  const operations = Object.entries(data.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, found]) => operation(path, method, found)));
  document.getElementById("name").append(`OpenAPI ${data.openapi}`);
  document.getElementById("figures").append(`${data.info.version}, ${several(operations.length, "operation")}; for machines: /openapi.json`);
  document.getElementById("operations").append(...operations);
  document.getElementById("records").append(...Object.keys(records).sort().map(record));
})();
