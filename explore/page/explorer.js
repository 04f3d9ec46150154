"use strict";
// The part of the report that a reader explores: points of one case, filters, two pinned points, a panel for the chosen architecture.
// plotly.js draws. `explorer-data` holds what explore/report_points.py packed; numbers are decoded when their case is first shown.

const explorer = (() => {
  const data = JSON.parse(document.getElementById("explorer-data").textContent);
  const at = id => document.getElementById(id);
  const PIN_COLOURS = ["#d55e00", "#0072b2"];
  const state = {case: null, kept: [], front: [], chosen: null, pins: [null, null], brushed: null, lastPin: 1};

  // ---- numbers -------------------------------------------------------------------------------------------------------------

  function decode(text, kind) {
    const binary = atob(text), bytes = new Uint8Array(binary.length);
    for (let i = 0; i < bytes.length; i++) bytes[i] = binary.charCodeAt(i);
    return new kind(bytes.buffer);  // little-endian, as all browsers' machines are
  }

  function unpack(raw) {
    if (raw.n) return raw;
    raw.owner = decode(raw.owner, Uint32Array);
    raw.n = Object.fromEntries(Object.entries(raw.numbers).map(([name, text]) => [name, decode(text, Float32Array)]));
    for (const category of Object.values(raw.categories)) category.codes = decode(category.codes, Uint8Array);
    const n = raw.n, count = raw.owner.length;
    n.throughput_ips = n.latency_s.map(s => raw.batch / s);
    n.energy_j = new Float32Array(count);
    for (const part of data.parts) n[`${part} (J)`].forEach((j, i) => { n.energy_j[i] += j; });
    n.power_w = n.energy_j.map((j, i) => j / n.latency_s[i]);
    n.dram_share = new Float32Array(count);
    for (const part of data.parts.filter(name => name.startsWith("DRAM"))) n[`${part} (J)`].forEach((j, i) => { n.dram_share[i] += j / n.energy_j[i]; });
    raw.first = new Uint32Array(raw.names.length + 1).fill(count);
    for (let i = count - 1; i >= 0; i--) raw.first[raw.owner[i]] = i;
    return raw;
  }

  const category = (c, name, i) => c.categories[name] ? c.categories[name].values[c.categories[name].codes[i]] : c.same[name];
  // All points of a point's architecture at its back bias.
  const sweep = (c, point) => {
    const architecture = c.owner[point], bias = category(c, "back_bias_v", point);
    return Array.from({length: c.first[architecture + 1] - c.first[architecture]}, (_, k) => c.first[architecture] + k)
      .filter(i => category(c, "back_bias_v", i) === bias);
  };

  // Rows of a table in the page as objects; of an architecture if one is named.
  function tableRows(key, architecture) {
    const {columns, rows} = reportTable(key), place = columns.indexOf("architecture");
    return rows.filter(row => architecture === undefined || row[place] === architecture).map(row => Object.fromEntries(columns.map((name, k) => [name, row[k]])));
  }
  // The same clocks at nominal voltage; recorded for the architectures of highest effectiveness only.
  const frequencyOnly = (c, architecture) => tableRows(`sweeps-${c.key}`, c.names[architecture]).filter(row => row.sweep === "frequency");

  // Everything that is shown or downloaded of a point: label, unit, value.
  const QUANTITIES = [
    ["vdd_v", "core supply", "V", (c, i) => c.n.vdd_v[i]],
    ["freq_hz", "core clock", "MHz", (c, i) => c.n.freq_hz[i] / 1e6],
    ["throughput_ips", "throughput", "inferences/s", (c, i) => c.n.throughput_ips[i]],
    ["throughput_gops", "throughput", "GOPS", (c, i) => c.n.throughput_gops[i]],
    ["latency_s", "latency of a batch", "ms", (c, i) => c.n.latency_s[i] * 1e3],
    ["latency_s_lo", "latency, 90 % low", "ms", (c, i) => c.n.latency_s_lo[i] * 1e3],
    ["latency_s_hi", "latency, 90 % high", "ms", (c, i) => c.n.latency_s_hi[i] * 1e3],
    ["efficiency_gops_w", "system efficiency", "GOPS/W", (c, i) => c.n.efficiency_gops_w[i]],
    ["efficiency_gops_w_lo", "efficiency, 90 % low", "GOPS/W", (c, i) => c.n.efficiency_gops_w_lo[i]],
    ["efficiency_gops_w_hi", "efficiency, 90 % high", "GOPS/W", (c, i) => c.n.efficiency_gops_w_hi[i]],
    ["power_w", "power", "mW", (c, i) => c.n.power_w[i] * 1e3],
    ["energy", "energy of an inference", "mJ", (c, i) => c.n.energy_j[i] / c.batch * 1e3],
    ["dram_share", "DRAM's share of the energy", "%", (c, i) => c.n.dram_share[i] * 100],
    ["dram_bytes", "DRAM traffic of a batch", "MB", (c, i) => c.n.dram_bytes[i] / 1e6],
    ["area_um2", "chip area", "mm²", (c, i) => c.area_um2[c.owner[i]] / 1e6],
  ];
  const words = (c, i) => `${c.names[c.owner[i]]}; ${number(c.n.vdd_v[i])} V, ${number(c.n.freq_hz[i] / 1e6)} MHz: ` +
    `${number(c.n.throughput_ips[i])} inferences/s, ${number(c.n.efficiency_gops_w[i])} GOPS/W ` +
    `(${number(c.n.efficiency_gops_w_lo[i])} to ${number(c.n.efficiency_gops_w_hi[i])}), ${number(c.n.power_w[i] * 1e3)} mW, bound by ${category(c, "bound", i)}`;

  // ---- small helpers -------------------------------------------------------------------------------------------------------

  const option = (value, text) => element("option", {value}, text);
  const fill = (id, ...children) => at(id).replaceChildren(...children);
  const say = text => { at("explorer-status").textContent = text; };

  function pointRows(c, indices) {
    const parameters = Object.keys(c.parameters), categories = [...new Set(["bound", ...Object.keys(c.categories)])];
    return [
      [...data.case_columns, "architecture", ...parameters, ...QUANTITIES.map(([name, , unit]) => `${name} (${unit})`), ...data.parts.map(p => `${p} (J)`), ...categories],
      indices.map(i => [...data.case_columns.map(name => c[name]), c.names[c.owner[i]], ...parameters.map(name => c.parameters[name][c.owner[i]]),
        ...QUANTITIES.map(([, , , value]) => value(c, i)), ...data.parts.map(p => c.n[`${p} (J)`][i]), ...categories.map(name => category(c, name, i))]),
    ];
  }

  // ---- which case, which points --------------------------------------------------------------------------------------------

  const varying = data.case_columns.filter(name => new Set(data.cases.map(c => c[name])).size > 1);

  function buildCaseChoice() {
    fill("explorer-case", ...varying.map(name => {
      const values = [...new Set(data.cases.map(c => String(c[name])))];
      const select = element("select", {id: `case-${name}`, onchange: () => chooseCase(name)}, ...values.map(value => option(value, value)));
      return element("label", {}, `${name} `, select);
    }));
  }

  // The case with the value just chosen that agrees most with the other choices.
  function chooseCase(changed) {
    const wanted = Object.fromEntries(varying.map(name => [name, at(`case-${name}`).value]));
    const agreement = c => varying.filter(name => String(c[name]) === wanted[name]).length;
    const possible = changed ? data.cases.filter(c => String(c[changed]) === wanted[changed]) : data.cases;
    showCase(possible.reduce((best, c) => agreement(c) > agreement(best) ? c : best));
  }

  function showCase(c) {
    state.case = unpack(c);
    varying.forEach(name => { at(`case-${name}`).value = String(c[name]); });
    buildFilters(c);
    at("explorer-scope").textContent = `${c.caption}. ` + (c.points === c.stored ? `All ${c.stored} points that were recorded: ` : `${c.points} of ${c.stored} points, of ` +
      (c.complete ? "all architectures that are on the front of any value of a parameter, and of those closest to the front, out of: " : "the architectures closest to the front, out of: ")) +
      "the front, what comes so close that its 90 % interval reaches the front, and the voltage sweeps of highest effectiveness.";
    applyFilters();
    showChosen(c, state.front[Math.floor(state.front.length / 2)]);
  }

  const LIMITS = [
    ["power_w", "power at most (mW)", (c, i) => c.n.power_w[i] * 1e3], ["area", "area at most (mm²)", (c, i) => c.area_um2[c.owner[i]] / 1e6],
    ["latency", "latency at most (ms)", (c, i) => c.n.latency_s[i] * 1e3],
  ];

  function buildFilters(c) {
    const boxes = (kind, name, values) => element("fieldset", {"data-kind": kind, "data-name": name}, element("legend", {}, name), ...values.map(value =>
      element("label", {}, element("input", {type: "checkbox", checked: "", value, onchange: applyFilters}), ` ${value}`)));
    const parameters = Object.entries(c.parameters).map(([name, values]) => [name, [...new Set(values)].sort((a, b) => a - b)]).filter(([, values]) => values.length > 1);
    const limits = LIMITS.map(([name, label]) => element("label", {}, `${label} `, element("input", {type: "number", min: "0", step: "any", id: `limit-${name}`, onchange: applyFilters})));
    const [low, high] = c.n.vdd_v.reduce(([a, b], v) => [Math.min(a, v), Math.max(b, v)], [Infinity, -Infinity]);
    const volts = ["from", "to"].map((end, k) => element("label", {}, `supply ${end} (V) `,
      element("input", {type: "number", min: "0", step: "any", id: `vdd-${end}`, placeholder: number([low, high][k], 3), onchange: applyFilters})));
    fill("explorer-filters", element("div", {class: "limits"}, ...volts, ...limits), ...parameters.map(([name, values]) => boxes("parameter", name, values)),
      ...Object.entries(c.categories).filter(([, k]) => k.values.length > 1).map(([name, k]) => boxes("category", name, k.values)),
      element("button", {type: "button", onclick: () => { buildFilters(c); applyFilters(); }}, "Clear filters"));
  }

  function applyFilters() {
    const c = state.case, tests = [];
    for (const set of at("explorer-filters").querySelectorAll("fieldset")) {
      const allowed = new Set([...set.querySelectorAll("input:checked")].map(box => box.value)), name = set.dataset.name;
      if (allowed.size === set.querySelectorAll("input").length) continue;
      if (set.dataset.kind === "parameter") tests.push(i => allowed.has(String(c.parameters[name][c.owner[i]])));
      else tests.push(i => allowed.has(category(c, name, i)));
    }
    const limit = (id, test) => { const text = at(id).value; if (text !== "") tests.push(i => test(i, Number(text))); };
    LIMITS.forEach(([name, , value]) => limit(`limit-${name}`, (i, most) => value(c, i) <= most));
    limit("vdd-from", (i, least) => c.n.vdd_v[i] >= least - 1e-6);
    limit("vdd-to", (i, most) => c.n.vdd_v[i] <= most + 1e-6);
    state.kept = [];
    for (let i = 0; i < c.owner.length; i++) if (tests.every(test => test(i))) state.kept.push(i);
    state.front = frontOf(c, state.kept);
    state.brushed = null;
    drawFront();
    showFront();
    const best = state.front[0];
    say(state.kept.length ? `${state.kept.length} points, ${state.front.length} of them on the front; highest efficiency ${number(c.n.efficiency_gops_w[best])} GOPS/W.` : "No point passes the filters.");
  }

  // Non-dominated points by rising throughput; of equal points the first.
  function frontOf(c, indices) {
    const {throughput_ips: t, efficiency_gops_w: e} = c.n, found = [];
    let best = -Infinity;
    for (const i of [...indices].sort((a, b) => t[b] - t[a] || e[b] - e[a] || a - b)) if (e[i] > best) { best = e[i]; found.push(i); }
    return found.reverse();
  }

  // ---- the front -----------------------------------------------------------------------------------------------------------

  function theme() {
    const {text, line} = colours();
    const axis = {gridcolor: line, linecolor: line, zeroline: false, automargin: true};
    return {text, axis, layout: {font: {color: text}, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", hovermode: "closest"}};
  }
  const canDraw = (() => { try { return !!document.createElement("canvas").getContext("webgl"); } catch { return false; } })();
  const SHADES = {vdd_v: "core supply (V)", dram_share: "DRAM's share of the energy", area: "chip area (mm²)", power_w: "power (W)"};

  function shade(c, name) {
    if (name === "area") return i => c.area_um2[c.owner[i]] / 1e6;
    if (c.parameters[name]) return i => Math.log2(c.parameters[name][c.owner[i]] || 1);
    return i => c.n[name][i];
  }

  function pinTraces(c) {
    return state.pins.flatMap((pin, k) => {
      if (!pin || pin.case.network !== c.network || pin.case.batch !== c.batch) return [];
      const all = sweep(pin.case, pin.point), colour = PIN_COLOURS[k], name = "AB"[k], n = pin.case.n;
      const values = key => all.map(i => n[key][i]), slowed = frequencyOnly(pin.case, pin.case.owner[pin.point]);
      return [
        ...(slowed.length ? [{type: "scatter", mode: "lines", name: `${name}: frequency only`, x: slowed.map(row => row.throughput_ips), y: slowed.map(row => row.efficiency_gops_w),
          line: {color: colour, dash: "dash"}, hoverinfo: "skip"}] : []),
        {type: "scatter", mode: "lines+markers", name: `${name}: DVFS sweep`, x: values("throughput_ips"), y: values("efficiency_gops_w"), line: {color: colour},
          marker: {size: 5}, hoverinfo: "none", customdata: all.map(i => [k, i])},
        {type: "scatter", mode: "markers+text", name, text: [name], textposition: "top center", x: [n.throughput_ips[pin.point]], y: [n.efficiency_gops_w[pin.point]],
          marker: {size: 14, symbol: k ? "diamond" : "square", color: colour}, hoverinfo: "none", showlegend: false, customdata: [[k, pin.point]]},
      ];
    });
  }

  function drawFront() {
    const c = state.case, {text, axis, layout} = theme(), {throughput_ips: t, efficiency_gops_w: e} = c.n, shown = at("explorer-shade").value, scale = at("explorer-log").checked ? "log" : "linear";
    // Without WebGL thousands of marks are slow: then only the front and a part of the other points are drawn.
    const drawn = canDraw ? state.kept : state.kept.filter((_, k) => k % Math.ceil(state.kept.length / 3000) === 0);
    const of = value => Float32Array.from(drawn, value);
    const cloud = {type: canDraw ? "scattergl" : "scatter", mode: "markers", name: "points", x: of(i => t[i]), y: of(i => e[i]), hoverinfo: "none",
      marker: {size: 4, opacity: 0.6, color: of(shade(c, shown)), colorscale: "Viridis", showscale: true,
        colorbar: {title: {text: SHADES[shown] ?? `log2 ${shown}`, side: "right"}, thickness: 12}}};
    const line = {type: "scatter", mode: "lines+markers", name: "Pareto front", x: state.front.map(i => t[i]), y: state.front.map(i => e[i]), line: {color: text, width: 1},
      marker: {size: 7}, hoverinfo: "none"};
    state.drawn = drawn;
    Plotly.react("explorer-chart", [cloud, line, ...pinTraces(c)], {...layout, height: 520, margin: {l: 60, r: 10, t: 10, b: 50}, dragmode: "zoom", showlegend: true,
      legend: {orientation: "h", y: -0.15}, xaxis: {...axis, title: {text: "throughput (inferences/s)"}, type: scale, rangemode: "tozero"},
      yaxis: {...axis, title: {text: "system energy efficiency (GOPS/W)"}, type: scale, rangemode: "tozero"}},
    {responsive: true, displaylogo: false, modeBarButtonsToAdd: ["select2d", "lasso2d"]});
    at("explorer-chart").setAttribute("aria-label", state.front.length ? `${state.kept.length} points; the front has ${state.front.length}, from ` +
      `${words(c, state.front[0])}, to ${words(c, state.front.at(-1))}. The list below holds the same points.` : "no points");
  }

  function pointOf(event) {
    const p = event.points[0], chart = at("explorer-chart");
    if (p.customdata) return {case: state.pins[p.customdata[0]].case, point: p.customdata[1]};
    return {case: state.case, point: (p.curveNumber === 1 ? state.front : state.drawn)[p.pointIndex ?? p.pointNumber]};
  }

  // The sweep of the architecture under the pointer, and dashed the same clocks at nominal voltage, as shapes: cheaper to change than traces.
  function highlight(c, point) {
    const layout = {shapes: [], annotations: []};
    if (point !== null) {
      const log = at("explorer-log").checked, all = sweep(c, point), {throughput_ips: t, efficiency_gops_w: e} = c.n;
      const path = points => points.map(([x, y], k) => `${k ? "L" : "M"}${x},${y}`).join(""), slowed = frequencyOnly(c, c.owner[point]);
      layout.shapes = [{type: "path", path: path(all.map(i => [t[i], e[i]])), line: {color: "#e69f00", width: 3}}];
      if (slowed.length) layout.shapes.push({type: "path", path: path(slowed.map(row => [row.throughput_ips, row.efficiency_gops_w])), line: {color: "#e69f00", width: 2, dash: "dash"}});
      const [x, y] = log ? [Math.log10(t[point]), Math.log10(e[point])] : [t[point], e[point]];
      layout.annotations = [{x, y, text: `${number(c.n.vdd_v[point], 3)} V, ${number(c.n.freq_hz[point] / 1e6)} MHz`, bgcolor: "#e69f00", font: {color: "#000"}, arrowcolor: "#e69f00"}];
      at("explorer-pointer").textContent = words(c, point) + (slowed.length ? `. Dashed: the clock alone lowered, DVFS effectiveness ${number(slowed[0].effectiveness, 3)}` : "");
    }
    Plotly.relayout("explorer-chart", layout);
  }

  function listenToChart() {
    const chart = at("explorer-chart");
    chart.on("plotly_hover", event => { const {case: c, point} = pointOf(event); highlight(c, point); });
    chart.on("plotly_unhover", () => highlight(state.case, null));
    chart.on("plotly_click", event => { const {case: c, point} = pointOf(event); pin(c, point); });
    chart.on("plotly_selected", event => {
      state.brushed = event?.points?.length ? [...new Set(event.points.filter(p => p.curveNumber === 0).map(p => state.drawn[p.pointIndex ?? p.pointNumber]))] : null;
      showFront();
    });
  }

  // ---- list of the front, pins ---------------------------------------------------------------------------------------------

  const LISTED = ["vdd_v", "freq_hz", "throughput_ips", "efficiency_gops_w", "power_w", "area_um2", "dram_share"];
  const MOST = 200;

  function showFront() {
    const c = state.case, listed = state.brushed ?? state.front, shown = listed.slice(0, MOST), columns = QUANTITIES.filter(([name]) => LISTED.includes(name));
    fill("explorer-list", table(`${state.brushed ? "Selected points" : "Points on the front"}: ${listed.length}` + (listed.length > MOST ? `, the first ${MOST} listed` : ""),
      ["architecture", ...columns.map(([, label, unit]) => `${label} (${unit})`), "bound by", "pin"],
      shown.map(i => [c.names[c.owner[i]], ...columns.map(([, , , value]) => number(value(c, i))), category(c, "bound", i),
        element("button", {type: "button", "aria-label": `Pin ${words(c, i)}`, onclick: () => pin(c, i)}, "Pin")])));
  }

  function pin(c, point) {
    state.lastPin = state.pins.findIndex(p => p === null) >= 0 ? state.pins.findIndex(p => p === null) : 1 - state.lastPin;
    state.pins[state.lastPin] = {case: c, point};
    drawFront();
    showPins();
    showChosen(c, point);
    say(`Pinned as ${"AB"[state.lastPin]}: ${words(c, point)}.`);
  }

  function unpin(k) {
    state.pins[k] = null;
    drawFront();
    showPins();
    say(`${"AB"[k]} is not pinned any more.`);
  }

  function comparison() {
    const pinned = state.pins.map((p, k) => ({p, k})).filter(({p}) => p);
    const same = new Set(pinned.map(({p}) => p.case)).size < 2;
    const rows = same ? [] : data.case_columns.map(name => [name, ...pinned.map(({p}) => String(p.case[name])), ""]);
    rows.push(["architecture", ...pinned.map(({p}) => p.case.names[p.case.owner[p.point]]), ""]);
    for (const name of Object.keys(pinned[0].p.case.parameters)) {
      const values = pinned.map(({p}) => p.case.parameters[name][p.case.owner[p.point]]);
      rows.push([name, ...values.map(String), values.length > 1 ? number(values[1] / values[0]) : ""]);
    }
    for (const [, label, unit, value] of QUANTITIES) {
      const values = pinned.map(({p}) => value(p.case, p.point));
      rows.push([`${label} (${unit})`, ...values.map(v => number(v)), values.length > 1 ? number(values[1] / values[0]) : ""]);
    }
    for (const part of data.parts) {
      const values = pinned.map(({p}) => p.case.n[`${part} (J)`][p.point] / p.case.batch * 1e3);
      rows.push([`${part} (mJ / inference)`, ...values.map(v => number(v)), values.length > 1 && values[0] ? number(values[1] / values[0]) : ""]);
    }
    rows.push(["bound by", ...pinned.map(({p}) => category(p.case, "bound", p.point)), ""]);
    return {header: ["quantity", ...pinned.map(({k}) => "AB"[k]), pinned.length > 1 ? "B / A" : ""], rows};
  }

  function showPins() {
    const pinned = state.pins.map((p, k) => [p, k]).filter(([p]) => p);
    if (!pinned.length) return fill("explorer-pins", element("p", {}, "Nothing is pinned. Click a point, or use a Pin button in the list."));
    const {header, rows} = comparison();
    fill("explorer-pins", element("p", {}, ...pinned.map(([, k]) => element("button", {type: "button", onclick: () => unpin(k)}, `Unpin ${"AB"[k]}`)), " ",
      element("button", {type: "button", id: "download-comparison", onclick: () => download("comparison.csv", csv(header, rows))}, "Download as CSV")),
    table("Pinned points", header, rows));
  }

  // ---- the chosen architecture ---------------------------------------------------------------------------------------------

  // As hw.config accepts it, whatever stands in the tables: it goes into a file and a command.
  const designName = (c, architecture) => c.names[architecture].toLowerCase().replace(/[^a-z0-9_]/g, "_").replace(/^[^a-z]/, "d").slice(0, 41);

  function designYaml(c, architecture) {
    const value = name => c.parameters[name] ? c.parameters[name][architecture] : data.design.fixed[name];
    const [, activation, weight] = /^a(\d+)w(\d+)$/.exec(c.precision) ?? [];
    const groups = Object.entries(data.design.groups).map(([group, names]) => `${group}: {${names.map(name => `${name}: ${value(name)}`).join(", ")}}`);
    return ["version: 1", `name: ${designName(c, architecture)}`, ...(activation ? [`precision: {activation_bits: ${activation}, weight_bits: ${weight}}`] : []), ...groups].join("\n") + "\n";
  }

  const bytes = value => value >= 1024 ? `${value / 1024} KiB` : `${value} B`;

  function blockDiagram(c, point) {
    const a = c.owner[point], p = Object.fromEntries(Object.entries(c.parameters).map(([name, values]) => [name, values[a]]));
    const rate = c.dram_bytes_per_s ? `${number(c.dram_bytes_per_s / 1e9, 3)} GB/s peak` : "", used = c.n.dram_bytes[point] / c.n.latency_s[point] / 1e9;
    const boxes = [
      [10, 40, 150, 150, ["DRAM", c.dram, rate, `${number(used, 3)} GB/s used`]],
      [200, 40, 150, 150, ["memory side", `AXI ${p.axi_data_bits} bits`, `${number(c.mem_clk_hz / 1e6)} MHz`, "nominal supply"]],
      [380, 40, 60, 150, ["FIFOs"]],
      [470, 40, 130, 60, ["load engine", "store engine"]], [470, 130, 130, 60, ["sequencer", "registers"]],
      [630, 40, 170, 60, ["weight banks", `${p.cols} × ${bytes(p.weight_bank_bytes)}`]], [630, 130, 170, 60, ["activation banks", `${p.rows} × ${bytes(p.activation_bank_bytes)}`]],
      [840, 40, 170, 150, [`${p.rows} × ${p.cols} PEs`, `${p.lanes} multipliers each`, `${p.rows * p.cols * p.lanes} multipliers`, `2 × ${p.acc_depth} accumulators`, `${p.multiplier_stages} pipeline stages`]],
      [1050, 40, 140, 60, ["post-processing", `${p.rows} × ${p.post_lanes} lanes`]], [1050, 130, 140, 60, ["output banks", `${p.rows} × ${bytes(p.output_bank_bytes)}`]],
    ];
    const arrows = [[160, 115, 200, 115], [350, 115, 380, 115], [440, 70, 470, 70], [600, 70, 630, 70], [600, 80, 630, 150], [800, 70, 840, 70], [800, 160, 840, 160],
      [1010, 70, 1050, 70], [1120, 100, 1120, 130]];
    const svg = (tag, attributes, ...children) => {
      const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
      for (const [name, v] of Object.entries(attributes)) made.setAttribute(name, v);
      made.append(...children);
      return made;
    };
    const label = `Block diagram of ${c.names[a]}: ${boxes.map(([, , , , lines]) => lines.filter(Boolean).join(", ")).join("; ")}`;
    return svg("svg", {viewBox: "0 0 1200 230", role: "img", "aria-label": label, class: "blocks"},
      svg("rect", {x: 410, y: 8, width: 785, height: 200, class: "domain"}), svg("text", {x: 800, y: 26, class: "title"},
        `core domain: ${number(c.n.vdd_v[point], 3)} V (memories ${number(c.n.sram_vdd_v[point], 3)} V), ${number(c.n.freq_hz[point] / 1e6)} MHz`),
      ...arrows.map(([x1, y1, x2, y2]) => svg("line", {x1, y1, x2, y2})),
      ...boxes.flatMap(([x, y, width, height, lines]) => [svg("rect", {x, y, width, height, rx: 4}), ...lines.filter(Boolean).map((line, k, all) =>
        svg("text", {x: x + width / 2, y: y + height / 2 + (k - (all.length - 1) / 2) * 20 + 5, class: k ? "" : "title"}, line))]));
  }

  const draw = (id, traces, layout) => Plotly.react(id, traces, {...theme().layout, height: 360, margin: {l: 60, r: 10, t: 30, b: 50}, legend: {orientation: "h", y: -0.25}, ...layout},
    {responsive: true, displaylogo: false});

  function drawEnergy(c, point) {
    const {axis} = theme(), all = sweep(c, point), x = all.map(i => c.n.vdd_v[i]);
    const traces = data.parts.map((part, k) => ({type: "scatter", mode: "lines", stackgroup: "all", name: part, x, y: all.map(i => c.n[`${part} (J)`][i] / c.batch * 1e3), line: {color: data.palette[k]}}));
    draw("chosen-energy", traces, {title: {text: "Energy of an inference against core supply"}, xaxis: {...axis, title: {text: "core supply (V)"}}, yaxis: {...axis, title: {text: "energy (mJ / inference)"}},
      shapes: [{type: "line", x0: c.n.vdd_v[point], x1: c.n.vdd_v[point], yref: "paper", y0: 0, y1: 1, line: {dash: "dot", color: theme().text}}]});
    const total = i => c.n.energy_j[i] / c.batch * 1e3;
    at("chosen-energy").setAttribute("aria-label", `Energy of an inference: ${all.map(i => `${number(total(i))} mJ at ${number(c.n.vdd_v[i], 3)} V, DRAM ${number(c.n.dram_share[i] * 100, 2)} %`).join("; ")}`);
  }

  function drawRoofline(c, point) {
    const {axis} = theme(), a = c.owner[point], all = sweep(c, point), multipliers = c.parameters.rows[a] * c.parameters.cols[a] * c.parameters.lanes[a];
    const intensity = i => c.n.throughput_gops[i] * c.n.latency_s[i] * 1e9 / c.n.dram_bytes[i];
    const beats = c.parameters.axi_data_bits[a] / 8 * c.mem_clk_hz, rate = Math.min(beats, c.dram_bytes_per_s ?? Infinity) / 1e9;
    const span = [Math.min(...all.map(intensity)) / 8, Math.max(...all.map(intensity)) * 8];
    const roofs = [...new Set([all[0], point, all.at(-1)])].map(i => {
      const peak = 2 * multipliers * c.n.freq_hz[i] / 1e9, knee = peak / rate, x = [span[0], ...(knee > span[0] && knee < span[1] ? [knee] : []), span[1]];
      return {type: "scatter", mode: "lines", name: `roof at ${number(c.n.vdd_v[i], 3)} V`, x, y: x.map(v => Math.min(peak, rate * v)), line: {dash: i === point ? "solid" : "dash"}};
    });
    const points = {type: "scatter", mode: "markers", name: "operating points", x: all.map(intensity), y: all.map(i => c.n.throughput_gops[i]), text: all.map(i => `${number(c.n.vdd_v[i], 3)} V`),
      hoverinfo: "text+x+y", marker: {size: all.map(i => i === point ? 13 : 7), symbol: all.map(i => i === point ? "star" : "circle"), color: "#d55e00"}};
    draw("chosen-roofline", [...roofs, points], {title: {text: "Roofline (whole network)"}, xaxis: {...axis, type: "log", title: {text: "operations a DRAM byte"}}, yaxis: {...axis, type: "log", title: {text: "GOPS"}}});
    at("chosen-roofline").setAttribute("aria-label", `Roofline: ${number(intensity(point))} operations a DRAM byte, ${number(c.n.throughput_gops[point])} of ` +
      `${number(Math.min(2 * multipliers * c.n.freq_hz[point] / 1e9, rate * intensity(point)))} GOPS under the roof; memory rate ${number(rate, 3)} GB/s`);
  }

  function showLayers(c, point) {
    const {columns, rows: recorded} = reportTable(`layers-${c.key}`), at_ = name => columns.indexOf(name), a = c.names[c.owner[point]];
    const rows = recorded.filter(row => row[at_("architecture")] === a && Math.abs(row[at_("vdd_v")] - c.n.vdd_v[point]) < 1e-5);
    const choice = rows[0]?.[at_("choice")], own = rows.filter(row => row[at_("choice")] === choice);
    at("chosen-layers").hidden = !own.length;
    if (!own.length) return fill("chosen-layers-table", element("p", {}, "Layers are recorded for points of the front only."));
    const bounds = [...new Set(own.map(row => row[at_("bound")]))], {axis} = theme();
    const traces = bounds.map((bound, k) => { const of = own.filter(row => row[at_("bound")] === bound); return {type: "bar", orientation: "h", name: `bound by ${bound}`, marker: {color: data.palette[k]},
      y: of.map(row => row[at_("layer")]), x: of.map(row => row[at_("core_cycles")])}; });
    draw("chosen-layers", traces, {title: {text: "Core cycles of each layer"}, barmode: "stack", height: Math.max(360, 120 + 18 * own.length), xaxis: {...axis, title: {text: "core cycles a batch"}},
      yaxis: {...axis, categoryorder: "array", categoryarray: own.map(row => row[at_("layer")]).reverse()}});
    const shown = ["layer", "core_cycles", "latency_s", "utilization", "bound", "order"].filter(name => at_(name) >= 0);
    fill("chosen-layers-table", table("Layers of the chosen point", shown, own.map(row => shown.map(name => typeof row[at_(name)] === "number" ? number(row[at_(name)]) : String(row[at_(name)])))));
    at("chosen-layers").setAttribute("aria-label", `Core cycles of ${own.length} layers; the table below holds them`);
  }

  const file = (c, architecture) => `${designName(c, architecture)}.yaml`;

  function showSchedule(c, point) {
    const rows = tableRows(`schedules-${c.key}`, c.names[c.owner[point]]), {axis} = theme();
    at("chosen-schedule").hidden = !rows.length;
    if (!rows.length) {
      at("chosen-schedule-words").textContent = "Schedules are in the page for the balanced, the fastest and the most efficient architecture of a front. For this one, with its design file: " +
        `voltfront schedule --design ${file(c, c.owner[point])} --network ${c.network} --batch ${c.batch} --deadline-s ${number(c.n.latency_s[point] * 1.5, 3)}`;
      return fill("chosen-schedule-table");
    }
    const names = [...new Set(rows.map(row => row.strategy))], of = name => rows.filter(row => row.strategy === name), best = of("schedule"), ms = j => number(j * 1e3);
    const slowest = of("frequency only")[0] ?? rows.at(-1), saved = 100 * (1 - best[0].period_j / slowest.period_j);
    at("chosen-schedule-words").textContent = `A batch within ${ms(best[0].deadline_s)} ms, 1.5 times its shortest time. ` +
      names.map(name => `${name}: ${ms(of(name)[0].period_j)} mJ`).join("; ") + `. The schedule takes ${number(saved, 3)} % less than ${slowest.strategy}. What changing the voltage costs is assumed.`;
    const shown = names.filter(name => name === "schedule" || name === "best single point");
    draw("chosen-schedule", shown.map((name, k) => ({type: "bar", name, marker: {color: data.palette[k]}, x: of(name).map(row => row.layer), y: of(name).map(row => row.vdd_v)})),
      {title: {text: "Core supply of each layer"}, barmode: "group", xaxis: {...axis, type: "category"}, yaxis: {...axis, title: {text: "core supply (V)"}}});
    at("chosen-schedule").setAttribute("aria-label", `Core supply of ${best.length} layers: ${best.map(row => `${row.layer} ${number(row.vdd_v, 3)} V`).join(", ")}`);
    fill("chosen-schedule-table", table("Schedule of the chosen architecture", ["layer", "supply (V)", "clock (MHz)", "time (ms)", "energy (mJ)"],
      best.map(row => [row.layer, number(row.vdd_v, 3), number(row.freq_hz / 1e6), ms(row.time_s), ms(row.energy_j)])));
  }

  function showPlacement(c, point) {
    const name = c.names[c.owner[point]], picture = data.pictures[name];
    fill("chosen-placement", picture ? element("img", {src: picture, alt: `Placement of ${name}: orange flops, blue logic, red clock buffers, grey memories`}) :
      element("p", {}, "There is no picture of it yet. With its design file: ", element("code", {}, `voltfront placement --design ${file(c, c.owner[point])} --out build/placements/${name.replace(/[^a-z0-9_]/g, "_")}.png`),
        " (minutes), then ", element("code", {}, "voltfront report"), " again."));
  }

  function showChosen(c, point) {
    state.chosen = {case: c, point};
    const architecture = c.owner[point], name = c.names[architecture], yaml = designYaml(c, architecture), all = sweep(c, point);
    at("chosen-name").textContent = name;
    fill("chosen-diagram", blockDiagram(c, point));
    const select = element("select", {id: "chosen-voltage", onchange: event => showChosen(c, Number(event.target.value))},
      ...all.map(i => option(String(i), `${number(c.n.vdd_v[i], 3)} V, ${number(c.n.freq_hz[i] / 1e6)} MHz`)));
    const focused = document.activeElement?.id === "chosen-voltage";
    select.value = String(point);
    fill("chosen-point", element("label", {}, "operating point ", select), " ", element("button", {type: "button", onclick: () => pin(c, point)}, "Pin this point"));
    if (focused) select.focus();
    fill("chosen-numbers", table("Numbers of the chosen point", ["quantity", "value", "90 % interval"], QUANTITIES.filter(([key]) => !/_(lo|hi)$/.test(key)).map(([key, label, unit, value]) => {
      const ends = ["_lo", "_hi"].map(end => QUANTITIES.find(([other]) => other === key + end));
      return [`${label} (${unit})`, number(value(c, point)), ends.every(Boolean) ? ends.map(([, , , end]) => number(end(c, point))).join(" to ") : ""];
    })));
    at("chosen-yaml").textContent = yaml;
    at("chosen-command").textContent = `voltfront rtl --design ${file(c, architecture)} --out build/rtl/${designName(c, architecture)}`;
    at("chosen-download").onclick = () => download(file(c, architecture), yaml, "text/yaml");
    showPlacement(c, point);
    // The front is shown first; its details follow when the browser has painted it.
    clearTimeout(state.details);
    state.details = setTimeout(() => { drawEnergy(c, point); drawRoofline(c, point); showLayers(c, point); showSchedule(c, point); }, 50);
  }

  // ---- start ---------------------------------------------------------------------------------------------------------------

  function start() {
    buildCaseChoice();
    at("explorer-shade").append(...Object.entries(SHADES).map(([name, label]) => option(name, label)), ...Object.keys(data.cases[0].parameters).map(name => option(name, name)));
    at("explorer-shade").addEventListener("change", drawFront);
    at("explorer-log").addEventListener("change", drawFront);
    at("download-front").addEventListener("click", () => download("front.csv", csv(...pointRows(state.case, state.brushed ?? state.front))));
    at("download-points").addEventListener("click", () => download("points.csv", csv(...pointRows(state.case, state.kept))));
    showCase(data.cases[0]);
    listenToChart();
    showPins();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { drawFront(); showChosen(state.chosen.case, state.chosen.point); });
    document.documentElement.dataset.explorer = `ready ${Math.round(performance.now())}`;
  }

  return {start, state};
})();
explorer.start();
