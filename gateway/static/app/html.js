// The one place that knows the libraries: markup as tagged templates, and the hooks of components.
import { h, render, Component, Fragment } from "../vendor/preact/preact.js";
import { useEffect, useMemo, useRef, useState } from "../vendor/preact/hooks.js";
import htm from "../vendor/htm/htm.js";

const html = htm.bind(h);

// Draws a component again only if one of its properties is another value.
function memo(draw) {
  return class extends Component {
    shouldComponentUpdate(next) {
      return Object.keys(next).some((name) => this.props[name] !== next[name]);
    }

    render(props) {
      return draw(props);
    }
  };
}

export { html, render, Fragment, memo, useEffect, useMemo, useRef, useState };
