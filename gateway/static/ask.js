// Requests to the API, with the token that the reader entered; it is stored for this tab only.
"use strict";

const ask = {
  headers() {
    const token = sessionStorage.getItem("muster-token");
    return token ? { Authorization: `Bearer ${token}` } : {};
  },

  async response(path, options = {}) {
    const response = await fetch(path, { ...options, headers: { ...ask.headers(), ...options.headers } });
    if (response.status === 401) throw new ask.Unauthorized();
    if (!response.ok) throw new Error(`${path}: ${response.status}`);
    return response;
  },

  async json(path) {
    return (await ask.response(path)).json();
  },

  Unauthorized: class extends Error {},
};

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}
