// What a run has written, a page of prompts at a time. Whatever comes from the run is text of a
// model or of a user: it is put on the page by textContent alone, and never as markup.
"use strict";

const POLL_MS = 2000;
const PAGE_SIZE = 10;
const TYPED = ["verdict", "low", "high", "search", "column", "value", "prompt"];

const form = document.getElementById("controls");
const fields = form.elements;
const at = (id) => document.getElementById(id);

let state = null;      // what the run says of itself
let start = 0;         // prompts before the page
let shown = "";        // the address of what is on the page
let stamp = "";        // of the round on the page
let asking = 0;        // number of the last request: an older answer is dropped
let wanted = null;     // round of the address bar, until the run has been asked once

// ---- making elements -------------------------------------------------------------------------

function make(tag, { text, name, ...attributes } = {}, ...children) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (name) element.className = name;
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children.filter(Boolean));
  return element;
}

function draw(tag, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

function figure(value, digits = 3) {
  if (value === null || value === undefined) return "–";
  return value.toFixed(digits).replace("-", "−");
}

// A rule may break before its options, and not within a word.
const breaking = (text) => text.split(/(?=\()/).flatMap((part, i) => (i ? [document.createElement("wbr"), part] : [part]));

const oneOf = (source) => (source === "heldout" ? "answer" : "candidate");
const counted = (number, word) => `${number.toLocaleString("en")} ${word}${number === 1 ? "" : "s"}`;

function setOptions(select, options, keep) {
  const old = keep ?? select.value;
  select.replaceChildren(...options.map(([value, text]) => make("option", { value, text })));
  select.value = options.some(([value]) => value === old) ? old : options.length ? options[0][0] : "";
}

// ---- asking ----------------------------------------------------------------------------------

async function ask(path, parameters = {}) {
  const response = await fetch(`${path}?${new URLSearchParams(parameters)}`, { cache: "no-store" });
  const data = await response.json();
  if (!response.ok) throw new Error(data.error ?? response.statusText);
  return data;
}

const source = () => form.querySelector("[name=source]:checked").value;

function roundsThere() {
  if (!state) return [];
  const own = state.parts.filter((part) => part.source === source() && part.arm === fields.arm.value);
  return own.map((part) => part.round);
}

const roundNow = () => roundsThere()[Number(fields.round.value)];

function query() {
  const asked = { source: source(), arm: fields.arm.value, round: roundNow() };
  for (const name of TYPED) if (fields[name].value) asked[name] = fields[name].value;
  if (!asked.column) delete asked.value;
  return { ...asked, start, size: PAGE_SIZE };
}

// ---- what there is to choose -------------------------------------------------------------------

function fillWhere() {
  const arms = [...new Set(state.parts.filter((p) => p.source === source()).map((p) => p.arm))];
  setOptions(fields.arm, arms.map((arm) => [arm, arm]), fields.arm.dataset.wanted);
  delete fields.arm.dataset.wanted;
  const before = wanted ?? Number(fields.round.dataset.round);
  const rounds = roundsThere();
  const place = fields.follow.checked ? rounds.length - 1 : rounds.indexOf(before);
  fields.round.max = Math.max(rounds.length - 1, 0);
  fields.round.value = place < 0 ? rounds.length - 1 : place;
  fields.round.disabled = rounds.length < 2;
  if (wanted === null && roundNow() !== before) start = 0;
  wanted = null;
  nameRound();
}

function nameRound() {
  const round = roundNow();
  fields.round.dataset.round = round ?? "";
  const words = round === undefined ? "none yet" : round === 0 ? "0, the base" : `${round} of ${state.rounds}`;
  at("round-name").textContent = words;
  fields.round.setAttribute("aria-valuetext", words);
}

function fillColumns() {
  const columns = state.columns[source()];
  setOptions(fields.column, [["", "all"], ...Object.keys(columns).map((name) => [name, name])], fields.column.dataset.wanted);
  delete fields.column.dataset.wanted;
  at("column-label").hidden = Object.keys(columns).length === 0;
  fillValues();
}

function fillValues() {
  const values = state.columns[source()][fields.column.value] ?? [];
  setOptions(fields.value, values.map((value) => [value, value]), fields.value.dataset.wanted);
  delete fields.value.dataset.wanted;
  at("value-label").hidden = values.length === 0;
}

function fillVerdicts(reasons) {
  at("verdict-label").hidden = reasons.length === 0;
  const options = [["", "all"]];
  if (reasons.length) options.push(["accepted", "accepted"], ["rejected", "not accepted"]);
  for (const [reason, count] of reasons) {
    if (reason !== "accepted") options.push([reason, `${reason} (${count})`]);
  }
  const now = fields.verdict.dataset.wanted ?? fields.verdict.value;
  if (now && !options.some(([value]) => value === now)) options.push([now, `${now} (0)`]);
  setOptions(fields.verdict, options, now);
  delete fields.verdict.dataset.wanted;
}

function countActive() {
  const active = TYPED.filter((name) => name !== "value" && fields[name].value).length;
  at("active").textContent = active ? `(${active} set)` : "";
}

// ---- what is shown -----------------------------------------------------------------------------

function showState() {
  at("name").textContent = state.name;
  document.title = `${state.name}: rsft view`;
  const pill = at("state");
  pill.textContent = state.state;
  pill.className = `state ${state.state.split(" ")[0]}`;
  at("progress").textContent = `${state.rounds_done} of ${counted(state.rounds, "round")} done`;
  at("problems").hidden = state.problems.length === 0;
  at("problems").replaceChildren(...state.problems.map((text) => make("li", { text })));
}

function showSummary(page) {
  const s = page.summary;
  const rate = s.scored ? ` (${((100 * s.accepted) / s.scored).toFixed(1)} %)` : "";
  const facts = [["prompts", s.prompts.toLocaleString("en")], [`${oneOf(page.source)}s`, s.candidates.toLocaleString("en")]];
  if (s.scored < s.candidates) facts.push(["without a reward", (s.candidates - s.scored).toLocaleString("en")]);
  if (s.accepted !== null) facts.push(["accepted", s.accepted.toLocaleString("en") + rate]);
  facts.push(["mean reward", figure(s.reward)]);
  if (s.reward_accepted !== null) facts.push(["of the accepted", figure(s.reward_accepted)]);
  const list = make("dl", {}, ...facts.map(([name, text]) => make("div", {}, make("dt", { text: name }), make("dd", { text }))));
  const rule = [s.rule && `rule: ${s.rule}`, page.note].filter(Boolean).join(". ");
  at("summary").replaceChildren(list, ...[s.bars && bars(s), rule && make("p", { name: "rule", text: rule })].filter(Boolean));
}

function bars({ bars: b, accepted }) {
  const most = Math.max(...b.all), width = 100 / b.all.length;
  const column = (name) => (count, i) => draw("rect", {
    class: name, x: i * width + 0.3, width: width - 0.6, y: 40 - (40 * count) / most, height: (40 * count) / most,
  });
  const label = `Rewards from ${figure(b.low)} to ${figure(b.high)}` + (accepted === null ? "" : "; what was accepted is darker");
  const svg = draw("svg", { viewBox: "0 0 100 40", preserveAspectRatio: "none", role: "img", "aria-label": label },
    ...b.all.map(column("all")), ...(accepted === null ? [] : b.accepted.map(column("kept"))));
  const words = [figure(b.low, 2), accepted === null ? "reward" : "reward: all, and accepted", figure(b.high, 2)];
  return make("figure", { name: "bars" }, svg, make("figcaption", {}, ...words.map((text) => make("span", { text }))));
}

function showPage(page) {
  showSummary(page);
  fillVerdicts(page.summary.reasons);
  const { prompts, candidates } = page.matching;
  const last = Math.min(page.start + page.size, prompts);
  at("matching").className = "";
  at("matching").textContent = prompts === 0
    ? `No ${oneOf(page.source)} is as the filters ask.`
    : `${counted(candidates, oneOf(page.source))} of ${counted(prompts, "prompt")}; prompts ${page.start + 1} to ${last}`;
  at("prompts").replaceChildren(...page.prompts.map((prompt) => showPrompt(prompt, page)));
  at("before").disabled = page.start === 0;
  at("after").disabled = last >= prompts;
  at("pages").hidden = prompts <= page.size;
}

function showPrompt(prompt, page) {
  const columns = Object.entries(prompt.fields).map(([name, value]) => `${name} ${value.length > 60 ? value.slice(0, 60) + "…" : value}`);
  const hidden = prompt.count - prompt.candidates.length;
  const all = counted(prompt.count, oneOf(page.source));
  const some = hidden ? `${prompt.candidates.length} of ${all}` : all;
  const head = make("h2", { text: prompt.id }, ...[some, ...columns].map((text) => make("span", { text })));
  return make("article", { name: "prompt" }, head,
    make("p", { name: "text asked", text: prompt.text, tabindex: "0" }),
    make("ol", { name: "candidates" }, ...prompt.candidates.map((one) => showCandidate(one, page))));
}

function showCandidate(one, page) {
  const facts = make("p", { name: "figures" }, make("span", { text: "reward " }, make("b", { text: figure(one.reward) })));
  const add = (text) => facts.append(make("span", { text }));
  if (one.rank !== null) add(`rank ${one.rank} of ${one.ranked}`);
  if (one.judge !== null) add(`judge ${figure(one.judge)}`);
  const verdict = one.failed ? "failed" : one.reason ? (one.accepted ? "✓ " : "") + one.reason : `answer ${one.number + 1}`;
  const left = make("div", {}, make("div", { name: "verdict" }, ...breaking(verdict)), facts);
  const terms = why(one);
  const right = make("div", { name: "right" }, said(one, page), terms.length && make("ul", { name: "terms" }, ...terms));
  return make("li", { name: one.accepted ? "candidate accepted" : "candidate" }, left, right);
}

function said(one, page) {
  const own = (pieces, tag) => {
    const mark = ([text, isNew]) => (isNew && fields.differences.checked ? make(tag, { text }) : text);
    return make("p", { name: "text" }, ...(pieces.length ? pieces.map(mark) : ["(empty)"]));
  };
  if (!one.base) return make("div", { name: "said" }, own(one.text ? [[one.text, false]] : [], "mark"));
  const column = (arm, title, reward, pieces, tag) =>
    make("div", { name: arm }, make("h3", { text: `${title}, reward ${figure(reward)}` }), own(pieces, tag));
  return make("div", { name: "said pair" },
    column("base", "base", one.base.reward, one.base.pieces, "del"),
    column(page.arm, `${page.arm}, round ${page.round}`, one.reward, one.pieces, "mark"));
}

function why(one) {
  const found = Object.entries(one.terms).map(([name, value]) => {
    const weight = state.weights[name];
    return make("li", { text: `${name} ${figure(value)}` + (weight === undefined || weight === 1 ? "" : ` × ${weight}`.replace("-", "−")) });
  });
  if (one.accept_prob !== undefined && one.accept_prob !== null) found.push(make("li", { text: `P(accept) ${figure(one.accept_prob)}` }));
  if (one.u !== null) {
    const text = `u ${figure(one.u, 4)} ${one.u < one.below ? "<" : "≥"} ${figure(one.below, 4)}`;
    found.push(make("li", { name: "coin" }, coin(one), make("span", { text })));
  }
  if (one.log_weight) found.push(make("li", { text: `log-weight ${figure(one.log_weight)}` }));
  if (one.finished === false) found.push(make("li", { text: "cut at the length limit" }));
  return found;
}

function coin({ u, below }) {
  const line = (name, end) => draw("line", { class: name, x1: 0, x2: 100 * Math.min(end, 1), y1: 9, y2: 9 });
  return draw("svg", { viewBox: "0 0 100 18", preserveAspectRatio: "none", "aria-hidden": "true" },
    line("line", 1), line("pass", below),
    draw("rect", { class: u < below ? "u in" : "u", x: 100 * u - 1.5, y: 1, width: 3, height: 16 }));
}

function showProblem(text) {
  at("matching").className = "error";
  at("matching").textContent = text;
}

// ---- what happens ------------------------------------------------------------------------------

async function load({ again = false } = {}) {
  countActive();
  if (roundNow() === undefined) {
    shown = stamp = "";
    at("summary").replaceChildren();
    at("prompts").replaceChildren();
    at("pages").hidden = true;
    at("matching").className = "";
    at("matching").textContent = "No round is complete yet; it appears here once it is.";
    return;
  }
  const asked = query();
  const address = new URLSearchParams(asked).toString();
  if (address === shown && !again) return;
  const number = ++asking;
  try {
    const page = await ask("api/page", asked);
    if (number !== asking) return;
    shown = address;
    stamp = page.stamp;
    history.replaceState(null, "", `#${address}${fields.follow.checked ? "&follow=1" : ""}`);
    showPage(page);
    if (asked.source !== "candidates") return;
    const drawn = await ask("api/page", { ...asked, draws: "1" });  // its draws take longer
    if (number === asking) showPage(drawn);
  } catch (error) {
    if (number !== asking) return;
    shown = "";
    showProblem(error.message);
  }
}

async function poll() {
  try {
    const before = JSON.stringify(state);
    state = await ask("api/state");
    at("live").textContent = state.state.startsWith("running") ? "watching for new rounds" : "";
    if (JSON.stringify(state) === before) return;
    showState();
    fillWhere();
    if (before === "null") fillColumns();
    const part = state.parts.find((p) => p.source === source() && p.arm === fields.arm.value && p.round === roundNow());
    if (part) await load({ again: part.stamp !== stamp });
    else await load();
  } catch (error) {
    at("live").textContent = "rsft view does not answer";
  }
}

async function watch() {
  if (!document.hidden) await poll();
  setTimeout(watch, POLL_MS);
}

let typing = 0;
function later(milliseconds) {
  clearTimeout(typing);
  typing = setTimeout(() => { start = 0; load(); }, milliseconds);
}

form.addEventListener("input", (event) => {
  const name = event.target.name;
  if (name === "source") { fillWhere(); fillColumns(); fields.verdict.value = ""; }
  if (name === "arm") fillWhere();
  if (name === "round") { fields.follow.checked = Number(fields.round.value) === Number(fields.round.max); nameRound(); }
  if (name === "follow") fillWhere();
  if (name === "column") fillValues();
  if (name === "differences") { load({ again: true }); return; }
  at("differences-label").hidden = source() !== "heldout";
  later(event.target.matches("[type=search], [type=number], [type=range]") ? 250 : 0);
});
form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("reset", (event) => {
  event.preventDefault();
  for (const name of TYPED) fields[name].value = "";
  fillValues();
  later(0);
});
function turn(by) {
  start = Math.max(0, start + by);
  load().then(() => { scrollTo({ top: 0 }); at("results").focus({ preventScroll: true }); });
}
at("before").addEventListener("click", () => turn(-PAGE_SIZE));
at("after").addEventListener("click", () => turn(PAGE_SIZE));

function fromAddress() {
  const asked = new URLSearchParams(location.hash.slice(1));
  if (asked.has("source")) {
    const radio = form.querySelector(`[name=source][value="${CSS.escape(asked.get("source"))}"]`);
    if (radio) radio.checked = true;
    fields.follow.checked = asked.has("follow");
    wanted = Number(asked.get("round"));
    start = Number(asked.get("start")) || 0;
  }
  for (const name of ["low", "high", "search", "prompt"]) fields[name].value = asked.get(name) ?? "";
  for (const name of ["arm", "verdict", "column", "value"]) if (asked.has(name)) fields[name].dataset.wanted = asked.get(name);
  if (asked.has("verdict")) setOptions(fields.verdict, [[asked.get("verdict"), asked.get("verdict")]]);
  at("differences-label").hidden = source() !== "heldout";
  at("filters").open = matchMedia("(min-width: 48rem)").matches || TYPED.some((name) => asked.has(name));
}

fromAddress();
watch();
