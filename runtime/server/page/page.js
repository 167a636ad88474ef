// Asks the server about a document, and shows which parts of it an answer attended to.

const kMaxTypedUnits = 20000;  // longer pasted texts are shown as a card: text fields are slow
const kMaxPeaks = 5;
const kContextUnits = 240;       // around a passage, on each side
const kMaxPassageUnits = 20000;
const kStripHeight = 56;
const kKeyName = "longspan.key";

const $ = (id) => document.getElementById(id);
const number = (value) => value.toLocaleString("en-US");
const plural = (count, one) => `${number(count)} ${one}${count === 1 ? "" : "s"}`;
const percent = (fraction) => `${Math.round(100 * fraction)}%`;
const hasText = (text) => text.trim() !== "";

// ---- Text: the server counts code points, strings here are UTF-16 ----

const isLow = (unit) => unit >= 0xdc00 && unit <= 0xdfff;

function countCodePoints(text) {
  let count = 0;
  for (let i = 0; i < text.length; ++i) count += isLow(text.charCodeAt(i)) ? 0 : 1;
  return count;
}

// Finds code points of a long text without walking through all of it each time.
class CodePointIndex {
  static kStride = 4096;

  constructor(text) {
    this.text = text;
    this.marks = [];  // code points before each stride
    let count = 0;
    for (let i = 0; i < text.length; ++i) {
      if (i % CodePointIndex.kStride === 0) this.marks.push(count);
      if (!isLow(text.charCodeAt(i))) ++count;
    }
    this.count = count;
  }

  // The index in UTF-16 of a code point.
  unitOf(point) {
    let low = 0, high = this.marks.length;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (this.marks[middle] <= point) low = middle; else high = middle;
    }
    let unit = low * CodePointIndex.kStride;
    let count = this.marks[low] ?? 0;
    while (unit < this.text.length && (count < point || isLow(this.text.charCodeAt(unit)))) {
      if (!isLow(this.text.charCodeAt(unit))) ++count;
      ++unit;
    }
    return unit;
  }
}

// Lone surrogates cannot be sent.
function wellFormed(text) {
  return text.toWellFormed ? text.toWellFormed()
                           : text.replace(/\p{Surrogate}/gu, "\ufffd");
}

// A slice that splits no surrogate pair.
function slice(text, begin, end) {
  if (isLow(text.charCodeAt(begin))) ++begin;
  if (isLow(text.charCodeAt(end))) ++end;
  return text.slice(begin, end);
}

// As `longspan ask` puts the two into a prompt: what is put in is not searched again. Also says
// where, in code points, the document begins.
function makePrompt(template, text, question) {
  let prompt = "", begin = null;
  for (const piece of template.split(/(\{document\}|\{question\})/)) {
    if (piece === "{document}") begin ??= countCodePoints(prompt);
    prompt += piece === "{document}" ? text : piece === "{question}" ? question : piece;
  }
  return {prompt, begin};
}

// ---- Server-sent events ----

