// Requests to the API, in the session of the reader. No token is ever seen here.

// A request that ended in a problem; `status` 0: no answer came.
export class Problem extends Error {
  constructor(status, body) {
    super(body.detail || body.title || `status ${status}`);
    this.status = status;
    this.title = body.title || "The request failed";
    this.kind = body.type || "";
  }
}

// The decoded answer. `options`: body (sent as JSON), headers, signal. Throws `Problem`.
export async function request(method, path, { body, headers = {}, signal } = {}) {
  const sent = { ...headers };
  if (method !== "GET") sent["Muster-Request"] = "1";
  if (body !== undefined) sent["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(path, { method, signal, headers: sent, body: body && JSON.stringify(body) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, { title: "The gateway does not answer", detail: "It may be starting again." });
  }
  const content = await response.json().catch(() => ({}));
  if (!response.ok) throw new Problem(response.status, content);
  return { status: response.status, content };
}

export async function get(path, options) {
  return (await request("GET", path, options)).content;
}

// A query without what is empty; lists are repeated.
export function query(parameters) {
  const search = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) {
    for (const one of Array.isArray(value) ? value : [value]) {
      if (one !== "" && one !== undefined && one !== null) search.append(name, one);
    }
  }
  const text = search.toString();
  return text && `?${text}`;
}
