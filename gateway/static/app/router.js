// The address holds the view: `#/agents?status=failed` is a page and its parameters.
import { query } from "./api.js";
import { Signal } from "./signal.js";

function parse() {
  const [path, search = ""] = location.hash.replace(/^#/, "").split("?");
  const parts = path.split("/").filter(Boolean).map(decodeURIComponent);
  return { page: parts[0] || "overview", name: parts[1] || "", parameters: new URLSearchParams(search) };
}

export const route = new Signal(parse());
window.addEventListener("hashchange", () => {
  route.value = parse();
});

// The address of a page: `href("agent", id)`, `href("agents", "", { status: "failed" })`.
export function href(page, name = "", parameters = {}) {
  const path = [page === "overview" ? "" : page, name].filter(Boolean).map(encodeURIComponent).join("/");
  return `#/${path}${query(parameters)}`;
}

// Shows another view of the same page; `replace`: the browser's "back" skips this one.
export function go(address, { replace = false } = {}) {
  if (replace) {
    history.replaceState(null, "", address);
    route.value = parse();
  } else location.hash = address;
}
