// A seed's latent z: standard normal numbers that are the same in every browser.
//
// SplitMix64 (Steele, Lea and Flood, 2014), started at the seed, gives 64-bit words; the upper 53 bits of each are a
// uniform number in (0, 1); a pair (u, v) gives two normal numbers, sqrt(-2 ln u) cos(2 pi v) and ... sin(2 pi v)
// (Box and Muller, 1958). torch draws others from the same seed: to draw a picture of this page in Python, take its z.

const MASK = (1n << 64n) - 1n;

function* words(seed) {
  let state = BigInt(seed);
  for (;;) {
    state = (state + 0x9e3779b97f4a7c15n) & MASK;
    let word = ((state ^ (state >> 30n)) * 0xbf58476d1ce4e5b9n) & MASK;
    word = ((word ^ (word >> 27n)) * 0x94d049bb133111ebn) & MASK;
    yield word ^ (word >> 31n);
  }
}

/** z of `length` numbers (Float32Array) for a whole `seed` from 0 on. */
export function latent(seed, length) {
  const source = words(seed);
  const uniform = () => (Number(source.next().value >> 11n) + 0.5) / 2 ** 53;
  const z = new Float32Array(length);
  for (let i = 0; i < length; i += 2) {
    const radius = Math.sqrt(-2 * Math.log(uniform()));
    const angle = 2 * Math.PI * uniform();
    z[i] = radius * Math.cos(angle);
    if (i + 1 < length) z[i + 1] = radius * Math.sin(angle);
  }
  return z;
}
