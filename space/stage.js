// A picture to zoom into. Pictures of parts of it, coarse and sharp, lie where they belong in the coordinates of the
// image, (0, 0) to (1, 1); the frame shows `side` of them around the center. What the server sends, `props.value`:
//   tab, settings   something else is to be seen from now on
//   title, name     what it is called, and its file
//   picture         {src, extent, size, epoch}: a part of it
//   note            a sentence: progress, or what went wrong
//   hold            the pictures are of something that is still being made: nothing else can be drawn of it
//   idle            nothing more is coming
//   open, film      bring the picture to the front; make its film
// What it is told: `props.value = {tab, settings, epoch, moves}`, where `epoch` counts what
// was to be seen, and `moves` from where.
const find = selector => element.querySelector(selector);
const frame = find(".frame"), layer = find(".pictures"), border = find(".border"), busy = find(".busy");
const LOOK_MS = 90, REST_MS = 280, SETTLE_MS = 450, TAP_MS = 300, TAP_PIXELS = 6;
const KEYS = {ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0]};
let tab = null, settings = null, epoch = 0, moves = 0, held = false, name = "picture", pictures = [], timers = {};

// ---- what is seen ----
const side = () => 2 ** -settings.zoom;
const clamp = (value, [low, high]) => Math.min(high, Math.max(low, value));

function place(style, [top, left, bottom, right]) {
    const percent = (value, center) => `${100 * ((value - center) / side() + 0.5)}%`;
    style.top = percent(top, settings.row);
    style.left = percent(left, settings.column);
    style.height = `${100 * (bottom - top) / side()}%`;
    style.width = `${100 * (right - left) / side()}%`;
}

function layOut() {
    if (!settings) return;
    for (const {image, box} of pictures) place(image.style, box);
    place(border.style, [0, 0, 1, 1]);
    border.hidden = !settings.border || settings.zoom > 4;
}

function add({src, extent, size, epoch: of}) {
    if (of !== epoch) return;
    const image = new Image();
    image.alt = find(".title").textContent;
    image.draggable = false;
    image.onload = () => {
        if (of !== epoch) return;
        // The extent is that of the outermost pixels' centers.
        const half = (extent[2] - extent[0]) / (size - 1) / 2;
        const box = [extent[0] - half, extent[1] - half, extent[2] + half, extent[3] + half];
        const density = size / (extent[2] - extent[0]);
        const covers = (a, b) => a[0] <= b[0] && a[1] <= b[1] && a[2] >= b[2] && a[3] >= b[3];
        // Pictures of what was seen before go, and those that the new one covers and outdoes; so do all but a few.
        pictures = pictures.filter(p => p.epoch === epoch && !(covers(box, p.box) && p.density <= density));
        pictures.push({image, box, density, epoch, src});
        pictures = pictures.slice(-6).sort((a, b) => a.density - b.density);
        layer.replaceChildren(...pictures.map(p => p.image));
        layOut();
        frame.dataset.size = size;
    };
    image.src = src;
}

// ---- telling the server ----
const seen = () => ({tab, settings: {...settings}, epoch, moves});

function tell(event) {
    props.value = seen();
    trigger(event);
}

function later(event, milliseconds, restart) {
    if (timers[event] && !restart) return;
    clearTimeout(timers[event]);
    timers[event] = setTimeout(() => { timers[event] = null; tell(event); }, milliseconds);
}

function look() {
    moves += 1;
    layOut();
    if (held) return;
    busy.hidden = false;
    later("look", LOOK_MS, false);
    later("sharpen", REST_MS, true);
    later("rest", REST_MS, true);
}

watch("value", () => {
    const value = props.value || {};
    if (value.title !== undefined) find(".title").textContent = value.title;
    if (value.note !== undefined) find(".note").textContent = value.note;
    if (value.name !== undefined) name = value.name;
    if (value.settings) {
        if (!settings) timers = {};
        [tab, settings] = [value.tab, {...value.settings}];
        [epoch, moves] = [epoch + 1, moves + 1];
        layOut();
        frame.setAttribute("aria-label", `${find(".title").textContent}. Arrow keys move, plus and minus zoom, 0 shows all of it.`);
        busy.hidden = false;
        held = Boolean(value.hold);
        if (!held) {
            tell("look");
            later("sharpen", REST_MS, true);
            later("settle", SETTLE_MS, true);
        }
        if (value.film) later("film", 0, true);
    }
    if (value.picture) add({epoch, ...value.picture});
    if (value.idle) {
        busy.hidden = true;
        if (held) { held = false; look(); }
    }
    if (value.open) open();
    if (settings) props.value = seen();
});

// ---- the two views, and the way back ----
function open() {
    if (document.body.dataset.view === "subject") return;
    document.body.dataset.view = "subject";
    if (!location.search) history.pushState(null, "", location.href);
    scrollTo(0, 0);
}
addEventListener("popstate", () => {
    if (location.search) location.reload();
    else document.body.dataset.view = "wall";
});

