// Shows /openapi.json to a reader.
import { get } from "../app/api.js";

const byId = (id) => document.getElementById(id);

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function nameOf(schema) {
  if (!schema) return "";
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.anyOf) return schema.anyOf.map(nameOf).join(" or ");
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  if (schema.type === "array") return `list of ${nameOf(schema.items) || "anything"}`;
  return schema.type || "anything";
}

function limitsOf(schema) {
  const shown = [];
  for (const [key, sign] of [["minimum", "≥"], ["exclusiveMinimum", ">"], ["maximum", "≤"], ["maxLength", "length ≤"],
    ["minLength", "length ≥"], ["maxProperties", "entries ≤"], ["pattern", "matches"]]) {
    if (schema[key] !== undefined) shown.push(`${sign} ${schema[key]}`);
  }
  if (schema.default !== undefined) shown.push(`default: ${JSON.stringify(schema.default)}`);
  return shown.join(", ");
}

function row(name, schema, required, about) {
  const note = [about || schema.description, limitsOf(schema)].filter(Boolean).join(" — ");
  return element("tr", {}, element("td", { class: "mono" }, name + (required ? " *" : "")),
    element("td", {}, nameOf(schema)), element("td", { class: "soft" }, note));
}

function link(schema) {
  const name = nameOf(schema);
  return schema && schema.$ref ? element("a", { href: `#${name}` }, name) : element("span", {}, name);
}

function operation(method, path, found) {
  const box = element("details", {}, element("summary", {},
    element("span", { class: "method mono" }, method.toUpperCase()), element("span", { class: "mono" }, path),
    element("span", { class: "soft" }, `  ${found.summary}`)));
  if (found.requestBody) {
    const [[kind, content]] = Object.entries(found.requestBody.content);
    box.append(element("p", {}, `Body (${kind}): `, link(content.schema)));
  }
  if (found.parameters.length) {
    box.append(element("table", {}, ...found.parameters.map((p) =>
      row(`${p.name} (${p.in})`, p.schema, p.required, p.description))));
  }
  box.append(element("table", {}, ...Object.entries(found.responses).map(([status, answer]) => {
    const content = Object.values(answer.content || {})[0];
    return element("tr", {}, element("td", { class: "mono" }, status), element("td", {}, answer.description),
      element("td", {}, content ? link(content.schema) : ""));
  })));
  return box;
}

function shape(name, schema) {
  const required = schema.required || [];
  const box = element("details", { id: name }, element("summary", { class: "mono" }, name));
  if (schema.description) box.append(element("p", { class: "soft" }, schema.description));
  if (schema.properties) {
    box.append(element("table", {}, ...Object.entries(schema.properties).map(([field, of]) =>
      row(field, of, required.includes(field)))));
  } else box.append(element("p", {}, nameOf(schema)));
  return box;
}

function openTarget() {
  const target = byId(decodeURIComponent(location.hash.slice(1)));
  if (target) target.open = true;
}

async function show() {
  let found;
  try {
    found = await get("/openapi.json");
  } catch (error) {
    byId("gate").hidden = error.status !== 401;
    return;
  }
  byId("gate").hidden = true;
  byId("version").textContent = found.info.version;
  const tags = new Map();
  for (const [path, methods] of Object.entries(found.paths)) {
    for (const [method, op] of Object.entries(methods)) {
      if (!tags.has(op.tags[0])) tags.set(op.tags[0], element("section", { class: "card" }, element("h2", {}, op.tags[0])));
      tags.get(op.tags[0]).append(operation(method, path, op));
    }
  }
  byId("operations").replaceChildren(...[...tags.values()].flatMap((section) => [section, element("p")]));
  byId("shapes").replaceChildren(...Object.entries(found.components.schemas).map(([n, s]) => shape(n, s)));
  openTarget();
}

window.addEventListener("hashchange", openTarget);
show();
