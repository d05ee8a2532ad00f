// The order in which a picture's pixels are run: a coarse lattice at once, then, halving its pitch, the points where the
// last prediction was off, and in the end every pixel that is left. A point that was not run has a prediction: the
// separable four-point cubic of the coarser lattice.
//
// A picture hands out pixels by `take`, is given their colors by `give`, and shows itself by `snapshot`.

const TOLERANCE = 0.03; // of colors, which have a range of 2: four steps of 255
const FIRST_LATTICE = 16; // points of the first lattice along the picture, at least

/** Coordinates (Float32Array, row and column in turn) of pixels, given as `row * side + column`. */
export function coordinatesOf(pixels, side, size, [top, left, bottom, right]) {
  const down = (bottom - top) / (size - 1);
  const across = (right - left) / (size - 1);
  const coordinates = new Float32Array(2 * pixels.length);
  pixels.forEach((pixel, i) => {
    coordinates[2 * i] = top + down * Math.floor(pixel / side);
    coordinates[2 * i + 1] = left + across * (pixel % side);
  });
  return coordinates;
}

/** RGBA bytes of every `pitch`-th pixel's color, which is in [-1, 1]. `colors` has `side` pixels in a row. */
function toBytes(colors, side, count, pitch = 1) {
  const bytes = new Uint8ClampedArray(4 * count * count);
  let target = 0;
  for (let row = 0; row < count; row++) {
    let source = 3 * row * pitch * side;
    for (let column = 0; column < count; column++, source += 3 * pitch) {
      for (let channel = 0; channel < 3; channel++) bytes[target++] = (colors[source + channel] + 1) * 127.5;
      bytes[target++] = 255;
    }
  }
  return bytes;
}

/** A square picture of `size` x `size` pixels, from coarse to exact. */
export class ProgressivePicture {
  /** `detail`: pixels that the finest detail of the image spans; lattices as coarse as that are run in full. */
  constructor(size, detail) {
    this.size = size;
    this.pitch = 2 ** Math.max(0, Math.floor(Math.log2((size - 1) / FIRST_LATTICE)));
    this.side = Math.ceil((size - 1) / this.pitch) * this.pitch + 1; // the lattice may reach past the picture
    this.detail = Math.max(1, Math.min(detail, this.pitch / 2)); // the second lattice is run in full, to compare
    this.colors = new Float32Array(3 * this.side ** 2);
    this.wasRun = new Uint8Array(this.side ** 2);
    this.off = new Uint8Array(this.side ** 2); // the pitch, as a power of two, at which the prediction was off
    this.stage = "empty"; // then "coarse", "sharp" and "exact"
    this.numRun = 0;
    this.#start(this.#lattice(() => true));
  }

  /** At most `count` pixels to run next (Int32Array of `row * side + column`); none once the picture is exact. */
  take(count) {
    return this.pending.subarray(this.position, this.position + count);
  }

  /** Takes in the colors (3 for each pixel) of what `take` handed out. */
  give(pixels, rgb) {
    const mark = Math.log2(this.pitch) + 1;
    pixels.forEach((pixel, i) => {
      let error = 0;
      for (let channel = 0; channel < 3; channel++) {
        error = Math.max(error, Math.abs(this.colors[3 * pixel + channel] - rgb[3 * i + channel]));
        this.colors[3 * pixel + channel] = rgb[3 * i + channel];
      }
      this.wasRun[pixel] = 1;
      if (error > TOLERANCE) this.off[pixel] = mark;
    });
    this.numRun += pixels.length;
    this.position += pixels.length;
    while (this.position === this.pending.length && this.stage !== "exact") this.#advance();
  }

  /** The colors so far: `{ count, span, pixels }`, RGBA of `count` x `count` points that span `span` pixels' pitches. */
  snapshot() {
    const inside = this.stage === "sharp" || this.stage === "exact";
    const count = inside ? this.size : (this.side - 1) / this.pitch + 1;
    const pitch = inside ? 1 : this.pitch;
    return { count, span: (count - 1) * pitch, pixels: toBytes(this.colors, this.side, count, pitch) };
  }

