// Who the reader is: asked of the gateway, which knows it from a cookie that no script can read.
import { get, request } from "./api.js";
import { Signal } from "./signal.js";

// null until it is known; then what `GET /session` says.
export const session = new Signal(null);

const channel = "BroadcastChannel" in window ? new BroadcastChannel("muster-session") : null;
channel?.addEventListener("message", () => refreshSession());

export async function refreshSession() {
  try {
    session.value = await get("/session");
  } catch {
    session.value ??= null; // it is asked again once the gateway answers
  }
  return session.value;
}

export async function signIn(token) {
  session.value = (await request("POST", "/session", { body: { token } })).content;
  channel?.postMessage("changed");
}

export async function signOut() {
  session.value = (await request("DELETE", "/session")).content;
  channel?.postMessage("changed");
}

// Whether the reader has to sign in first.
export function isLocked(who) {
  return who !== null && who.token_required && !who.signed_in;
}

// Whether the reader may do what needs a scope: what one may not do is not offered.
export function may(scope) {
  const scopes = session.value?.scopes || [];
  return scopes.includes(scope) || scopes.includes("admin");
}
