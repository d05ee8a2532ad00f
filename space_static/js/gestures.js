// Hands on the canvas: drag, wheel, pinch, double click and keys become movements of the view.

import { pan, WHOLE, zoomAt } from "./view.js";

const KEYS = {
  ArrowUp: (view) => pan(view, -0.1, 0),
  ArrowDown: (view) => pan(view, 0.1, 0),
  ArrowLeft: (view) => pan(view, 0, -0.1),
  ArrowRight: (view) => pan(view, 0, 0.1),
  "+": (view) => zoomAt(view, 0.5),
  "=": (view) => zoomAt(view, 0.5),
  "-": (view) => zoomAt(view, -0.5),
  0: () => WHOLE,
};

/** Calls `move(view => view)` for every movement on `canvas`. */
export function listen(canvas, move) {
  const pointers = new Map(); // of each finger or mouse that is down, its place in shares of the side
  const placeOf = ({ clientX, clientY }) => {
    const { left, top, width } = canvas.getBoundingClientRect();
    return { x: (clientX - left) / width, y: (clientY - top) / width };
  };
  const middle = (places) => ({
    x: places.reduce((sum, { x }) => sum + x, 0) / places.length,
    y: places.reduce((sum, { y }) => sum + y, 0) / places.length,
  });
  const spread = ([a, b]) => (b ? Math.max(Math.hypot(a.x - b.x, a.y - b.y), 0.01) : 1);

  canvas.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || pointers.size === 2) return;
    canvas.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, placeOf(event));
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!pointers.has(event.pointerId)) return;
    const before = [...pointers.values()];
    pointers.set(event.pointerId, placeOf(event));
    const after = [...pointers.values()];
    const [from, to] = [middle(before), middle(after)];
    const doublings = Math.log2(spread(after) / spread(before));
    move((view) => zoomAt(pan(view, from.y - to.y, from.x - to.x), doublings, to.y, to.x));
  });
  const release = (event) => pointers.delete(event.pointerId);
  canvas.addEventListener("pointerup", release);
  canvas.addEventListener("pointercancel", release);

  canvas.addEventListener(
    "wheel",
    (event) => {
      event.preventDefault();
      const { x, y } = placeOf(event);
      const pixels = event.deltaY * (event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 30 : 1);
      // Pinching on a touchpad arrives as a wheel with the control key, in small steps.
      const doublings = Math.max(-1, Math.min(1, -pixels * (event.ctrlKey ? 0.02 : 0.003)));
      move((view) => zoomAt(view, doublings, y, x));
    },
    { passive: false },
  );
  canvas.addEventListener("dblclick", (event) => {
    const { x, y } = placeOf(event);
    move((view) => zoomAt(view, event.shiftKey ? -1 : 1, y, x));
  });
  canvas.addEventListener("keydown", (event) => {
    if (!(event.key in KEYS) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    move(KEYS[event.key]);
  });
}
