"use strict";
// What all of the page's scripts use: numbers and elements, tables, CSV files, and the figures and tables that are made when they come into view.

const number = (value, digits = 4) => Number(value.toPrecision(digits)).toLocaleString("en", {maximumSignificantDigits: digits, useGrouping: false});

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) name.startsWith("on") ? made.addEventListener(name.slice(2), value) : made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function table(caption, header, rows) {
  const body = rows.map(row => element("tr", {}, ...row.map((cell, i) => element(i ? "td" : "th", i ? {} : {scope: "row"}, cell))));
  return element("div", {class: "scroll", role: "region", tabindex: "0", "aria-label": caption}, element("table", {},
    element("caption", {}, caption), element("thead", {}, element("tr", {}, ...header.map(name => element("th", {scope: "col"}, name)))), element("tbody", {}, ...body)));
}

const quoted = cell => { const text = String(cell); return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text; };
const csv = (header, rows) => [header, ...rows].map(row => row.map(quoted).join(",")).join("\n") + "\n";

function download(name, text, type = "text/csv") {
  const link = element("a", {download: name, href: URL.createObjectURL(new Blob([text], {type}))});
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

function colours() {
  const style = getComputedStyle(document.documentElement);
  return {text: style.getPropertyValue("--text").trim(), line: style.getPropertyValue("--line").trim()};
}

// Tables are in the page as JSON, {columns, rows}; they become elements when their fold is first opened.
const readTables = new Map();
function reportTable(key) {
  if (!readTables.has(key)) readTables.set(key, JSON.parse(document.getElementById(`table-${key}`)?.textContent ?? '{"columns": [], "rows": []}'));
  return readTables.get(key);
}
const cell = value => typeof value === "number" && !Number.isInteger(value) ? number(value) : String(value);
for (const fold of document.querySelectorAll("details[data-table]")) {
  const key = fold.dataset.table, caption = fold.querySelector("summary").textContent;
  fold.append(element("button", {type: "button", onclick: () => download(`${key}.csv`, csv(reportTable(key).columns, reportTable(key).rows))}, "Download as CSV"));
  fold.addEventListener("toggle", () => {
    const {columns, rows} = reportTable(key);
    if (!fold.querySelector("table")) fold.append(table(caption, columns, rows.map(row => row.map(cell))));
  });
}

// A figure is drawn when it comes near the window, so that many of them cost nothing at the start.
const inPage = new Map();
function drawFigure(chart) {
  const figure = JSON.parse(document.querySelector(`script.figure[data-for="${chart.id}"]`).textContent), {text, line} = colours();
  const shade = {"font.color": text, "xaxis.gridcolor": line, "yaxis.gridcolor": line, "xaxis.linecolor": line, "yaxis.linecolor": line};
  if (inPage.has(chart)) Plotly.relayout(chart, shade);
  else inPage.set(chart, Plotly.newPlot(chart, figure.data, figure.layout, {responsive: true, displaylogo: false}).then(() => Plotly.relayout(chart, shade)));
}
const coming = new IntersectionObserver(seen => seen.filter(each => each.isIntersecting).forEach(each => { coming.unobserve(each.target); drawFigure(each.target); }), {rootMargin: "400px"});
document.querySelectorAll(".chart").forEach(chart => coming.observe(chart));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => inPage.forEach((_, chart) => drawFigure(chart)));
