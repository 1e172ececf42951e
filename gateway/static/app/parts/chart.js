// A chart over time that fits its place: uPlot, in the colours of the page.
import uPlot from "../../vendor/uplot/uplot.js";
import { html, useEffect, useRef } from "../html.js";
import { theme } from "./shell.js";

const dark = window.matchMedia("(prefers-color-scheme: dark)");

function colour(name) {
  const probe = document.createElement("span");
  probe.className = `ink-${name}`;
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

function line({ label, ink, fill, dash, stepped }) {
  return {
    label,
    stroke: colour(ink),
    fill: fill && colour(`${ink}-fill`),
    width: 1.5,
    dash,
    paths: stepped ? uPlot.paths.stepped({ align: 1 }) : undefined,
    points: { show: false },
  };
}

// `data`: times in seconds, then a list for each of `lines`. `label`: what it shows, in words.
export function Chart({ data, lines, label, height = 84 }) {
  const place = useRef(null);
  const plot = useRef(null);
  const chosen = theme.use();
  useEffect(() => {
    const spot = place.current;
    if (!spot) return undefined; // it was removed before it was drawn
    const width = () => Math.max(spot.clientWidth, 120);
    const draw = () => {
      plot.current?.destroy();
      const soft = colour("soft");
      const axis = { stroke: soft, font: "11px system-ui", ticks: { show: false }, grid: { stroke: colour("line"), width: 1 } };
      plot.current = new uPlot({
        width: width(),
        height,
        padding: [6, 4, 0, 0],
        legend: { show: false },
        cursor: { show: false },
        scales: { y: { range: (_, low, high) => [0, Math.max(high, 4)] } },
        axes: [
          { ...axis, size: 18, gap: 2, space: 70, grid: { show: false }, values: (_, ticks) => ticks.map((at) =>
            new Date(at * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", hour12: false })) },
          { ...axis, size: 34, gap: 4, space: 28, values: (_, ticks) => ticks.map((n) => (Number.isInteger(n) ? n.toLocaleString() : "")) },
        ],
        series: [{}, ...lines.map(line)],
      }, data, spot);
    };
    draw();
    const fit = new ResizeObserver(() => plot.current?.setSize({ width: width(), height }));
    fit.observe(spot);
    dark.addEventListener("change", draw);
    return () => {
      fit.disconnect();
      dark.removeEventListener("change", draw);
      plot.current?.destroy();
      plot.current = null;
    };
  }, [chosen]);
  useEffect(() => plot.current?.setData(data), [data]);
  return html`<figure class="chart"><div ref=${place} role="img" aria-label=${label}></div>
    <figcaption>${lines.map((one) => html`<span key=${one.label} class=${`key ink-${one.ink} ${one.dash ? "dashed" : ""}`}>${one.label}</span>`)}</figcaption></figure>`;
}
