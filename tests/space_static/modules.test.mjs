// The page's modules that need no page, under `node --test`.

import assert from "node:assert/strict";
import test from "node:test";

import { coordinatesOf, ExactPicture, ProgressivePicture } from "../../space_static/js/lattice.js";
import { placeOf } from "../../space_static/js/stage.js";
import { anotherSeed, Classes, defaults, designsOf, readLink, writeLink } from "../../space_static/js/state.js";
import { Trial } from "../../space_static/js/trial.js";
import { extentOf, pan, WHOLE, zoomAt } from "../../space_static/js/view.js";

const WINDOW = [-0.25, 0.5, 0.75, 1.5];

/** Draws `picture` of color(row, column), and gives the share of it that was run at each stage. */
function run(picture, color, onStep = () => {}) {
  const shares = {};
  while (picture.stage !== "exact") {
    const pixels = picture.take(100);
    assert.ok(pixels.length > 0 && pixels.length <= 100);
    const coordinates = coordinatesOf(pixels, picture.side, picture.size, WINDOW);
    picture.give(pixels, Float32Array.from(pixels, (_, i) => color(coordinates[2 * i], coordinates[2 * i + 1])).reduce(
      (rgb, value, i) => (rgb.set([value, -value, value / 2], 3 * i), rgb),
      new Float32Array(3 * pixels.length),
    ));
    shares[picture.stage] = picture.numRun / picture.size ** 2;
    onStep(picture);
  }
  return shares;
}

/** The bytes of color(row, column) at each pixel. */
function expected(size, color) {
  const pixels = Int32Array.from({ length: size ** 2 }, (_, i) => i);
  const coordinates = coordinatesOf(pixels, size, size, WINDOW);
  const bytes = new Uint8ClampedArray(4 * size ** 2);
  for (const i of pixels) {
    const value = Math.fround(color(coordinates[2 * i], coordinates[2 * i + 1]));
    [value, -value, value / 2].forEach((part, channel) => (bytes[4 * i + channel] = (Math.fround(part) + 1) * 127.5));
    bytes[4 * i + 3] = 255;
  }
  return bytes;
}

const cubic = (u, v) => 0.5 * u ** 3 - u * v + 0.3 * v ** 2;
const line = (u, v) => (Math.abs(0.6 * u + 0.8 * v - 0.7) < 0.003 ? 1 : -0.5); // thinner than a pixel, aslant
const edge = (u, v) => Math.tanh(300 * (u ** 2 + v ** 2 - 1));

for (const [name, color] of Object.entries({ cubic, line, edge })) {
  for (const size of [5, 64, 100, 257]) {
    test(`a ${name} of ${size} pixels ends with every pixel exact, however it got there`, () => {
      for (const picture of [new ProgressivePicture(size, 4), new ExactPicture(size)]) {
        run(picture, color);
        assert.deepEqual(picture.snapshot(), { count: size, span: size - 1, pixels: expected(size, color) });
        assert.equal(picture.take(100).length, 0);
      }
    });
  }
}

test("what is smooth is sharp long before every pixel has been run", () => {
  assert.ok(run(new ProgressivePicture(257, 8), cubic).coarse < 0.05);
  const shares = run(new ProgressivePicture(257, 8), edge);
  assert.ok(shares.sharp < 1.001 && shares.coarse < 0.25, JSON.stringify(shares));
});

test("a sharp picture is near the exact one, edges included", () => {
  const exact = expected(257, edge);
  const worst = [];
  run(new ProgressivePicture(257, 8), edge, (picture) => {
    if (picture.stage !== "sharp" || worst.length > 0) return;
    worst.push(picture.snapshot().pixels.reduce((most, byte, i) => Math.max(most, Math.abs(byte - exact[i])), 0));
  });
  assert.ok(worst[0] <= 8, `off by ${worst[0]} of 255`);
});

test("lattices are in place: a snapshot's points are the colors there", () => {
  let last = 0;
  run(new ProgressivePicture(100, 8), (u) => u, (picture) => {
    if (picture.stage !== "coarse") return;
    const { count, span, pixels } = picture.snapshot();
    const bottom = WINDOW[0] + ((WINDOW[2] - WINDOW[0]) * span) / (picture.size - 1);
    for (let row = 0; row < count; row++) {
      const value = 127.5 * (1 + WINDOW[0] + ((bottom - WINDOW[0]) * row) / (count - 1));
      assert.ok(Math.abs(pixels[4 * row * count] - Math.min(value, 255)) <= 1);
    }
    assert.ok(count >= last);
    last = count;
  });
  assert.ok(last > 16);
});

/** What wins a trial of "one" and "two", whose costs of a point are given, in milliseconds, and how many turns it took. */
function winner(costs, points = 1000) {
  const trial = new Trial(["one", "two"]);
  let turns = 0;
  for (; trial.winner === undefined; turns++) {
    const name = trial.next;
    const warm = trial.records.every((record) => record.turns > 0);
    trial.note(name, points, points * costs[name] + (warm ? 0 : 9999));
  }
  return [trial.winner, turns];
}

test("of two ways to run the network the faster one wins after some turns each, the first not counted", () => {
  assert.deepEqual(winner({ one: 0.05, two: 0.03 }), ["two", 8]);
  assert.deepEqual(winner({ one: 0.03, two: 0.05 }), ["one", 8]);
  assert.deepEqual(winner({ one: 0.03, two: 0.03 }), ["one", 8]);
  assert.deepEqual(winner({ one: 0.05, two: 0.03 }, 100), ["two", 62]); // short turns, until there are enough points
});

