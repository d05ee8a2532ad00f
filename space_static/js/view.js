// The part of the plane that is shown: a square with its center at (row, column) and a side of 2^-zoom images.

export const MIN_ZOOM = -2;
export const MAX_ZOOM = 12; // beyond it float32 coordinates no longer tell pixels apart
export const WHOLE = { row: 0.5, column: 0.5, zoom: 0 };

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

/** (top, left, bottom, right) of the centers of the first and last pixels. */
export function extentOf({ row, column, zoom }) {
  const half = 2 ** -zoom / 2;
  return [row - half, column - half, row + half, column + half];
}

/** Moved by a share of its side, down and to the right. */
export function pan(view, down, right) {
  const side = 2 ** -view.zoom;
  return {
    ...view,
    row: clamp(view.row + down * side, -1, 2),
    column: clamp(view.column + right * side, -1, 2),
  };
}

/** Enlarged 2^doublings times; the point at (y, x), in shares of the side, stays where it is. */
export function zoomAt(view, doublings, y = 0.5, x = 0.5) {
  const zoom = clamp(view.zoom + doublings, MIN_ZOOM, MAX_ZOOM);
  const kept = 2 ** -view.zoom - 2 ** -zoom;
  return {
    zoom,
    row: clamp(view.row + (y - 0.5) * kept, -1, 2),
    column: clamp(view.column + (x - 0.5) * kept, -1, 2),
  };
}