// ---- by hand ----
function moveTo(row, column, zoom) {
    settings.row = +clamp(row, props.limits.row).toFixed(6);
    settings.column = +clamp(column, props.limits.column).toFixed(6);
    settings.zoom = +clamp(zoom, props.limits.zoom).toFixed(4);
    look();
}

function fractions({clientX, clientY}) {
    const rect = frame.getBoundingClientRect();
    return [(clientY - rect.top) / rect.height - 0.5, (clientX - rect.left) / rect.width - 0.5];
}

function zoomBy(doublings, [down, across]) {
    const zoom = clamp(settings.zoom + doublings, props.limits.zoom);
    const gained = side() - 2 ** -zoom;  // what is under the pointer stays there
    moveTo(settings.row + down * gained, settings.column + across * gained, zoom);
}

const pointers = new Map();
let gesture = null, lastTap = 0;

function middle() {
    const points = [...pointers.values()];
    const [a, b] = [points[0], points[points.length - 1]];
    return {clientX: (a.clientX + b.clientX) / 2, clientY: (a.clientY + b.clientY) / 2,
            spread: Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY)};
}

frame.addEventListener("pointerdown", event => {
    if (!settings || event.button) return;
    frame.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, event);
    gesture = {...middle(), traveled: pointers.size > 1 ? Infinity : 0, began: event.timeStamp};
});

frame.addEventListener("pointermove", event => {
    if (!pointers.has(event.pointerId)) return;
    pointers.set(event.pointerId, event);
    const now = middle(), before = gesture, rect = frame.getBoundingClientRect();
    const [dx, dy] = [now.clientX - before.clientX, now.clientY - before.clientY];
    const traveled = before.traveled + Math.hypot(dx, dy) + Math.abs(now.spread - before.spread);
    gesture = {...now, traveled, began: before.began};
    if (traveled < TAP_PIXELS) return;
    element.classList.add("touched");
    settings.row -= dy / rect.height * side();
    settings.column -= dx / rect.width * side();
    if (before.spread && now.spread) zoomBy(Math.log2(now.spread / before.spread), fractions(now));
    else moveTo(settings.row, settings.column, settings.zoom);
});

function release(event) {
    if (!pointers.delete(event.pointerId)) return;
    if (pointers.size) {
        gesture = {...middle(), traveled: Infinity, began: gesture.began};
    } else if (event.type === "pointerup" && gesture.traveled < TAP_PIXELS) {
        tap(event);
    }
}
frame.addEventListener("pointerup", release);
frame.addEventListener("pointercancel", release);

// A tap brings what is under it to the center, a second one comes closer.
function tap(event) {
    element.classList.add("touched");
    if (event.timeStamp - lastTap < TAP_MS) {
        zoomBy(1, [0, 0]);
    } else {
        const [down, across] = fractions(event);
        frame.classList.add("gliding");
        setTimeout(() => frame.classList.remove("gliding"), 250);
        moveTo(settings.row + down * side(), settings.column + across * side(), settings.zoom);
    }
    lastTap = event.timeStamp;
}

frame.addEventListener("wheel", event => {
    if (!settings) return;
    event.preventDefault();
    element.classList.add("touched");
    const lines = event.deltaMode === 1 ? 30 : 1;
    zoomBy(clamp(-event.deltaY * lines / 300, [-1, 1]), fractions(event));
}, {passive: false});

frame.addEventListener("keydown", event => {
    if (!settings || event.ctrlKey || event.metaKey || event.altKey) return;
    const [down, across] = KEYS[event.key] || [];
    if (down !== undefined) moveTo(settings.row + down * side() / 4, settings.column + across * side() / 4, settings.zoom);
    else if (event.key === "+" || event.key === "=") zoomBy(1, [0, 0]);
    else if (event.key === "-") zoomBy(-1, [0, 0]);
    else if (event.key === "0" || event.key === "Home") whole();
    else return;
    event.preventDefault();
});

function whole() {
    moveTo(props.limits.row[2], props.limits.column[2], props.limits.zoom[2]);
}

// ---- by button ----
function save() {
    const sharpest = pictures[pictures.length - 1];
    if (!sharpest) return;
    const anchor = document.createElement("a");
    anchor.href = sharpest.src;
    anchor.download = `${name}.png`;
    anchor.click();
}

element.addEventListener("click", event => {
    const what = event.target.closest("[data-do]")?.dataset.do;
    if (!what || !settings) return;
    ({out: () => zoomBy(-1, [0, 0]), in: () => zoomBy(1, [0, 0]), whole, save})[what]();
});
// The names of the events, for Gradio to find: "look" "rest" "sharpen" "settle" "film".
