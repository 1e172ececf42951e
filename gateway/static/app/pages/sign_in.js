// Signing in with a token, which goes to the gateway and is not kept by the page.
import { html, useState } from "../html.js";
import { signIn } from "../session.js";
import { Command, Failure } from "../parts/words.js";

export function SignIn() {
  const [token, setToken] = useState("");
  const [problem, setProblem] = useState(null);
  const submit = async (event) => {
    event.preventDefault();
    try {
      await signIn(token.trim());
    } catch (error) {
      setProblem(error);
    }
    setToken("");
  };
  return html`<section class="card narrow">
    <h1>Sign in</h1>
    <form onSubmit=${submit} class="stack">
      <label class="field">Token
        <input type="password" required autocomplete="current-password" value=${token} autofocus
          onInput=${(event) => setToken(event.target.value)} /></label>
      ${problem && html`<${Failure} problem=${problem} />`}
      <p class="buttons"><button>Sign in</button></p>
    </form>
    <p class="soft">A token says what you may see and do. An operator makes one with:</p>
    <${Command} text="muster token new my-name --may read,spawn,operate" />
  </section>`;
}
