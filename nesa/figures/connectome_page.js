// Draw the connectome with WebGL. Data: JSON in #data; vertices in base64 in #lines and #points, four unsigned
// 16-bit numbers each: x, y, z in the box and the strength of the synapse (or nothing).
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const canvas = document.querySelector("canvas");
// Without a graphics card smooth lines cost four times as much.
const options = { alpha: false, preserveDrawingBuffer: true };
const fast = canvas.getContext("webgl2", { ...options, antialias: true, failIfMajorPerformanceCaveat: true });
const gl = fast || canvas.getContext("webgl2", { ...options, antialias: false });
const home = { yaw: -0.6, pitch: 0.35, zoom: 1 };
const camera = { ...home };
const DISTANCE = 4;
const SLICE_MS = 40; // milliseconds that one slice of a picture may take
const PICTURE_MS = fast ? Infinity : 2000; // and all of it

const vertex = `
attribute vec4 place; uniform vec3 box; uniform vec4 turn; uniform vec2 lens; uniform vec4 colour;
uniform float size, line; varying vec4 tint;
void main() {
  vec3 v = (2.0 * place.xyz - 1.0) * box;
  float x = v.x * turn.x - v.y * turn.y, y = v.x * turn.y + v.y * turn.x;
  float depth = ${DISTANCE}.0 + y * turn.z - v.z * turn.w;
  gl_Position = vec4(x * lens.x, (v.z * turn.z + y * turn.w) * lens.y, 0.0, depth);
  gl_PointSize = size / depth;
  tint = vec4(colour.rgb, colour.a * mix(1.0, 0.08 + 0.92 * place.w, line));
}`;
const fragment = `
precision mediump float; varying vec4 tint; uniform float round;
void main() { if (round > 0.5 && distance(gl_PointCoord, vec2(0.5)) > 0.5) discard; gl_FragColor = tint; }`;

const decode = (id) => {
  const bytes = Uint8Array.from(atob(document.getElementById(id).textContent), (c) => c.charCodeAt(0));
  return new Uint16Array(bytes.buffer);
};
const colour = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16) / 255);
const checked = (kind) => Object.fromEntries([...document.querySelectorAll(`[data-${kind}]`)].map((box) => [box.dataset[kind], box.checked]));

let at = {}, buffers = {}, strengths = [];
// A picture is drawn in slices, the strongest synapses first, so that turning stays smooth on slow machines.
let slice = 5000, fence = null, sent = 0, running = false, stale = true, done = 0, shown = 0, spent = 0;

function start() {
  const program = gl.createProgram();
  for (const [kind, text] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, text);
    gl.compileShader(shader);
    gl.attachShader(program, shader);
  }
  gl.bindAttribLocation(program, 0, "place");
  gl.linkProgram(program);
  gl.useProgram(program);
  for (const name of ["box", "turn", "lens", "colour", "size", "line", "round"]) at[name] = gl.getUniformLocation(program, name);
  gl.enableVertexAttribArray(0);
  gl.enable(gl.BLEND);
  gl.blendFuncSeparate(gl.SRC_ALPHA, gl.ONE_MINUS_SRC_ALPHA, gl.ONE, gl.ONE);
  for (const id of ["lines", "points"]) {
    const values = decode(id);
    buffers[id] = gl.createBuffer();
    gl.bindBuffer(gl.ARRAY_BUFFER, buffers[id]);
    gl.bufferData(gl.ARRAY_BUFFER, values, gl.STATIC_DRAW);
    if (id === "lines") strengths = Uint16Array.from({ length: values.length / 8 }, (_, k) => values[8 * k + 3]);
  }
  strengths.all = Uint16Array.from(strengths).sort().reverse();
}

// How many of a group's synapses, which come strongest first, are at least as strong as `least`.
function strong(group, least) {
  let low = 0, high = group.count;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (strengths[group.first + middle] >= least) low = middle + 1; else high = middle;
  }
  return low;
}

function least(count) { // the strength of the count-th strongest synapse
  return count ? strengths.all[Math.min(count, strengths.all.length) - 1] : 65536;
}

function use(id, line) {
  gl.bindBuffer(gl.ARRAY_BUFFER, buffers[id]);
  gl.vertexAttribPointer(0, 4, gl.UNSIGNED_SHORT, true, 8, 0);
  gl.uniform1f(at.line, line);
  gl.uniform1f(at.round, 0);
}

