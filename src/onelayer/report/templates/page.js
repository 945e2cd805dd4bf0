"use strict";
// Draws the figures, and draws them again when the theme changes, so that text and grid have the page's colours.
const root = document.documentElement;
const figures = [...document.querySelectorAll(".plot")];

// Storage may be forbidden for pages opened from a file; the toggle then lasts until the page is closed.
function stored(value) {
  try {
    if (value !== undefined) localStorage.setItem("onelayer-theme", value);
    return localStorage.getItem("onelayer-theme");
  } catch {
    return null;
  }
}

function isDark() {
  const chosen = root.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

function colours() {
  const of = (selector, property) => getComputedStyle(document.querySelector(selector))[property];
  return {
    ink: of("body", "color"),
    muted: of("footer", "color"),
    line: of("footer", "borderTopColor"),
    surface: of("button", "backgroundColor"),
  };
}

function themed(layout, c, narrow) {
  const result = structuredClone(layout);
  Object.assign(result, {
    paper_bgcolor: "transparent",
    plot_bgcolor: "transparent",
    colorway: [c.ink],
    font: { ...result.font, color: c.ink, family: getComputedStyle(document.body).fontFamily },
    hoverlabel: { ...result.hoverlabel, bgcolor: c.surface, bordercolor: c.line, font: { color: c.ink } },
  });
  for (const key of Object.keys(result).filter((name) => /^[xy]axis\d*$/.test(name))) {
    Object.assign(result[key], { gridcolor: c.line, linecolor: c.line, tickcolor: c.line, zerolinecolor: c.line });
    result[key].tickfont = { ...result[key].tickfont, color: c.muted };
  }
  for (const annotation of result.annotations ?? []) annotation.font = { size: 12, color: c.muted };
  if (narrow) {
    result.height += result.meta.narrow_margin.b - result.margin.b;
    Object.assign(result.margin, result.meta.narrow_margin);
  }
  // On a touch screen a finger on the figure scrolls the page instead of zooming.
  if (matchMedia("(pointer: coarse)").matches) result.dragmode = false;
  return result;
}

function draw() {
  const c = colours();
  const narrow = matchMedia("(max-width: 560px)").matches;
  for (const element of figures) {
    const spec = JSON.parse(document.getElementById(element.dataset.spec).textContent);
    Plotly.react(element, spec.data, themed(spec.layout, c, narrow), { responsive: true, displayModeBar: false });
  }
}

function label(button) {
  button.textContent = isDark() ? "Light" : "Dark";
}

const chosen = stored();
if (chosen === "light" || chosen === "dark") root.dataset.theme = chosen;
const button = document.getElementById("theme");
label(button);
button.addEventListener("click", () => {
  root.dataset.theme = isDark() ? "light" : "dark";
  stored(root.dataset.theme);
  label(button);
  draw();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { label(button); draw(); });

draw();
for (const select of document.querySelectorAll("select[data-group]")) {
  const group = [...document.getElementById(select.dataset.group).querySelectorAll("figure")];
  const show = () => group.forEach((figure, index) => {
    figure.hidden = index !== select.selectedIndex;
    if (!figure.hidden) Plotly.Plots.resize(figure.querySelector(".plot"));
  });
  select.addEventListener("change", show);
  show();
}
