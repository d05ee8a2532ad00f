// What is shown, and the link that holds it. The names are those of the Python Space's links.

import { MAX_ZOOM, MIN_ZOOM, WHOLE } from "./view.js";

export const MAX_SEED = 2 ** 32 - 1;
export const MAX_PSI = 1.2;
const MAX_QUOTED = 40; // letters of what a link asks for
const NUM_DICE = 100000; // seeds that a dice can show

/** What a model knows of its classes: a name for each id, and a search. Without classes, nothing. */
export class Classes {
  constructor(metadata) {
    const count = metadata.config.num_classes ?? 0;
    const joined = Array.from({ length: count }, (_, id) => metadata.class_names[id] ?? `class ${id}`);
    const first = joined.map((text) => text.split(",")[0].trim());
    const repeated = new Set(first.filter((name, id) => first.indexOf(name) !== id));
    this.names = first.map((name, id) => (repeated.has(name) ? `${name} (${id})` : name));
    this.texts = joined.map((text, id) => Classes.fold(`${text} ${this.names[id]}`));
  }

  static fold(text) {
    return text.toLowerCase().replace(/[\s_-]+/g, " ").trim();
  }

  /** The id that a name or a number in a link stands for; undefined if none. */
  find(text) {
    const id = this.names.findIndex((name) => Classes.fold(name) === Classes.fold(text));
    if (id >= 0) return id;
    return /^\d+$/.test(text) && Number(text) < this.names.length ? Number(text) : undefined;
  }

  /** Ids of the classes that have all the words, those whose name starts so first. */
  search(text) {
    const wanted = Classes.fold(text);
    const words = wanted.split(" ");
    const found = this.names.map((_, id) => id).filter((id) => words.every((word) => this.texts[id].includes(word)));
    return found.sort((a, b) => this.texts[b].startsWith(wanted) - this.texts[a].startsWith(wanted) || a - b);
  }
}

/** The state that a page without a link opens with: the first two pictures of the model's showcase, if it has one. */
export function defaults(metadata) {
  const count = metadata.config.num_classes;
  const [first, second] = metadata.showcase?.opening ?? [];
  return {
    classLabel: first?.[0] ?? (count ? Math.floor((3 * count) / 4) : null),
    seed: first?.[1] ?? 0,
    psi: 1,
    secondClassLabel: second?.[0] ?? (count ? Math.floor((3 * count) / 8) : null),
    secondSeed: second?.[1] ?? 1,
    position: 0,
    levels: Array.from({ length: metadata.config.num_levels }, (_, level) => level),
    ...WHOLE,
  };
}

/** Seeds that show all designs of a class, as the model's showcase has them; none if it does not say. */
export function designsOf(metadata, classLabel) {
  return metadata.showcase?.designs[classLabel] ?? [];
}

/** A seed of another design of the class than `seed` shows, as far as is known. */
export function anotherSeed(metadata, classLabel, seed) {
  const others = designsOf(metadata, classLabel).filter((other) => other !== seed);
  const range = others.length || NUM_DICE;
  const drawn = Math.floor(Math.random() * range);
  return others.length > 0 ? others[drawn] : drawn;
}

function number(low, high, digits = 0) {
  return {
    write: (value) => String(Number(value.toFixed(digits))),
    read: (text) => {
      const value = Number(text);
      const legal = text.trim() !== "" && value >= low && value <= high && (digits > 0 || Number.isInteger(value));
      return legal ? value : undefined;
    },
  };
}

function fields(metadata, classes) {
  const label = { write: (id) => classes.names[id], read: (text) => classes.find(text) };
  const levels = {
    write: (chosen) => chosen.join(","),
    read: (text) => {
      const chosen = text === "" ? [] : text.split(",").map(Number);
      const legal = chosen.every((level) => Number.isInteger(level) && level >= 0 && level < metadata.config.num_levels);
      return legal ? [...new Set(chosen)].sort((a, b) => a - b) : undefined;
    },
  };
  const conditional = metadata.config.num_classes;
  return {
    ...(conditional && { class_label: ["classLabel", label] }),
    seed: ["seed", number(0, MAX_SEED)],
    truncation_psi: ["psi", number(0, MAX_PSI, 2)],
    ...(conditional && { second_class_label: ["secondClassLabel", label] }),
    second_seed: ["secondSeed", number(0, MAX_SEED)],
    position: ["position", number(0, 1, 3)],
    levels: ["levels", levels],
    row: ["row", number(-1, 2, 8)],
    column: ["column", number(-1, 2, 8)],
    zoom: ["zoom", number(MIN_ZOOM, MAX_ZOOM, 4)],
  };
}

/** The hash of a link to `state`: the image, and whatever else is not as it is by default. */
export function writeLink(state, metadata, classes) {
  const usual = defaults(metadata);
  const held = new URLSearchParams();
  for (const [name, [key, field]] of Object.entries(fields(metadata, classes))) {
    const text = field.write(state[key]);
    if (name === "class_label" || name === "seed" || text !== field.write(usual[key])) held.set(name, text);
  }
  return `#${held.toString().replaceAll("%2C", ",")}`;
}

/** The state that a link's hash holds, and what it holds that is not legal, in words, which stays as by default. */
export function readLink(hash, metadata, classes) {
  const state = defaults(metadata);
  const known = fields(metadata, classes);
  const rejected = [];
  for (const [name, text] of new URLSearchParams(hash.replace(/^#/, ""))) {
    const value = known[name]?.[1].read(text);
    const shown = text.length > MAX_QUOTED ? `${text.slice(0, MAX_QUOTED)}…` : text;
    if (value === undefined) rejected.push(`${name.replace("_label", "").replaceAll("_", " ")} “${shown}”`);
    else state[known[name][0]] = value;
  }
  return { state, rejected };
}