function clear() {
  const scale = window.devicePixelRatio || 1;
  const width = Math.round(canvas.clientWidth * scale), height = Math.round(canvas.clientHeight * scale);
  if (canvas.width !== width || canvas.height !== height) { canvas.width = width; canvas.height = height; }
  const zoom = 2.7 * camera.zoom, lens = [zoom * Math.min(1, height / width), zoom * Math.min(1, width / height)];
  const turn = [Math.cos(camera.yaw), Math.sin(camera.yaw), Math.cos(camera.pitch), Math.sin(camera.pitch)];
  gl.viewport(0, 0, width, height);
  gl.clearColor(1, 1, 1, 1);
  gl.clear(gl.COLOR_BUFFER_BIT);
  gl.uniform3fv(at.box, data.box);
  gl.uniform4fv(at.turn, turn);
  gl.uniform2fv(at.lens, lens);
  document.querySelectorAll(".plane").forEach((label, k) => {
    const z = (2 * data.planes[k] - 1) * data.box[2];
    const corners = [[-1, -1], [-1, 1], [1, -1], [1, 1]].map(([right, back]) => {
      const v = [right * data.box[0], back * data.box[1]];
      const x = v[0] * turn[0] - v[1] * turn[1], y = v[0] * turn[1] + v[1] * turn[0];
      const depth = DISTANCE + y * turn[2] - z * turn[3];
      return [50 + (50 * x * lens[0]) / depth, 50 - (50 * (z * turn[2] + y * turn[3]) * lens[1]) / depth];
    });
    const [left, top] = corners.reduce((best, corner) => (corner[0] > best[0] ? corner : best));
    label.style.left = `${left}%`;
    label.style.top = `${top}%`;
  });
  canvas.dataset.camera = JSON.stringify(camera);
  done = shown = spent = 0;
}

function add(until) { // the synapses from the done-th strongest to this one, and the neurons over them
  const tasks = checked("task"), ways = checked("way"), opacity = Number(document.getElementById("opacity").value);
  use("lines", 1);
  for (const group of data.groups) {
    if (!tasks[group.task] || !ways[group.way]) continue;
    const from = strong(group, least(done)), count = strong(group, least(until)) - from;
    shown += count;
    gl.uniform4fv(at.colour, [...colour(data.colours[group.way]), opacity]);
    gl.drawArrays(gl.LINES, 2 * (group.first + from), 2 * count);
  }
  done = until;
  use("points", 0);
  for (const group of document.getElementById("neurons").checked ? data.neurons : []) {
    if (group.task !== "" && !tasks[group.task]) continue;
    gl.uniform1f(at.round, group.round);
    gl.uniform1f(at.size, group.size * (window.devicePixelRatio || 1) * DISTANCE * camera.zoom);
    gl.uniform4fv(at.colour, [...colour(group.colour), 1]);
    gl.drawArrays(gl.POINTS, group.first, group.count);
  }
  document.getElementById("shown").textContent = shown.toLocaleString("en");
}

function tick() {
  const target = Number(document.getElementById("count").value);
  if (fence && gl.getSyncParameter(fence, gl.SYNC_STATUS) !== gl.SIGNALED) return requestAnimationFrame(tick);
  if (fence) {
    const took = performance.now() - sent;
    gl.deleteSync(fence);
    fence = null;
    slice = Math.max(1000, Math.round(slice * Math.max(0.25, Math.min(4, SLICE_MS / took))));
    spent += took;
    canvas.dataset.painted ||= performance.now().toFixed(0);
    canvas.dataset.took = took.toFixed(0);
  }
  running = stale || (done < target && spent < PICTURE_MS);
  document.getElementById("slow").hidden = running || done >= target;
  if (!running) {
    canvas.dataset.rest = performance.now().toFixed(0);
    return;
  }
  if (stale) clear();
  stale = false;
  add(Math.min(target, done + slice));
  sent = performance.now();
  fence = gl.fenceSync(gl.SYNC_GPU_COMMANDS_COMPLETE, 0);
  gl.flush();
  requestAnimationFrame(tick);
}

function redraw() {
  stale = true;
  if (!running) { running = true; requestAnimationFrame(tick); }
}

function turnBy(x, y) {
  camera.yaw += x;
  camera.pitch = Math.max(-1.57, Math.min(1.57, camera.pitch + y));
  redraw();
}

function zoomBy(factor) {
  camera.zoom = Math.max(0.3, Math.min(12, camera.zoom * factor));
  redraw();
}

if (!gl) {
  document.getElementById("none").hidden = false;
} else {
  start();
  const fingers = new Map();
  canvas.addEventListener("pointerdown", (event) => {
    fingers.set(event.pointerId, event);
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    const before = fingers.get(event.pointerId);
    if (!before) return;
    const other = [...fingers.values()].find((finger) => finger.pointerId !== event.pointerId);
    const apart = (finger) => Math.hypot(finger.clientX - other.clientX, finger.clientY - other.clientY) + 1;
    if (other) zoomBy(apart(event) / apart(before));
    else turnBy((event.clientX - before.clientX) * 0.008, (event.clientY - before.clientY) * 0.008);
    fingers.set(event.pointerId, event);
  });
  for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, (event) => fingers.delete(event.pointerId));
  canvas.addEventListener("wheel", (event) => {
    if (document.activeElement !== canvas) return; // a page that is being read scrolls on
    event.preventDefault();
    zoomBy(Math.exp(-event.deltaY * 0.001));
  }, { passive: false });
  canvas.addEventListener("dblclick", () => { Object.assign(camera, home); redraw(); });
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, 0.1], ArrowDown: [0, -0.1] }[event.key];
    if (step) turnBy(...step);
    else if (event.key === "+" || event.key === "-") zoomBy(event.key === "+" ? 1.15 : 1 / 1.15);
    else return;
    event.preventDefault();
  });
  document.querySelectorAll("input").forEach((input) => input.addEventListener("input", redraw));
  new ResizeObserver(redraw).observe(canvas);
  redraw();
}