test("coordinates are those of the pipeline: ends included, float32", () => {
  assert.deepEqual([...coordinatesOf([0, 4, 24], 5, 5, [0, -1, 1, 3])], [0, -1, 0, 3, 1, 3]);
});

test("a zoom leaves the point under the hand in place, a pan moves by shares of the side", () => {
  const at = (view, y, x) => [view.row + (y - 0.5) * 2 ** -view.zoom, view.column + (x - 0.5) * 2 ** -view.zoom];
  const view = { row: 0.3, column: 0.6, zoom: 1 };
  const near = zoomAt(view, 2.5, 0.2, 0.9);
  assert.equal(near.zoom, 3.5);
  at(near, 0.2, 0.9).forEach((value, i) => assert.ok(Math.abs(value - at(view, 0.2, 0.9)[i]) < 1e-12));
  assert.deepEqual(pan(view, 0.5, -0.5), { row: 0.55, column: 0.35, zoom: 1 });
  assert.deepEqual(extentOf(WHOLE), [0, 0, 1, 1]);
  assert.equal(zoomAt(view, 100).zoom, 12);
  assert.equal(zoomAt(view, -100).zoom, -2);
});

test("a picture lies where its points are", () => {
  assert.deepEqual(placeOf({ extent: [0, 0, 1, 1], count: 64 }, [0, 0, 1, 1], 64), { x: 0, y: 0, side: 64 });
  // Of 17 points over the same extent, the first's center is the first pixel's.
  const { x, y, side } = placeOf({ extent: [0, 0, 1, 1], count: 17 }, [0, 0, 1, 1], 65);
  assert.deepEqual([x + side / 17 / 2, y, side], [0.5, x, 68]);
});

const METADATA = {
  config: { num_classes: 4, num_levels: 3 },
  class_names: { 0: "tench, Tinca tinca", 1: "crane", 2: "goldfish", 3: "crane" },
};

test("a showcase says what the page opens with, and which seeds show other designs", () => {
  const metadata = { ...METADATA, showcase: { opening: [[2, 9], [0, 4]], designs: { 2: [5, 9, 7] } } };
  const { classLabel, seed, secondClassLabel, secondSeed } = defaults(metadata);
  assert.deepEqual([classLabel, seed, secondClassLabel, secondSeed], [2, 9, 0, 4]);
  const drawn = new Set(Array.from({ length: 200 }, () => anotherSeed(metadata, 2, 9)));
  assert.deepEqual([...drawn].sort(), [5, 7]);
  assert.deepEqual(designsOf(METADATA, 2), []);
  assert.ok(new Set(Array.from({ length: 20 }, () => anotherSeed(METADATA, 2, 9))).size > 10);
});

test("a link holds the state, and what is illegal in it is named", () => {
  const classes = new Classes(METADATA);
  const usual = defaults(METADATA);
  const state = { ...usual, classLabel: 3, seed: 7, psi: 0.7, position: 0.25, levels: [0, 2], row: 0.123456789, zoom: 2.5 };
  const link = writeLink(state, METADATA, classes);
  assert.equal(link, "#class_label=crane+%283%29&seed=7&truncation_psi=0.7&position=0.25&levels=0,2&row=0.12345679&zoom=2.5");
  assert.deepEqual(readLink(link, METADATA, classes), { state: { ...state, row: 0.12345679 }, rejected: [] });
  assert.deepEqual(readLink("", METADATA, classes), { state: usual, rejected: [] });
  assert.deepEqual(readLink("#levels=", METADATA, classes).state.levels, []);
  const bad = "#class_label=dog&seed=-1&position=2&levels=3&zoom=&row=NaN&color=red&truncation_psi=0.5";
  const { state: held, rejected } = readLink(bad, METADATA, classes);
  const words = ["class “dog”", "seed “-1”", "position “2”", "levels “3”", "zoom “”", "row “NaN”", "color “red”"];
  assert.deepEqual(rejected, words);
  const long = readLink(`#class_label=${"dog".repeat(9999)}`, METADATA, classes).rejected[0];
  assert.equal(long, `class “${"dog".repeat(13)}d…”`);
  assert.deepEqual(held, { ...usual, psi: 0.5 });
});

test("an unconditional model's link has no classes", () => {
  const metadata = { config: { num_classes: null, num_levels: 3 }, class_names: {} };
  const link = writeLink(defaults(metadata), metadata, new Classes(metadata));
  assert.equal(link, "#seed=0");
  assert.deepEqual(readLink("#class_label=0", metadata, new Classes(metadata)).rejected, ["class “0”"]);
});

test("classes are found by any of their names, in any case, or by number", () => {
  const classes = new Classes(METADATA);
  assert.deepEqual(classes.names, ["tench", "crane (1)", "goldfish", "crane (3)"]);
  assert.deepEqual(classes.search("TINCA"), [0]);
  assert.deepEqual(classes.search("crane"), [1, 3]);
  assert.deepEqual(classes.search(""), [0, 1, 2, 3]);
  assert.deepEqual(classes.search("n c").slice(0, 1), [0]);
  assert.deepEqual(classes.search("zebra"), []);
  assert.deepEqual(["Gold_Fish", "goldfish", "3", "4", "zebra"].map((text) => classes.find(text)), [undefined, 2, 3, undefined, undefined]);
});