  #start(pixels) {
    this.pending = pixels;
    this.position = 0;
  }

  #advance() {
    if (this.pitch > 1) {
      this.stage = "coarse";
      this.pitch /= 2;
      this.#predict();
      const isFull = this.pitch >= this.detail;
      this.#start(this.#lattice((row, column) => this.#isInside(row, column) && (isFull || this.#isNearOff(row, column))));
    } else if (this.stage !== "sharp") {
      this.stage = "sharp";
      this.#start(this.#lattice((row, column) => this.#isInside(row, column)));
    } else {
      this.stage = "exact";
    }
  }

  #isInside(row, column) {
    return row < this.size && column < this.size;
  }

  /** Points of the lattice that have not been run and are `wanted`. */
  #lattice(wanted) {
    const pixels = [];
    for (let row = 0; row < this.side; row += this.pitch) {
      for (let column = 0; column < this.side; column += this.pitch) {
        const pixel = row * this.side + column;
        if (!this.wasRun[pixel] && wanted(row, column)) pixels.push(pixel);
      }
    }
    return Int32Array.from(pixels);
  }

  /** Whether the last lattice was off at a corner of the point's cell, or of a cell beside it. */
  #isNearOff(row, column) {
    const coarse = 2 * this.pitch;
    const mark = Math.log2(coarse) + 1;
    const bounds = (at) => [
      Math.max(0, Math.floor(at / coarse) * coarse - coarse),
      Math.min(this.side - 1, Math.ceil(at / coarse) * coarse + coarse),
    ];
    const [top, bottom] = bounds(row);
    const [left, right] = bounds(column);
    for (let y = top; y <= bottom; y += coarse) {
      for (let x = left; x <= right; x += coarse) if (this.off[y * this.side + x] === mark) return true;
    }
    return false;
  }

  /** Predicts the lattice's new points from those of twice its pitch: first along the old rows, then down. */
  #predict() {
    const { side, pitch } = this;
    for (let row = 0; row < side; row += 2 * pitch) {
      for (let column = pitch; column < side; column += 2 * pitch) this.#interpolate(row * side + column, column, pitch);
    }
    for (let row = pitch; row < side; row += 2 * pitch) {
      for (let column = 0; column < side; column += pitch) this.#interpolate(row * side + column, row, pitch * side);
    }
  }

  /** Predicts a pixel from those 1 and 3 `step`s away; `at`, its row or column, says which of them there are. */
  #interpolate(pixel, at, step) {
    const { colors, pitch, side } = this;
    const hasFour = at >= 3 * pitch && at + 3 * pitch < side;
    for (let channel = 0; channel < 3; channel++) {
      const place = 3 * pixel + channel;
      const near = colors[place - 3 * step] + colors[place + 3 * step];
      const far = hasFour ? colors[place - 9 * step] + colors[place + 9 * step] : near;
      colors[place] = (9 * near - far) / 16;
    }
  }
}

/** A square picture of which every pixel is run, in rows. */
export class ExactPicture {
  constructor(size) {
    this.size = this.side = size;
    this.colors = new Float32Array(3 * size ** 2);
    this.numRun = 0;
  }

  get stage() {
    return this.numRun === this.size ** 2 ? "exact" : "empty";
  }

  take(count) {
    const end = Math.min(this.numRun + count, this.size ** 2);
    return Int32Array.from({ length: end - this.numRun }, (_, i) => this.numRun + i);
  }

  give(pixels, rgb) {
    this.colors.set(rgb, 3 * pixels[0]);
    this.numRun += pixels.length;
  }

  snapshot() {
    return { count: this.size, span: this.size - 1, pixels: toBytes(this.colors, this.size, this.size) };
  }
}
