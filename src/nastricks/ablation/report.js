"use strict";
const figures = JSON.parse(document.getElementById("figures").textContent);
const dark = matchMedia("(prefers-color-scheme: dark)");
const narrow = matchMedia("(max-width: 640px)");
const touch = matchMedia("(hover: none), (pointer: coarse)").matches;
const shown = {};

// On a phone what stands beside a plot stands in it, names of rows above their marks and values below.
function narrowed(layout) {
  const names = layout.yaxis && layout.yaxis.ticktext;
  const notes = layout.annotations || [];
  if (!narrow.matches) return layout;
  if (notes.some((note) => note.name === "beside")) {
    return {
      ...layout,
      margin: { ...layout.margin, r: 12 },
      annotations: notes.map((note) => (note.name === "beside"
        ? { ...note, text: note.text.replaceAll("<br>", " "), xanchor: "right", xshift: 0, yanchor: "bottom" } : note)),
    };
  }
  if (!names) return layout;
  const above = names.map((name, i) => ({
    text: name.replaceAll("<br>", " "), x: 0, xref: "x domain", xanchor: "left",
    y: layout.yaxis.tickvals[i] - 0.34, yref: "y", showarrow: false, font: { size: 12 },
  }));
  return {
    ...layout,
    annotations: [
      ...notes.map((note) => (note.name === "value" ? { ...note, y: note.y + 0.7 } : note)),
      ...above,
    ],
    yaxis: { ...layout.yaxis, showticklabels: false },
  };
}

// The page's own colours and font, whatever scheme the reader prefers.
function dressed(layout) {
  const style = getComputedStyle(document.documentElement);
  const [ink, line, card] = ["--ink", "--line", "--card"].map((name) => style.getPropertyValue(name).trim());
  const axis = { gridcolor: line, linecolor: line, tickcolor: line };
  return {
    ...layout,
    font: { ...layout.font, family: "system-ui, sans-serif", size: 13, color: ink },
    hoverlabel: { bgcolor: card, bordercolor: line, font: { color: ink }, align: "left" },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: ink },
    annotations: (layout.annotations || []).map((note) => ({ ...note, bgcolor: card, borderpad: 1 })),
    xaxis: { ...layout.xaxis, ...axis },
    yaxis: { ...layout.yaxis, ...axis },
    // A finger that drags over a plot wants to scroll the page.
    dragmode: touch ? false : "zoom",
  };
}

function draw(key) {
  const figure = figures[key][shown[key]] || Object.values(figures[key])[0];
  // plotly writes into what it is given: hand it a copy, so that a second look starts afresh.
  const { data, layout } = structuredClone(figure);
  return Plotly.react("plot-" + key, data, dressed(narrowed(layout)), {
    responsive: true,
    displaylogo: false,
    displayModeBar: touch ? false : "hover",
    modeBarButtons: [["toImage", "resetScale2d"]],
  });
}

function drawAll() {
  Object.keys(figures).forEach(draw);
}

document.querySelectorAll("[data-judged]").forEach((block) => {
  const rows = block.querySelectorAll("tbody tr");
  const selects = [...block.querySelectorAll("select")];
  const apply = () => {
    rows.forEach((row) => {
      row.hidden = !selects.every((select) => !select.value || row.dataset[select.dataset.column] === select.value);
    });
    block.classList.toggle("one-metric", selects.some((select) => select.dataset.column === "metric" && select.value));
  };
  selects.forEach((select) => select.addEventListener("change", apply));
  apply();
});

document.querySelectorAll("select[data-plot]").forEach((select) => {
  select.addEventListener("change", () => {
    if (!select.value) return; // "all metrics" is for the table: the plot keeps its metric
    shown[select.dataset.plot] = select.value;
    draw(select.dataset.plot);
  });
});

dark.addEventListener("change", drawAll);
narrow.addEventListener("change", drawAll);
drawAll();
