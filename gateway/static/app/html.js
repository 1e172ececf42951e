// The one place that knows the libraries: markup as tagged templates, and the hooks of components.
import { h, render, Fragment } from "../vendor/preact/preact.js";
import { useEffect, useMemo, useRef, useState } from "../vendor/preact/hooks.js";
import htm from "../vendor/htm/htm.js";

const html = htm.bind(h);

// Draws a component again only if one of its properties is another object.
function memo(component) {
  function Memo(props) {
    this.shouldComponentUpdate = (next) =>
      Object.keys({ ...props, ...next }).some((name) => this.props[name] !== next[name]);
    return h(component, props);
  }
  return Memo;
}

export { html, render, Fragment, memo, useEffect, useMemo, useRef, useState };
