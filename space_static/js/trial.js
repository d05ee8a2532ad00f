// Which of several ways to run the network is the fastest: they take turns at the pictures' own points.

const POINTS = 3000; // that each has run, at least, before it is decided
const TURNS = 4; // that each has had, at least; the first of them, which warms it up, does not count

export class Trial {
  /** Of what is fastest in the end, `winner`; the first of `candidates` if it is a tie. */
  constructor(candidates) {
    this.candidates = candidates;
    this.records = candidates.map(() => ({ turns: 0, points: 0, milliseconds: 0 }));
  }

  /** Whose turn it is. */
  get next() {
    const turns = this.records.map((record) => record.turns);
    return this.candidates[turns.indexOf(Math.min(...turns))];
  }

  note(candidate, points, milliseconds) {
    const record = this.records[this.candidates.indexOf(candidate)];
    record.turns += 1;
    if (record.turns === 1) return;
    record.points += points;
    record.milliseconds += milliseconds;
  }

  /** The fastest; undefined while there is none yet. */
  get winner() {
    if (!this.records.every(({ turns, points }) => turns >= TURNS && points >= POINTS)) return undefined;
    const costs = this.records.map(({ points, milliseconds }) => milliseconds / points);
    return this.candidates[costs.indexOf(Math.min(...costs))];
  }
}
