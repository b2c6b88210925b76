'use strict';
// Draws what report/encode.rs packed. Text from the data gets into the page as textContent alone.
(() => {
const $ = (id) => document.getElementById(id);
const D = JSON.parse($('data').textContent);
const zone = Number(document.body.dataset.zone) * 60000;
document.documentElement.className = 'js';

// ---- the data

const text = (n) => D.texts[n] || '';
const KIND = { __proto__: null, succeeded: 'good', no_change: 'same', running: 'run', canceled: 'warn', limited: 'warn', interrupted: 'warn', left: 'warn' };
const kind = (outcome) => KIND[outcome] || (outcome ? 'bad' : 'same');
const attempts = [];
let last = 0;
const items = D.items.map((row, index) => {
  const item = { index, name: row[0], state: text(row[1]), tries: [], cost: 0, tokens: 0, took: 0, at: 0 };
  for (const a of row[2] || []) {
    const n = (i) => a[i] || 0;
    last += n(0);
    const open = n(3) < 0;
    const attempt = {
      item, claimed: last, queued: last - n(1), started: last + n(2), ended: open ? D.now : last + n(3), open,
      slot: text(n(4)), agent: text(n(5)), outcome: text(n(6)), reason: text(n(7)), turns: n(9), input: n(10), output: n(11),
      cost: n(12) / 1e4, commits: n(13), gates: text(n(14)), number: n(15),
    };
    attempt.branch = n(8) === 0 ? '' : n(8) === 1 ? 'harness/' + item.name + '/' + attempt.number : text(n(8) - 2);
    item.tries.push(attempt);
    item.cost += attempt.cost;
    item.tokens += attempt.input + attempt.output;
    item.took += attempt.ended - attempt.started;
    item.at = Math.max(item.at, attempt.ended);
    item.open = open;
    attempts.push(attempt);
  }
  const end = item.tries[item.tries.length - 1];
  item.waits = row[3] || 0;
  item.outcome = end ? end.outcome : text(row[4] || 0);
  item.why = end ? end.reason : text(row[5] || 0);
  item.agent = end ? end.agent : '';
  item.branch = end ? end.branch : '';
  return item;
});

// ---- words

const two = (n) => String(n).padStart(2, '0');
const when = (ms) => new Date(D.from + ms + zone);
const clock = (ms, seconds) => {
  const d = when(ms);
  return two(d.getUTCHours()) + ':' + two(d.getUTCMinutes()) + (seconds ? ':' + two(d.getUTCSeconds()) : '');
};
const day = (ms) => {
  const d = when(ms);
  return d.getUTCFullYear() + '-' + two(d.getUTCMonth() + 1) + '-' + two(d.getUTCDate());
};
const took = (ms) => {
  const s = ms / 1000;
  if (s < 1) return Math.round(ms) + 'ms';
  if (s < 60) return s.toFixed(1) + 's';
  if (s < 3600) return Math.floor(s / 60) + 'm' + two(Math.floor(s % 60)) + 's';
  if (s < 86400) return Math.floor(s / 3600) + 'h' + two(Math.floor(s % 3600 / 60)) + 'm';
  return Math.floor(s / 86400) + 'd' + two(Math.floor(s % 86400 / 3600)) + 'h';
};
const short = (n) => n < 1e3 ? String(n) : n < 1e4 ? (n / 1e3).toFixed(1) + 'k' : n < 1e6 ? Math.floor(n / 1e3) + 'k' : n < 1e7 ? (n / 1e6).toFixed(1) + 'M' : Math.floor(n / 1e6) + 'M';
const dollars = (usd) => usd > 0 ? '$' + usd.toFixed(2) : '';
const words = (outcome) => outcome.replaceAll('_', ' ');
const el = (tag, className, content) => {
  const e = document.createElement(tag);
  if (className) e.className = className;
  if (content !== undefined) e.textContent = content;
  return e;
};

// ---- the period shown

const first = attempts.reduce((t, a) => Math.min(t, a.claimed), attempts.length ? Infinity : 0);
const end = attempts.reduce((t, a) => Math.max(t, a.ended), first + 1000);
const whole = [first - (end - first) * 0.01, end + (end - first) * 0.01];
let range = whole;
const HOUR = 3600e3;
const ranges = [['1 h', HOUR], ['6 h', 6 * HOUR], ['12 h', 12 * HOUR], ['24 h', 24 * HOUR], ['7 days', 168 * HOUR]]
  .filter(([, long]) => long < end - first)
  .map(([name, long]) => [name, [end - long, end + long * 0.01]]);
ranges.push(['all', whole]);
const group = document.querySelector('.ranges');
for (const [name, to] of ranges) {
  const button = el('button', '', name);
  button.type = 'button';
  button.onclick = () => show(to);
  group.append(button);
}
function show(to) {
  const least = 1000;
  const middle = (to[0] + to[1]) / 2;
  range = to[1] - to[0] < least ? [middle - least / 2, middle + least / 2] : to;
  [...group.children].forEach((button, i) => button.setAttribute('aria-pressed', String(ranges[i][1] === to)));
  draw();
}
$('zoom-out').onclick = () => {
  const more = (range[1] - range[0]) / 2;
  const to = [Math.max(whole[0], range[0] - more), Math.min(whole[1], range[1] + more)];
  show(to[0] === whole[0] && to[1] === whole[1] ? whole : to);
};

// ---- drawing

let printing = false;
const colour = () => {
  const style = getComputedStyle(document.documentElement);
  return (name) => style.getPropertyValue('--' + name).trim();
};
const LEFT = 68;
const AXIS = 24;
function canvas(id, height) {
  const c = $(id);
  const width = c.clientWidth || (printing ? 700 : 900);
  const scale = printing ? 3 : window.devicePixelRatio || 1;
  c.style.height = height + 'px';
  c.width = Math.round(width * scale);
  c.height = Math.round(height * scale);
  const g = c.getContext('2d');
  g.scale(scale, scale);
  g.font = '12px system-ui, sans-serif';
  g.textBaseline = 'middle';
  return [g, width];
}
const x = (ms, width) => LEFT + (ms - range[0]) / (range[1] - range[0]) * (width - LEFT - 10);
const STEPS = [1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 172800, 604800, 2419200, 31536000].map((s) => s * 1000);
function ticks(width) {
  const room = Math.max(2, Math.floor((width - LEFT) / 84));
  const step = STEPS.find((s) => (range[1] - range[0]) / s <= room) || (range[1] - range[0]) / room;
  const shift = D.from + zone;
  const all = [];
  for (let t = Math.ceil((range[0] + shift) / step) * step - shift; t <= range[1] && all.length < 100; t += step) all.push(t);
  return all.map((t, i) => {
    const midnight = when(t).getUTCHours() === 0 && when(t).getUTCMinutes() === 0;
    return [t, step >= 864e5 || (midnight && step >= 60e3) || (i === 0 && step >= HOUR) ? day(t).slice(5) + (step >= 864e5 ? '' : ' ' + clock(t)) : clock(t, step < 60e3)];
  });
}
function grid(g, width, top, bottom, paint, labels) {
  g.lineWidth = 1;
  for (const [t, label] of ticks(width)) {
    const at = Math.round(x(t, width)) + 0.5;
    g.strokeStyle = paint('line');
    g.beginPath();
    g.moveTo(at, top);
    g.lineTo(at, bottom);
    g.stroke();
    if (labels) {
      g.fillStyle = paint('dim');
      g.textAlign = at > width - 40 ? 'right' : 'center';
      g.fillText(label, at, top - 11);
    }
  }
}
const slots = [...new Set(attempts.map((a) => a.slot))].sort((a, b) => a.localeCompare(b, 'en', { numeric: true }));
const rowOf = new Map(slots.map((slot, i) => [slot, i]));
const rowHeight = slots.length <= 16 ? 24 : slots.length <= 40 ? 16 : 10;
const visible = () => attempts.filter((a) => a.ended >= range[0] && a.claimed <= range[1]);
function hatched(g, bar, ground) {
  const tile = document.createElement('canvas');
  tile.width = tile.height = 6;
  const t = tile.getContext('2d');
  t.fillStyle = bar;
  t.fillRect(0, 0, 6, 6);
  t.strokeStyle = ground;
  t.globalAlpha = 0.45;
  t.lineWidth = 1.6;
  for (const from of [-6, 0, 6]) {
    t.beginPath();
    t.moveTo(from, 6);
    t.lineTo(from + 6, 0);
    t.stroke();
  }
  return g.createPattern(tile, 'repeat');
}
function drawSlots() {
  const paint = colour();
  const height = AXIS + Math.max(1, slots.length) * rowHeight + 8;
  const [g, width] = canvas('slots', height);
  grid(g, width, AXIS, height - 4, paint, true);
  g.textAlign = 'right';
  const every = rowHeight >= 14 ? 1 : 4;
  slots.forEach((slot, i) => {
    const y = AXIS + i * rowHeight;
    if (i % 2) {
      g.fillStyle = paint('soft');
      g.globalAlpha = 0.6;
      g.fillRect(LEFT, y, width - LEFT - 10, rowHeight);
      g.globalAlpha = 1;
    }
    if (i % every === 0) {
      g.fillStyle = paint('dim');
      g.fillText(slot, LEFT - 8, y + rowHeight / 2, LEFT - 12);
    }
  });
  const fills = { good: paint('good'), same: paint('same'), warn: paint('warn'), bad: hatched(g, paint('bad'), paint('card')) };
  g.save();
  g.beginPath();
  g.rect(LEFT, AXIS, width - LEFT - 10, height);
  g.clip();
  for (const a of visible()) {
    const y = AXIS + rowOf.get(a.slot) * rowHeight + 2;
    const high = rowHeight - 4;
    const [from, start, to] = [a.claimed, Math.min(a.started, a.ended), a.ended].map((t) => x(t, width));
    const which = kind(a.outcome);
    if (start - from > 1) {
      g.globalAlpha = 0.35;
      g.fillStyle = paint('plain');
      g.fillRect(from, y, start - from, high);
      g.globalAlpha = 1;
    }
    const wide = Math.max(to - start - (to - start > 6 ? 1 : 0), 1.5);
    if (which === 'run') {
      g.strokeStyle = paint('run');
      g.lineWidth = 2;
      g.strokeRect(start + 1, y + 1, Math.max(wide - 2, 1), high - 2);
    } else {
      g.fillStyle = fills[which];
      g.fillRect(start, y, wide, high);
    }
    const left = Math.max(start, LEFT);
    if (start + wide - left > 60 && rowHeight >= 16) {
      g.fillStyle = which === 'run' ? paint('ink') : paint('bg');
      g.textAlign = 'left';
      const room = start + wide - left - 10;
      let name = a.item.name;
      if (g.measureText(name).width > room) {
        while (name && g.measureText(name + '…').width > room) name = name.slice(0, -1);
        name += '…';
      }
      if (which === 'bad') {
        g.fillStyle = paint('bad');
        g.fillRect(left + 3, y + 1, g.measureText(name).width + 5, high - 2);
        g.fillStyle = paint('bg');
      }
      g.fillText(name, left + 5, y + high / 2 + 0.5);
    }
  }
  g.restore();
}

// Steps of a count over time: [ms, +1 or -1], in order.
const waitSteps = [];
const workSteps = [];
for (const a of attempts) {
  if (a.queued < a.claimed) waitSteps.push([a.queued, 1], [a.claimed, -1]);
  workSteps.push([a.claimed, 1]);
  if (!a.open) workSteps.push([a.ended, -1]);
}
for (const at of D.waiting) waitSteps.push([at, 1]);
for (const item of items) if (item.waits) waitSteps.push([item.waits, 1]);
for (const steps of [waitSteps, workSteps]) steps.sort((a, b) => a[0] - b[0] || a[1] - b[1]);
// The most of each pixel.
function levels(steps, width) {
  const columns = Math.max(1, Math.floor(width - LEFT - 10));
  const high = new Array(columns).fill(-1);
  let level = 0;
  let i = 0;
  for (let c = 0; c < columns; c++) {
    const until = range[0] + (c + 1) / columns * (range[1] - range[0]);
    let most = level;
    while (i < steps.length && steps[i][0] <= until) {
      level += steps[i][1];
      i++;
      if (steps[i - 1][0] >= range[0]) most = Math.max(most, level);
      else most = level;
    }
    high[c] = until - (range[1] - range[0]) / columns > D.now ? -1 : most;
  }
  return high;
}
function drawQueue() {
  const paint = colour();
  const height = 130;
  const [g, width] = canvas('queue', height);
  const bottom = height - 8;
  const top = 14;
  grid(g, width, top, bottom, paint, false);
  const waits = levels(waitSteps, width);
  const works = levels(workSteps, width);
  const most = Math.max(1, ...waits, ...works);
  const y = (n) => bottom - n / most * (bottom - top - 4);
  g.fillStyle = paint('dim');
  g.textAlign = 'right';
  g.fillText(short(most), LEFT - 8, y(most));
  g.fillText('0', LEFT - 8, bottom - 4);
  g.fillStyle = paint('plain');
  g.globalAlpha = 0.4;
  g.beginPath();
  g.moveTo(LEFT, bottom);
  waits.forEach((n, c) => {
    g.lineTo(LEFT + c, y(Math.max(n, 0)));
    g.lineTo(LEFT + c + 1, y(Math.max(n, 0)));
  });
  g.lineTo(LEFT + waits.length, bottom);
  g.fill();
  g.globalAlpha = 1;
  g.strokeStyle = paint('run');
  g.lineWidth = 1.5;
  g.beginPath();
  works.forEach((n, c) => { if (n >= 0) g.lineTo(LEFT + c, y(n)); });
  g.stroke();
}
function draw() {
  drawSlots();
  drawQueue();
}

// ---- pointing at the timeline

const tip = $('tip');
const plot = $('slots');
function at(e) {
  const box = plot.getBoundingClientRect();
  const [px, py] = [e.clientX - box.left, e.clientY - box.top];
  const ms = range[0] + (px - LEFT) / (box.width - LEFT - 10) * (range[1] - range[0]);
  const slot = slots[Math.floor((py - AXIS) / rowHeight)];
  const near = 3 / (box.width - LEFT - 10) * (range[1] - range[0]);
  let found = null;
  for (const a of attempts) {
    if (a.slot === slot && a.claimed - near <= ms && a.ended + near >= ms) {
      if (!found || Math.abs(a.claimed + a.ended - 2 * ms) < Math.abs(found.claimed + found.ended - 2 * ms)) found = a;
    }
  }
  return [ms, found];
}
let pressed = null;
plot.addEventListener('pointerdown', (e) => { if (e.button === 0) pressed = { x: e.clientX, ms: at(e)[0], type: e.pointerType }; });
plot.addEventListener('pointermove', (e) => {
  const [ms, a] = at(e);
  if (pressed && pressed.type === 'mouse' && Math.abs(e.clientX - pressed.x) > 4) {
    drawSlots();
    const g = plot.getContext('2d');
    const width = plot.clientWidth;
    g.fillStyle = colour()('link');
    g.globalAlpha = 0.2;
    g.fillRect(x(pressed.ms, width), AXIS, x(ms, width) - x(pressed.ms, width), plot.clientHeight - AXIS);
    g.globalAlpha = 1;
  }
  tip.hidden = !a;
  if (!a) return;
  tip.replaceChildren(
    el('b', '', a.item.name),
    el('span', '', words(a.outcome) + ' · attempt ' + a.number + ' · ' + [a.agent, a.slot].filter(Boolean).join(' on ')),
    el('span', '', clock(a.claimed, true) + ' to ' + (a.open ? 'now' : clock(a.ended, true)) + ' · ' + took(a.ended - a.claimed) + (a.cost ? ' · ' + dollars(a.cost) : '')),
    el('span', '', a.reason));
  tip.style.left = Math.max(6, Math.min(e.clientX + 14, window.innerWidth - tip.offsetWidth - 8)) + 'px';
  tip.style.top = (e.clientY + 18 + tip.offsetHeight > window.innerHeight ? e.clientY - tip.offsetHeight - 12 : e.clientY + 18) + 'px';
});
plot.addEventListener('pointerleave', () => { tip.hidden = true; });
window.addEventListener('pointerup', (e) => {
  if (!pressed) return;
  const from = pressed;
  pressed = null;
  if (e.target !== plot && from.type !== 'mouse') return;
  const [ms, a] = at(e);
  if (from.type === 'mouse' && Math.abs(e.clientX - from.x) > 4) show([Math.min(from.ms, ms), Math.max(from.ms, ms)]);
  else if (a && e.target === plot) open(a.item);
});
plot.addEventListener('dblclick', () => show(whole));

// ---- one item

const dialog = $('item');
function open(item) {
  const close = el('button', 'close', 'close');
  close.type = 'button';
  close.onclick = () => dialog.close();
  const parts = [close, el('h2', 'name', item.name), el('p', '', item.state === 'gone' ? 'Its file is in no folder of queue/ any more.' : 'In queue/' + item.state + '/.')];
  if (!item.tries.length) parts.push(el('p', '', item.why));
  for (const a of [...item.tries].reverse()) {
    const part = el('div', 'attempt');
    const head = el('p');
    head.append(el('b', '', 'Attempt ' + a.number + ': '), el('span', 'out ' + kind(a.outcome), words(a.outcome)));
    if (a.reason) head.append(' ', el('span', '', a.reason));
    const facts = el('p', 'facts');
    const fact = (t) => { if (t) facts.append(el('span', '', t)); };
    fact([a.agent, a.slot].filter(Boolean).join(' on '));
    fact(day(a.claimed) + ' ' + clock(a.claimed, true) + (a.open ? '' : ' to ' + clock(a.ended, true)));
    fact('took ' + took(a.ended - a.started));
    fact(a.claimed - a.queued > 1000 ? 'had waited ' + took(a.claimed - a.queued) : '');
    fact(a.turns ? a.turns + ' turns' : '');
    fact(a.input + a.output ? short(a.input) + ' tokens in, ' + short(a.output) + ' out' : '');
    fact(dollars(a.cost));
    fact(a.commits ? a.commits + (a.commits === 1 ? ' commit' : ' commits') : '');
    fact(a.gates ? 'gates: ' + a.gates : '');
    part.append(head, facts);
    if (a.branch) part.append(el('code', '', a.branch));
    parts.push(part);
  }
  dialog.replaceChildren(...parts);
  dialog.showModal();
}
dialog.addEventListener('click', (e) => { if (e.target === dialog) dialog.close(); });

// ---- the list: only the rows that are seen are in the page

const COLUMNS = [
  ['Item', 'name', (i) => i.name],
  ['Outcome', 'outcome', (i) => words(i.outcome)],
  ['Agent', 'agent', (i) => i.agent],
  ['Tries', 'tries', (i) => i.tries.length, true],
  ['Took', 'took', (i) => i.took, true],
  ['Tokens', 'tokens', (i) => i.tokens, true],
  ['Cost', 'cost', (i) => i.cost, true],
  ['Ended', 'at', (i) => i.at],
  ['Why', 'why', (i) => i.why],
];
let sort = { by: 7, up: false };
let shown = [];
const scroll = document.querySelector('.scroll');
const rows = document.querySelector('.rows');
const head = document.querySelector('.row.head');
const order = $('order');
COLUMNS.forEach(([title, , , number], n) => {
  const cell = el('span', number ? 'num' : '');
  cell.setAttribute('role', 'columnheader');
  const button = el('button', '', title);
  button.type = 'button';
  button.onclick = () => { sort = { by: n, up: sort.by === n ? !sort.up : !(number || n === 7) }; order.value = String(n); list(); };
  cell.append(button);
  head.append(cell);
  const option = el('option', '', 'by ' + title.toLowerCase());
  option.value = String(n);
  order.append(option);
});
order.value = '7';
order.onchange = () => { const n = Number(order.value); sort = { by: n, up: !(COLUMNS[n][3] || n === 7) }; list(); };
const states = new Map();
for (const i of items) states.set(i.state, (states.get(i.state) || 0) + 1);
for (const [state, n] of states) {
  const option = el('option', '', state + ' (' + n + ')');
  option.value = state;
  $('state').append(option);
}
for (const i of items) i.hay = [i.name, words(i.outcome), i.outcome, i.state, i.why, i.branch, ...i.tries.map((a) => a.agent + ' ' + a.slot)].join('\n').toLowerCase();
function list() {
  const wanted = $('find').value.toLowerCase().split(/\s+/).filter(Boolean);
  const state = $('state').value;
  const value = COLUMNS[sort.by][2];
  const keyed = items.filter((i) => (!state || i.state === state) && wanted.every((w) => i.hay.includes(w))).map((i) => [value(i), i]);
  const compare = new Intl.Collator('en', { numeric: true }).compare;
  const way = sort.up ? 1 : -1;
  keyed.sort((a, b) => way * (typeof a[0] === 'number' ? a[0] - b[0] : compare(a[0], b[0])) || b[1].index - a[1].index);
  shown = keyed.map((k) => k[1]);
  $('count').textContent = shown.length === items.length ? '' : shown.length + ' of ' + items.length;
  [...head.children].forEach((cell, n) => {
    cell.setAttribute('aria-sort', n !== sort.by ? 'none' : sort.up ? 'ascending' : 'descending');
    if (n === sort.by) cell.firstChild.dataset.on = sort.up ? 'up' : 'down';
    else delete cell.firstChild.dataset.on;
  });
  scroll.scrollTop = 0;
  fill();
}
function row(item, n, height) {
  const r = el('div', 'row');
  r.setAttribute('role', 'row');
  r.setAttribute('aria-rowindex', String(n + 2));
  r.tabIndex = 0;
  r.style.top = n * height + 'px';
  const outcome = item.state === 'pending' && !item.outcome ? 'waits' : words(item.outcome) || item.state;
  const cells = [
    ['name', item.name], ['out ' + kind(item.outcome), outcome], ['', item.agent], ['num', item.tries.length || ''],
    ['num', item.tries.length ? took(item.took) : ''], ['num', item.tokens ? short(item.tokens) : ''], ['num', dollars(item.cost)],
    ['', item.open ? 'at work' : item.at ? day(item.at).slice(5) + ' ' + clock(item.at, true) : ''], ['why', item.why],
  ];
  for (const [className, content] of cells) {
    const cell = el('span', className, content);
    cell.setAttribute('role', 'cell');
    if (className === 'name' || className === 'why') cell.title = content;
    r.append(cell);
  }
  r.onclick = () => open(item);
  r.onkeydown = (e) => { if (e.key === 'Enter') open(item); };
  return r;
}
function fill() {
  const height = window.innerWidth > 820 ? 34 : 54;
  rows.style.height = shown.length * height + 'px';
  $('list').setAttribute('aria-rowcount', String(shown.length + 1));
  const from = Math.max(0, Math.floor(scroll.scrollTop / height) - 8);
  const to = Math.min(shown.length, from + Math.ceil(scroll.clientHeight / height) + 16);
  const made = [];
  for (let n = from; n < to; n++) made.push(row(shown[n], n, height));
  if (!shown.length) made.push(el('p', 'empty', items.length ? 'Nothing has these words.' : 'There is no item yet.'));
  rows.replaceChildren(...made);
}
let waits = false;
scroll.addEventListener('scroll', () => {
  if (waits) return;
  waits = true;
  requestAnimationFrame(() => { waits = false; fill(); });
});
$('find').addEventListener('input', list);
$('state').addEventListener('change', list);

// ---- the whole page

let resized = 0;
window.addEventListener('resize', () => { cancelAnimationFrame(resized); resized = requestAnimationFrame(() => { draw(); fill(); }); });
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', draw);
window.addEventListener('beforeprint', () => { printing = true; draw(); });
window.addEventListener('afterprint', () => { printing = false; draw(); });
matchMedia('print').addEventListener('change', (e) => { printing = e.matches; draw(); });
const wide = ranges.find(([name]) => name === '24 h');
show(wide ? wide[1] : whole);
list();
})();
