// A command with confirmation: what it will touch before, and what came of it after.
import { html, useEffect, useRef, useState } from "../html.js";
import { Failure } from "./words.js";

// `act(reason)` does it and returns what came of it in words; `touches`: a list of sentences.
export function Confirm({ title, touches, verb, danger, asksReason, act, onClose }) {
  const dialog = useRef(null);
  const [reason, setReason] = useState("");
  const [state, setState] = useState({});
  useEffect(() => {
    dialog.current.showModal();
  }, []);
  const run = async (event) => {
    event.preventDefault();
    setState({ busy: true });
    try {
      setState({ result: await act(reason.trim()) });
    } catch (problem) {
      setState({ problem });
    }
  };
  const close = () => dialog.current.close();
  return html`<dialog ref=${dialog} onClose=${onClose} aria-labelledby="confirm-title">
    <form onSubmit=${run}>
      <h2 id="confirm-title">${title}</h2>
      ${state.result
        ? html`<p role="status" class="notice good">${state.result}</p>`
        : html`<ul class="touches">${touches.map((text) => html`<li key=${text}>${text}</li>`)}</ul>`}
      ${state.problem && html`<${Failure} problem=${state.problem} />`}
      ${asksReason && !state.result && html`<label class="field"><span>Reason <span class="soft">(recorded with your name)</span></span>
        <input maxlength="200" value=${reason} onInput=${(event) => setReason(event.target.value)} autofocus /></label>`}
      <p class="buttons">
        ${state.result
          ? html`<button type="button" onClick=${close}>Close</button>`
          : html`<button type="button" class="quiet" onClick=${close}>Cancel</button>
            <button class=${danger ? "danger" : ""} disabled=${state.busy}>${state.busy ? "Working…" : verb}</button>`}
      </p>
    </form></dialog>`;
}
