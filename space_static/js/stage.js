// The canvas: the last pictures, moved at once to where the view is now.

/** Where a picture lies on a canvas of `size` pixels that shows `view` (both extents between pixel centers). */
export function placeOf(picture, view, size) {
  const pixel = (view[2] - view[0]) / (size - 1); // of the canvas, in coordinates
  const point = (picture.extent[2] - picture.extent[0]) / (picture.count - 1); // of the picture
  const corner = (first, shown) => (first - point / 2 - shown) / pixel + 0.5;
  const side = (picture.count * point) / pixel;
  return { x: corner(picture.extent[1], view[1]), y: corner(picture.extent[0], view[0]), side };
}

export class Stage {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d", { alpha: false });
    this.pictures = []; // the widest of this image first, what was drawn last on top
  }

  get size() {
    return this.canvas.width;
  }

  resize(size) {
    if (size !== this.size) this.canvas.width = this.canvas.height = size;
  }

  /** Takes in a picture: RGBA `pixels` of `count` x `count` points over `extent`. A new image's forgets the others. */
  put({ pixels, count, extent }, isOtherImage) {
    const canvas = new OffscreenCanvas(count, count);
    canvas.getContext("2d").putImageData(new ImageData(pixels, count, count), 0, 0);
    const width = ([top, , bottom]) => bottom - top;
    const widest = isOtherImage ? undefined : this.pictures[0];
    const picture = { canvas, count, extent };
    this.pictures = widest && width(widest.extent) > width(extent) ? [widest, picture] : [picture];
  }

  /** Draws what there is of `view`. */
  draw(view) {
    const { context, size } = this;
    context.fillStyle = getComputedStyle(this.canvas).backgroundColor;
    context.fillRect(0, 0, size, size);
    context.imageSmoothingQuality = "high";
    for (const picture of this.pictures) {
      const { x, y, side } = placeOf(picture, view, size);
      const isExact = picture.count === size && Math.abs(x) + Math.abs(y) + Math.abs(side - size) < 1e-3;
      if (isExact) context.drawImage(picture.canvas, 0, 0);
      else context.drawImage(picture.canvas, x, y, side, side);
    }
  }
}