// Yields {comment} and {data}, wherever the pieces of the stream are split.
async function* readEvents(stream) {
  const reader = stream.getReader();
  const decoder = new TextDecoder();
  let rest = "", data = [];
  try {
    for (;;) {
      const {done, value} = await reader.read();
      rest += done ? decoder.decode() : decoder.decode(value, {stream: true});
      // A carriage return at the end may be half of a line's end.
      const lines = rest.split(/\r\n|\n|\r(?!$)/);
      rest = lines.pop();
      for (const line of lines) {
        if (line === "") {
          if (data.length > 0) yield {data: data.join("\n")};
          data = [];
        } else if (line.startsWith(":")) {
          yield {comment: line.slice(1).trim()};
        } else if (line.startsWith("data:")) {
          data.push(line.slice(5).replace(/^ /, ""));
        }
      }
      if (done) return;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

// ---- The server ----

let settings = null;
let retryTimer = 0;
let takesAttended = true;

// What is told to the reader, in plain words.
class Problem extends Error {}

function request(path, more = {}) {
  const key = sessionStorage.getItem(kKeyName);
  const headers = {...more.headers, ...(key ? {Authorization: `Bearer ${key}`} : {})};
  return fetch(path, {...more, headers, cache: "no-store"});
}

async function readError(response) {
  let error = {};
  try {
    error = (await response.json()).error ?? {};
  } catch {
    // A proxy's error, say.
  }
  return {status: response.status, message: String(error.message ?? ""), param: error.param,
          retryAfter: Number(response.headers.get("Retry-After")) || 0};
}

function sentence(text) {
  if (!hasText(text)) return "";
  return text[0].toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");
}

function explain({status, message, retryAfter}) {
  const later = retryAfter > 0 ? ` Try again in ${plural(retryAfter, "second")}.`
                               : " Try again a little later.";
  const tooLong = /prompt has (\d+) tokens, and with max_tokens (\d+) .*max_model_len (\d+)/
      .exec(message);
  if (tooLong) {
    const [prompt, answer, most] = tooLong.slice(1).map(Number);
    return `The document and the question have ${number(prompt)} tokens. With ` +
        `${number(answer)} for the answer that is more than the ${number(most)} this server ` +
        "takes. Shorten the document, or ask for fewer tokens.";
  }
  const farTooLong = /prompt has more than (\d+) tokens/.exec(message);
  if (farTooLong) {
    return `The document and the question have more than the ${number(Number(farTooLong[1]))} ` +
        "tokens this server takes. Shorten the document.";
  }
  switch (status) {
    case 401: return "The server asks for an API key.";
    case 408: return "The document took too long to reach the server." + later;
    case 413: return "The document is larger than this server takes.";
    case 429: return "The server is busy." + later;
    case 503: return /load/.test(message) ? "The server is still loading the model." + later
                                          : "The server cannot answer now." + later;
    case 504: return "The answer took longer than the server allows.";
  }
  if (message) return "The server refused: " + sentence(message);
  return `The server answered with status ${status}.`;
}

function askForKey() {
  const had = sessionStorage.getItem(kKeyName);
  sessionStorage.removeItem(kKeyName);
  $("key-hint").textContent = (had ? "The server did not accept this key. " : "") +
      "This server asks for a key. It is kept until this tab is closed.";
  $("key-form").hidden = false;
  $("key").focus();
}

function setNotice(text) {
  $("notice").textContent = text;
  $("notice").hidden = text === "";
}

async function loadSettings() {
  clearTimeout(retryTimer);
  const retry = (seconds) => { retryTimer = setTimeout(loadSettings, 1000 * seconds); };
  let response;
  try {
    response = await request("page/settings");
    if (response.ok) settings = await response.json();
  } catch {
    setNotice("The server cannot be reached. This page keeps trying.");
    return retry(3);
  }
  if (!response.ok) {
    const error = await readError(response);
    if (error.status === 401) {
      setNotice("");
      return askForKey();
    }
    if (error.status === 503) {
      setNotice("The server is still loading the model. This page waits for it.");
      return retry(Math.max(1, error.retryAfter));
    }
    return setNotice(explain(error));
  }
  setNotice("");
  $("key-form").hidden = true;
  $("model").textContent =
      `${settings.model}, up to ${plural(settings.max_model_len, "token")}`;
}

// ---- What was attended to ----

// Bins of the prompt become bins of the document, with indices in UTF-16.
function documentBins(bins, text, documentBegin) {
  const index = new CodePointIndex(text);
  const result = [];
  for (const bin of bins) {
    const begin = Math.max(bin.begin - documentBegin, 0);
    const end = Math.min(bin.end - documentBegin, index.count);
    if (begin >= end) continue;
    result.push({begin: index.unitOf(begin), end: index.unitOf(end), count: bin.count});
  }
  return result;
}

// Indices of bins that stand out, strongest first, none beside another.
function findPeaks(bins) {
  const order = bins.map((_, i) => i).sort((a, b) => bins[b].count - bins[a].count || a - b);
  const apart = Math.max(1, Math.round(bins.length / 50));
  const peaks = [];
  for (const i of order) {
    if (bins[i].count === 0 || bins[i].count < bins[order[0]].count / 5) break;
    if (peaks.every((peak) => Math.abs(peak - i) > apart)) peaks.push(i);
    if (peaks.length === kMaxPeaks) break;
  }
  return peaks;
}

// The strip of one answer, its peaks and the passage that is shown.
class Attended {
  constructor(root, text, bins) {
    this.root = root;
    this.text = text;
    this.bins = bins;
    this.peaks = findPeaks(bins);
    this.max = Math.max(...bins.map((bin) => bin.count));
    this.total = bins.reduce((sum, bin) => sum + bin.count, 0);
    this.strip = root.querySelector(".strip");
    this.canvas = root.querySelector("canvas");
    this.cursor = this.peaks[0];  // where the arrow keys are
    this.shown = this.peaks[0];

    root.hidden = false;
    root.querySelector(".unseen").textContent = "It attended most to these places, strongest " +
        "first: " + this.peaks.map((i) => this.describe(i)).join("; ") + ".";
    this.addPeaks(root.querySelector(".peaks"));
    this.strip.addEventListener("click", (event) => this.show(this.binAt(event)));
    this.strip.addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => this.draw()).observe(this.canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
    this.show(this.shown);
  }

  position(i) { return this.bins[i].begin / this.text.length; }

  describe(i) {
    return `at ${percent(this.position(i))} of the document, with ` +
        `${percent(this.bins[i].count / this.total)} of all selections`;
  }

  addPeaks(list) {
    for (const i of this.peaks) {
      const button = document.createElement("button");
      button.type = "button";
      button.dataset.bin = i;
      const add = (name, text) => {
        const span = document.createElement("span");
        span.className = name;
        span.textContent = text;
        button.append(span);
        return span;
      };
      const {begin, end, count} = this.bins[i];
      add("at", percent(this.position(i)));
      const from = begin === 0 ? 0 : this.boundary(begin, 1);
      add("excerpt", slice(this.text, from, Math.min(end, from + 200)).trim());
      const bar = document.createElement("span");
      bar.style.width = percent(count / this.max);
      add("weight", "").append(bar);
      button.addEventListener("click", () => this.show(i));
      const item = document.createElement("li");
      item.append(button);
      list.append(item);
    }
  }

  show(i) {
    this.shown = this.cursor = i;
    const {begin, end} = this.bins[i];
    const from = this.boundary(begin - kContextUnits, 1);
    const to = this.boundary(end + kContextUnits, -1);
    const cut = Math.min(end, begin + kMaxPassageUnits);
    const mark = document.createElement("mark");
    mark.textContent = slice(this.text, begin, cut);
    const quote = this.root.querySelector("blockquote");
    quote.replaceChildren((from > 0 ? "…" : "") + slice(this.text, from, begin), mark,
                          cut < end ? "…" : slice(this.text, end, to) +
                              (to < this.text.length ? "…" : ""));
    quote.setAttribute("aria-label", "Passage " + this.describe(i));
    this.root.querySelector("figcaption").textContent = "Passage " + this.describe(i);
    for (const button of this.root.querySelectorAll(".peaks button")) {
      button.setAttribute("aria-pressed", String(Number(button.dataset.bin) === i));
    }
    // The passage, not what comes before it. Not scrollIntoView, which moves the page as well.
    quote.scrollTop = mark.offsetTop - quote.offsetTop - quote.clientHeight / 4;
    this.update();
  }

  // The nearest place between words, in the direction `step`.
  boundary(at, step) {
    if (at <= 0) return 0;
    if (at >= this.text.length) return this.text.length;
    for (let i = at; Math.abs(i - at) < 40; i += step) {
      if (/\s/.test(this.text[i] ?? " ")) return i;
    }
    return at;
  }

  // A bin where the strip was clicked: a peak, if one is near.
  binAt(event) {
    const {left, width} = this.strip.getBoundingClientRect();
    const x = Math.min(Math.max(event.clientX - left, 0), width - 1);
    const middle = (i) =>
        (this.bins[i].begin + this.bins[i].end) / 2 / this.text.length * width;
    const near = this.peaks.filter((i) => Math.abs(middle(i) - x) < 8)
        .sort((a, b) => Math.abs(middle(a) - x) - Math.abs(middle(b) - x));
    if (near.length > 0) return near[0];
    const unit = x / width * this.text.length;
    const i = this.bins.findIndex((bin) => bin.end > unit);
    return i < 0 ? this.bins.length - 1 : i;
  }

  key(event) {
    const ordered = [...this.peaks].sort((a, b) => a - b);
    const after = ordered.find((i) => i > this.cursor);
    const before = ordered.findLast((i) => i < this.cursor);
    switch (event.key) {
      case "ArrowRight": case "ArrowUp": this.cursor = after ?? this.cursor; break;
      case "ArrowLeft": case "ArrowDown": this.cursor = before ?? this.cursor; break;
      case "Home": this.cursor = ordered[0]; break;
      case "End": this.cursor = ordered.at(-1); break;
      case "Enter": case " ":
        if (event.ctrlKey || event.metaKey) return;
        this.show(this.cursor);
        break;
      default: return;
    }
    event.preventDefault();
    this.update();
  }

  update() {
    this.strip.setAttribute("aria-valuenow", Math.round(100 * this.position(this.cursor)));
    this.strip.setAttribute("aria-valuetext", this.describe(this.cursor) +
        (this.cursor === this.shown ? ", shown below" : ", Enter shows the passage"));
    this.draw();
  }

  draw() {
    const width = this.canvas.clientWidth;
    if (width === 0) return;
    const scale = devicePixelRatio || 1;
    this.canvas.width = Math.round(width * scale);
    this.canvas.height = Math.round(kStripHeight * scale);
    const context = this.canvas.getContext("2d");
    context.scale(scale, scale);
    const style = getComputedStyle(this.canvas);
    const color = (name) => style.getPropertyValue(name);
    const top = 8, bottom = kStripHeight - 8;
    const edge = (unit) => Math.round(unit / this.text.length * width * scale) / scale;
    context.fillStyle = color("--track");
    context.fillRect(0, top, width, bottom - top);
    context.fillStyle = color("--heat");
    this.bins.forEach(({begin, end, count}) => {
      if (count === 0) return;
      const x = edge(begin);
      const height = Math.max(1, count / this.max * (bottom - top));
      context.globalAlpha = 0.45 + 0.55 * count / this.max;
      context.fillRect(x, bottom - height, Math.max(edge(end) - x, 1), height);
    });
    context.globalAlpha = 1;
    // Above: where the arrow keys are. Below: what is shown.
    const triangle = (i, y, tip) => {
      const x = Math.min(Math.max((edge(this.bins[i].begin) + edge(this.bins[i].end)) / 2, 5),
                         width - 5);
      context.beginPath();
      context.moveTo(x - 5, y);
      context.lineTo(x + 5, y);
      context.lineTo(x, tip);
      context.fill();
    };
    context.fillStyle = color("--ink");
    triangle(this.shown, kStripHeight, bottom + 2);
    context.fillStyle = color("--accent");
    if (this.cursor !== this.shown) triangle(this.cursor, 0, top - 2);
  }
}

// ---- One answer ----

class Answer {
  constructor(question) {
    this.root = $("answer-template").content.firstElementChild.cloneNode(true);
    this.find = (selector) => this.root.querySelector(selector);
    this.find(".question").textContent = question;
    this.text = document.createTextNode("");
    this.find(".text").append(this.text);
    this.sent = performance.now();
    this.tokens = {};
    $("answers").prepend(this.root);
    this.setState("Waiting for the server");
  }

  setState(text) { this.find(".state").textContent = text; }

  prefill(done, total) {
    const now = performance.now();
    this.reading ??= {since: now, from: done};
    const {since, from} = this.reading;
    const left = Math.round((total - done) * (now - since) / (done - from) / 1000);
    const tellsLeft = now - since > 1500 && done > from && left >= 1;
    const text = `${number(done)} of ${number(total)} tokens read` +
        (tellsLeft ? `, about ${plural(left, "second")} left` : "");
    const bar = this.find(".progress");
    bar.setAttribute("aria-valuenow", Math.floor(100 * done / total));
    bar.setAttribute("aria-valuetext", text);
    this.find(".done").style.width = `${100 * done / total}%`;
    this.setState(text);
  }

  add(text) {
    this.first ??= performance.now();
    this.last = performance.now();
    this.find(".waiting").hidden = true;
    this.text.appendData(text);
  }

  // `how` is "", or what is to be said of the way it ended.
  finish(how) {
    this.find(".waiting").hidden = true;
    this.find(".text").setAttribute("aria-busy", "false");
    const parts = [];
    const {prompt_tokens: prompt, completion_tokens: generated, prompt_tokens_details: details} =
        this.usage ?? {};
    if (this.usage) {
      const cached = details?.cached_tokens ?? 0;
      parts.push(`${plural(prompt, "token")} read` +
          (cached > 0 ? `, ${number(cached)} of them from before` : ""));
      parts.push(`${plural(generated, "token")} answered`);
    }
    if (this.first) {
      parts.push(`first token after ${((this.first - this.sent) / 1000).toFixed(1)} s`);
      if (generated > 1 && this.last > this.first) {
        const speed = 1000 * (generated - 1) / (this.last - this.first);
        parts.push(`${speed < 10 ? speed.toFixed(1) : number(Math.round(speed))} tokens/s`);
      }
    }
    if (how) parts.unshift(how);
    this.find(".counts").textContent = parts.join(" · ");
  }

  offerAgain(ask) {
    this.find(".again").hidden = false;
    this.find(".again").addEventListener("click", ask);
  }
}

// ---- Asking ----

let running = null;  // an AbortController

function setRunning(controller) {
  const focus = document.activeElement;
  running = controller;
  $("go").hidden = controller !== null;
  $("stop").hidden = controller === null;
  $("go-keys").hidden = controller !== null;
  $("stop-keys").hidden = controller === null;
  // Neither may take the focus with it.
  if (controller && focus === $("go")) $("stop").focus();
  if (!controller && focus === $("stop")) $("go").focus();
}

async function post(body, signal) {
  const send = () => request("v1/completions", {
    method: "POST",
    signal,
    headers: {"Content-Type": "application/json"},
    body: JSON.stringify(takesAttended ? {...body, attended: true} : body),
  });
  let response;
  try {
    response = await send();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem("The server cannot be reached.");
  }
  if (response.ok) return response;
  const error = await readError(response);
  if (error.status === 400 && takesAttended &&
      (error.param === "attended" || error.message.includes("unknown parameter `attended`"))) {
    takesAttended = false;  // an older server
    return post(body, signal);
  }
  if (error.status === 401) askForKey();
  if (error.status === 404) loadSettings();  // a server with another model
  throw new Problem(explain(error));
}

// Returns why the answer ended and what it attended to; throws what went wrong.
async function follow(response, answer) {
  let finish = null, attended = null;
  try {
    for await (const event of readEvents(response.body)) {
      const prefill = /^prefill \d+ (\d+)\/(\d+)$/.exec(event.comment ?? "");
      if (prefill) answer.prefill(Number(prefill[1]), Number(prefill[2]));
      if (event.data === undefined) continue;
      if (event.data === "[DONE]") return {finish, attended};
      const chunk = JSON.parse(event.data);
      if (chunk.error) {
        const isDeadline = /took longer/.test(chunk.error.message);
        throw new Problem(isDeadline ? "The answer took longer than the server allows."
                                     : "The answer ended early: " + chunk.error.message + ".");
      }
      answer.usage = chunk.usage ?? answer.usage;
      const choice = chunk.choices?.[0];
      if (!choice) continue;
      answer.add(choice.text ?? "");
      finish = choice.finish_reason ?? finish;
      attended = choice.attended ?? attended;
    }
  } catch (error) {
    if (error.name === "AbortError" || error instanceof Problem) throw error;
    console.warn(error);
  }
  throw new Problem("The connection to the server was lost before the end of the answer.");
}

async function ask(question, text, maxTokens) {
  const controller = new AbortController();
  const answer = new Answer(question);
  setRunning(controller);
  try {
    const {prompt, begin} = makePrompt(settings.prompt_template, text, question);
    const response = await post({
      model: settings.model,
      prompt,
      max_tokens: maxTokens,
      temperature: 0,
      stream: true,
      stream_options: {include_usage: true},
      ...(settings.stop ? {stop: settings.stop} : {}),
    }, controller.signal);
    const {finish, attended} = await follow(response, answer);
    answer.finish(finish === "length" ? "Cut at the limit" : "");
    const bins = attended ? documentBins(attended.bins, text, begin) : [];
    if (bins.some((bin) => bin.count > 0)) new Attended(answer.find(".attended"), text, bins);
  } catch (error) {
    const isStop = error.name === "AbortError";
    answer.finish(isStop ? "Stopped" : "");
    if (!isStop && !(error instanceof Problem)) console.error(error);
    if (!isStop) {
      answer.find(".problem").textContent =
          error instanceof Problem ? error.message : "Something went wrong in this page.";
    }
    answer.offerAgain(() => running || ask(question, text, maxTokens));
  } finally {
    setRunning(null);
  }
}

function complain(text, field) {
  $("ask-problem").textContent = text;
  field.focus();
}

function askForm() {
  if (running) return;
  const text = currentDocument();
  const question = wellFormed($("question").value.trim());
  const maxTokens = Number($("max-tokens").value);
  $("ask-problem").textContent = "";
  if (!hasText(text)) {
    return complain("There is no document yet: paste, drop or choose one.", $("document"));
  }
  if (question === "") return complain("There is no question yet.", $("question"));
  if (!Number.isInteger(maxTokens) || maxTokens < 1) {
    return complain("The number of tokens must be 1 or more.", $("max-tokens"));
  }
  if (!settings) return complain("The server is not ready yet.", $("question"));
  for (const part of ["{document}", "{question}"]) {
    if (!settings.prompt_template.includes(part)) {
      return complain(`The server's ask.prompt_template has no ${part}.`, $("question"));
    }
  }
  $("question").select();  // so that the next question replaces this one
  ask(question, text, maxTokens);
}

// ---- The document ----

let loaded = null;  // instead of what is typed: a text too long for a field, or a file's

function currentDocument() { return loaded ?? wellFormed($("document").value); }

function setDocument(name, text) {
  loaded = wellFormed(text);
  $("document-problem").textContent = "";
  $("ask-problem").textContent = "";
  $("card-name").textContent = name;
  $("card-size").textContent = plural(countCodePoints(loaded), "character");
  $("card-text").textContent = slice(loaded, 0, 400);
  $("document").value = "";
  $("typed").hidden = true;
  $("card").hidden = false;
  $("question").focus();
}

async function openFile(file) {
  const refuse = (why) => { $("document-problem").textContent = `${file.name}: ${why}`; };
  const most = settings?.max_body_bytes ?? Infinity;
  if (file.size > most) {
    return refuse(`has ${number(file.size)} bytes, and this server takes ${number(most)}.`);
  }
  let text;
  try {
    text = await file.text();
  } catch {
    return refuse("cannot be read.");
  }
  if (text.includes("\0")) return refuse("is not a plain text.");
  if (!hasText(text)) return refuse("has no text.");
  setDocument(file.name, text);
}

function onPaste(event) {
  const field = event.target;
  const isField = field instanceof HTMLTextAreaElement || field instanceof HTMLInputElement;
  if (isField && field !== $("document")) return;
  const text = event.clipboardData.getData("text/plain");
  if (event.clipboardData.files.length > 0 && text === "") {
    event.preventDefault();
    openFile(event.clipboardData.files[0]);
  } else if (field === $("document")) {
    const {value, selectionStart, selectionEnd} = field;
    if (value.length + text.length <= kMaxTypedUnits) return;
    event.preventDefault();
    setDocument("Pasted text", value.slice(0, selectionStart) + text + value.slice(selectionEnd));
  } else if (hasText(text)) {
    event.preventDefault();
    setDocument("Pasted text", text);
  }
}

function onDrop(event) {
  document.body.classList.remove("dragging");
  const file = event.dataTransfer.files[0];
  const text = event.dataTransfer.getData("text/plain");
  if (!file && event.target instanceof HTMLTextAreaElement) return;  // the browser's own
  event.preventDefault();
  if (file) openFile(file);
  else if (hasText(text)) setDocument("Dropped text", text);
}

function start() {
  $("choose").addEventListener("click", () => $("file").click());
  $("file").addEventListener("change", () => {
    if ($("file").files.length > 0) openFile($("file").files[0]);
    $("file").value = "";  // the same file may be chosen again
  });
  $("replace").addEventListener("click", () => {
    loaded = null;
    $("card").hidden = true;
    $("typed").hidden = false;
    $("document").focus();
  });
  document.addEventListener("paste", onPaste);
  document.addEventListener("dragover", (event) => {
    if (event.dataTransfer.types.includes("Files")) document.body.classList.add("dragging");
    event.preventDefault();
  });
  document.addEventListener("dragleave", (event) => {
    if (event.relatedTarget === null) document.body.classList.remove("dragging");
  });
  document.addEventListener("drop", onDrop);

  $("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    askForm();
  });
  $("stop").addEventListener("click", () => running?.abort());
  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) askForm();
    if (event.key === "Escape") running?.abort();
  });
  $("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const key = $("key").value.trim();
    $("key").value = "";
    if (!/^[\x21-\x7e]+$/.test(key)) {  // no header could hold it
      $("key-hint").textContent = "A key has letters, digits and signs without spaces.";
      return;
    }
    sessionStorage.setItem(kKeyName, key);
    loadSettings();
  });
  loadSettings();
}

start();
