// A value that components and modules follow: `use` in a component, `subscribe` elsewhere.
import { useEffect, useState } from "./html.js";

export class Signal {
  #value;
  #followers = new Set();

  constructor(value) {
    this.#value = value;
  }

  get value() {
    return this.#value;
  }

  set value(value) {
    if (value === this.#value) return;
    this.#value = value;
    for (const follower of [...this.#followers]) follower(value);
  }

  subscribe(follower) {
    this.#followers.add(follower);
    return () => this.#followers.delete(follower);
  }

  use() {
    const [value, setValue] = useState(this.#value);
    useEffect(() => {
      setValue(this.#value);
      return this.subscribe(setValue);
    }, [this]);
    return value;
  }
}

// The time, for ages: all that is shown grows older together, once a second.
export const now = new Signal(Date.now());
setInterval(() => {
  if (!document.hidden) now.value = Date.now();
}, 1000);
document.addEventListener("visibilitychange", () => {
  now.value = Date.now();
});
