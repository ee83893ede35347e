"use strict";
const report = JSON.parse(document.getElementById("data").textContent);
const config = { responsive: true, displaylogo: false, scrollZoom: false };

function ink(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function themed(layout) {
  const axis = { gridcolor: ink("--line"), zerolinecolor: ink("--line"), linecolor: ink("--line"), automargin: true };
  const styled = {
    ...layout,
    autosize: true,
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: ink("--ink"), size: 12 },
    hoverlabel: { namelength: -1 },
  };
  if (!layout.scene) {
    styled.xaxis = { ...layout.xaxis, ...axis };
    styled.yaxis = { ...layout.yaxis, ...axis };
  }
  return styled;
}

function drawFigures() {
  return Promise.all(
    report.figures.map((figure) => Plotly.react(figure.id, figure.data, themed(figure.layout), config)),
  );
}

function sceneTraces(scene) {
  const edges = {
    type: "scatter3d", mode: "lines", x: scene.cell[0], y: scene.cell[1], z: scene.cell[2],
    line: { color: ink("--soft"), width: 3 }, hoverinfo: "skip", showlegend: false,
  };
  const bonds = {
    type: "scatter3d", mode: "lines", x: scene.bonds[0], y: scene.bonds[1], z: scene.bonds[2],
    line: { color: ink("--line"), width: 5 }, hoverinfo: "skip", showlegend: false,
  };
  const atoms = scene.atoms.map((group) => ({
    type: "scatter3d", mode: "markers", name: group.symbol, x: group.x, y: group.y, z: group.z,
    marker: { color: group.color, size: group.size, opacity: 1, line: { color: ink("--soft"), width: 1 } },
    hovertemplate: `${group.symbol} (%{x:.2f}, %{y:.2f}, %{z:.2f})<extra></extra>`,
  }));
  return [edges, bonds, ...atoms];
}

let shown = [];
let drawing = 0;

function scenePanel(panel) {
  const figure = document.createElement("figure");
  const caption = document.createElement("figcaption");
  caption.append(Object.assign(document.createElement("strong"), { textContent: panel.title }), ` ${panel.caption}`);
  figure.append(caption);
  if (!panel.scene) return { figure };
  const element = document.createElement("div");
  element.className = "scene";
  element.tabIndex = 0;
  element.setAttribute("role", "application");
  element.setAttribute("aria-label", `${panel.title}: ${panel.caption}. Arrow keys turn it.`);
  figure.prepend(element);
  return { figure, element, scene: panel.scene };
}

async function drawStructures(index) {
  const mine = ++drawing;
  shown.forEach((element) => Plotly.purge(element));
  const panels = report.structures[index].panels.map(scenePanel);
  document.getElementById("scenes").replaceChildren(...panels.map((panel) => panel.figure));
  const drawn = panels.filter((panel) => panel.scene);
  shown = drawn.map((panel) => panel.element);
  for (const { element, scene } of drawn) {
    const layout = themed({
      margin: { l: 0, r: 0, t: 0, b: 0 },
      legend: { orientation: "h", y: 0 },
      scene: {
        ...axesOf(scene), dragmode: "turntable",
        camera: { eye: { x: 1.4, y: 0.9, z: 0.6 }, projection: { type: "orthographic" } },
      },
    });
    await Plotly.newPlot(element, sceneTraces(scene), layout, config);
    if (mine !== drawing) {
      Plotly.purge(element);
      return;
    }
    element.addEventListener("keydown", (event) => turnByKey(element, event));
    element.on("plotly_relayout", (change) => turnOthers(element, change["scene.camera"]));
  }
}

const turns = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };

function turnByKey(element, event) {
  const turn = turns[event.key];
  if (!turn) return;
  event.preventDefault();
  const camera = structuredClone(element._fullLayout.scene._scene.getCamera());
  const { x, y, z } = camera.eye;
  const radius = Math.hypot(x, y, z);
  const around = Math.atan2(y, x) + 0.2 * turn[0];
  const up = Math.min(1.5, Math.max(-1.5, Math.asin(z / radius) + 0.2 * turn[1]));
  camera.eye = {
    x: radius * Math.cos(up) * Math.cos(around), y: radius * Math.cos(up) * Math.sin(around), z: radius * Math.sin(up),
  };
  Plotly.relayout(element, { "scene.camera": camera });
}

let turning = false;

// Axes of equal scale, such that the cell's diagonal fits whichever way it is turned.
function axesOf(scene) {
  const ranges = scene.cell.map((values) => {
    const known = values.filter((value) => value !== null);
    const [low, high] = [Math.min(...known), Math.max(...known)];
    return [low - 0.02 * (high - low), high + 0.02 * (high - low)]; // lines at the very end are cut off
  });
  const spans = ranges.map(([low, high]) => high - low);
  const [x, y, z] = spans.map((span) => (1.75 * span) / Math.hypot(...spans));
  const [xaxis, yaxis, zaxis] = ranges.map((range) => ({ range, visible: false, showspikes: false }));
  return { xaxis, yaxis, zaxis, aspectmode: "manual", aspectratio: { x, y, z } };
}

async function turnOthers(element, camera) {
  if (!camera || turning) return;
  turning = true;
  const others = shown.filter((other) => other !== element);
  await Promise.all(others.map((other) => Plotly.relayout(other, { "scene.camera": camera })));
  turning = false;
}

async function draw() {
  await drawFigures();
  const choice = document.getElementById("composition");
  if (choice) await drawStructures(Number(choice.value));
  document.body.dataset.drawn = "true";
}

document.getElementById("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  draw();
});
document.getElementById("composition")?.addEventListener("change", (event) => drawStructures(Number(event.target.value)));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
draw();
