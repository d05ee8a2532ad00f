// A seed's latent z: the numbers of torch.randn(z_dim, generator=torch.Generator().manual_seed(seed)), so that a class and
// a seed are the same picture here and in Python.
//
// MT19937 (Matsumoto and Nishimura, 1998) gives words of 32 bits, pairs of numbers from them two normal ones (Box and
// Muller, 1958). As torch has it, sixteen numbers and more are made in blocks of sixteen, whose second half is paired with
// the first; fewer one after the other, from 53 bits each.

const SIZE = 624; // words of the generator's state
const BLOCK = 16; // numbers

class MersenneTwister {
  constructor(seed) {
    this.state = new Uint32Array(SIZE);
    this.state[0] = seed;
    for (let i = 1; i < SIZE; i++) {
      const last = this.state[i - 1];
      this.state[i] = Math.imul(1812433253, last ^ (last >>> 30)) + i;
    }
    this.index = SIZE;
  }

  #twist() {
    const { state } = this;
    for (let i = 0; i < SIZE; i++) {
      const bits = (state[i] & 0x80000000) | (state[(i + 1) % SIZE] & 0x7fffffff);
      state[i] = state[(i + 397) % SIZE] ^ (bits >>> 1) ^ (bits & 1 ? 0x9908b0df : 0);
    }
    this.index = 0;
  }

  word() {
    if (this.index === SIZE) this.#twist();
    let y = this.state[this.index++];
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    return (y ^ (y >>> 18)) >>> 0;
  }

  /** In [0, 1), a multiple of 2^-24. */
  single() {
    return (this.word() & 0xffffff) / 2 ** 24;
  }

  /** In [0, 1), a multiple of 2^-53. */
  double() {
    const high = this.word() & 0x1fffff;
    return (high * 2 ** 32 + this.word()) / 2 ** 53;
  }
}

function fillBlock(z, start, source) {
  const uniform = Float64Array.from({ length: BLOCK }, () => source.single());
  for (let i = 0; i < BLOCK / 2; i++) {
    const radius = Math.sqrt(-2 * Math.log(1 - uniform[i]));
    const angle = 2 * Math.PI * uniform[i + BLOCK / 2];
    z[start + i] = radius * Math.cos(angle);
    z[start + i + BLOCK / 2] = radius * Math.sin(angle);
  }
}

/** z of `length` numbers (Float32Array) for a whole `seed` in 0..2^32-1. */
export function latent(seed, length) {
  const source = new MersenneTwister(seed);
  const z = new Float32Array(length);
  if (length < BLOCK) {
    for (let i = 0; i < length; i += 2) {
      const angle = 2 * Math.PI * source.double();
      const radius = Math.sqrt(-2 * Math.log1p(-source.double()));
      z[i] = radius * Math.cos(angle);
      if (i + 1 < length) z[i + 1] = radius * Math.sin(angle);
    }
    return z;
  }
  // torch draws all uniform numbers first, and those of an incomplete last block once more, over the end.
  for (let start = 0; start + BLOCK <= length; start += BLOCK) fillBlock(z, start, source);
  if (length % BLOCK > 0) {
    for (let i = 0; i < length % BLOCK; i++) source.word();
    fillBlock(z, length - BLOCK, source);
  }
  return z;
}
