// What the product and the gradient of a spectral convolution share.
//
// The spectrum of a kernel is wanted at all frequencies, but the kernel has few taps, so its transform is a sum over
// taps, one axis after the other. Taps are taken about their centre, in parities: along each axis the sums of
// opposite taps, which meet a cosine, then their differences, which meet a sine; real numbers all. A factor that
// depends on the frequency alone, its phase, moves the centre back; it is applied to the small side of the product.
//
// The lines of frequencies (fz, fy) and (-fz, -fy) share their work: with P the even and Q the odd part of the sum
// along x, the spectrum is P + iQ at (fz, fy, fx), and the conjugate of P - iQ at (-fz, -fy, fx).
//
// Weights (in, out) are kept in slabs of output channels, a vector for every input channel. Where the last slab
// fills half a vector at most, a vector holds two input channels, alternating.
#pragma once
#include "simd.hpp"
#include "table.hpp"

namespace znn::ZNN_ISA {

constexpr int AT_ONCE = REGISTERS == 32 ? 4 : 2;  // vectors (or frequencies) side by side, to hide latency

// A number that the compiler knows, as an argument.
template <int N>
struct Count {};

// Calls body(Count<n>) for an n up to Most.
template <int Most, typename Body>
ZNN_INLINE void with_count(int n, const Body& body) {
  if (n == Most) return body(Count<Most>());
  if constexpr (Most > 1) with_count<Most - 1>(n, body);
}

struct Slab {
  int first, outs;  // output channels
  int group;        // input channels of a vector
  size_t lanes;     // of all its vectors
  size_t before;    // lanes of the slabs before it
};

static inline int n_slabs(int out_channels) { return ceil_div(out_channels, LANES); }

// `even`: the input channels (of each block) can be taken in pairs.
static inline Slab slab_of(int s, size_t in_channels, int out_channels, bool even) {
  const int first = s * LANES, outs = min_of(LANES, out_channels - first);
  const int group = even && 2 * outs <= LANES ? 2 : 1;
  return {first, outs, group, in_channels / group * LANES, s * in_channels * LANES};
}

static inline size_t all_lanes(size_t in_channels, int out_channels, bool even) {
  const Slab last = slab_of(n_slabs(out_channels) - 1, in_channels, out_channels, even);
  return last.before + last.lanes;
}

// Number of even parts along an axis of k taps.
static inline int evens(int k) { return k - k / 2; }
static inline int half(int n) { return n / 2 + 1; }
static inline bool is_own_mirror(int f, int n) { return f == 0 || 2 * f == n; }

// The rows of an axis's table (see Twiddles), with all signs of i turned for the conjugate.
static inline void copy_table(const float* from, int n, int k, bool turned, float* to) {
  for (int f = 0; f < half(n); f++)
    for (int j = 0; j < k + 2; j++, from++, to++) {
      const bool imaginary = (j >= evens(k) && j < k) || j == k + 1;
      *to = imaginary && turned ? -*from : *from;
    }
}

// Calls body(first, n) for parts of a line of frequencies, as equal as can be and `most` long.
template <typename Body>
ZNN_INLINE void in_pieces(int length, int most, const Body& body) {
  for (int parts = ceil_div(length, most), fx = 0; parts > 0; parts--) {
    const int n = ceil_div(length - fx, parts);
    body(fx, n);
    fx += n;
  }
}

// Where an entry's frequencies of a line begin, from fx on. Entries of a line lie together.
struct Place {
  size_t line;
  int fx;
};
ZNN_INLINE size_t at(Place p, int entry, int batch, int length, size_t channels) {
  return ((p.line * batch + entry) * length + p.fx) * 2 * channels;
}

struct Complex {
  float re, im;
};
ZNN_INLINE Complex operator*(Complex a, Complex b) { return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re}; }
ZNN_INLINE Complex conj(Complex a) { return {a.re, -a.im}; }

// A frequency's row of an axis's table.
struct Row {
  int k;
  const float* c;
  const float* cosines() const { return c; }
  const float* sines() const { return c + evens(k); }
  Complex phase() const { return {c[k], c[k + 1]}; }
};

struct AxisTaps {
  int n, k;
  const float* table;
  int first = 0, last = half(n);  // frequencies that are wanted
  Row row(int f) const { return {k, table + (size_t)f * (k + 2)}; }
};

// Two lines of frequencies that share their work. Where the line is its own mirror there is no second.
struct Lines {
  size_t a, b;  // number of each, fz * ny + fy
  bool pair;
  Complex phase_a, phase_b;

  // The place of the line a, or b; where it ends it goes on with that of the lines that come next.
  Place place(bool second, int fx, int length, const Lines& next) const {
    if (fx < length) return {second ? b : a, fx};
    return {second ? next.b : next.a, fx - length};
  }
};

// The lines at (fz, fy), or for `minus` at (fz, -fy); 0 <= fz <= n_z / 2 and y alike.
static inline Lines lines_of(const AxisTaps& z, const AxisTaps& y, int fz, int fy, bool minus) {
  const int mirror_z = fz ? z.n - fz : 0, mirror_y = fy ? y.n - fy : 0, ya = minus ? mirror_y : fy, yb = minus ? fy : mirror_y;
  const Complex py = minus ? conj(y.row(fy).phase()) : y.row(fy).phase(), phase = z.row(fz).phase() * py;
  return {(size_t)fz * y.n + ya, (size_t)mirror_z * y.n + yb, !(is_own_mirror(fz, z.n) && is_own_mirror(fy, y.n)), phase, conj(phase)};
}

// (fz, -fy) is a line of its own, and not yet the mirror of (fz, fy).
static inline bool has_minus(const AxisTaps& z, const AxisTaps& y, int fz, int fy) {
  return !is_own_mirror(fz, z.n) && !is_own_mirror(fy, y.n);
}

// ---- lanes

#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define ZNN_SHUFFLE
#endif
#endif

ZNN_INLINE vf interleave(vf a, vf b, bool high) {
#ifdef ZNN_SHUFFLE
#if defined(__AVX512F__)
  return high ? __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31)
              : __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
#elif defined(__AVX2__)
  return high ? __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15)
              : __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
#else
  return high ? __builtin_shufflevector(a, b, 2, 6, 3, 7) : __builtin_shufflevector(a, b, 0, 4, 1, 5);
#endif
#else
  vf r;
  for (int j = 0; j < LANES / 2; j++) {
    const int from = high ? j + LANES / 2 : j;
    r[2 * j] = a[from], r[2 * j + 1] = b[from];
  }
  return r;
#endif
}

// LANES rows of LANES values, the rows of the transpose. Each round doubles the columns that lie together.
ZNN_INLINE void transpose(vf (&rows)[LANES]) {
  for (int round = 1; round < LANES; round *= 2) {
    vf old[LANES];
    for (int r = 0; r < LANES; r++) old[r] = rows[r];
    for (int r = 0; r < LANES / 2; r++) {
      rows[2 * r] = interleave(old[r], old[r + LANES / 2], false);
      rows[2 * r + 1] = interleave(old[r], old[r + LANES / 2], true);
    }
  }
}

// The same pointer, of unknown origin: keeps the compiler from giving every address a register of its own.
ZNN_INLINE const float* opaque(const float* p) {
  asm("" : "+r"(p));
  return p;
}

// The same vector, loaded once: the compiler would load it again for every use.
ZNN_INLINE vf in_register(vf v) {
#if defined(__x86_64__)
  asm("" : "+v"(v));
#elif defined(__aarch64__)
  asm("" : "+w"(v));
#endif
  return v;
}

// The next value, or `Group` values over and over, in all lanes.
template <int Group>
ZNN_INLINE vf broadcast(const float* p) {
  if constexpr (Group == 1) {
    return *p - (vf){};  // not a sum, which would have to turn -0 to 0
  } else {
    typedef double vd __attribute__((vector_size(LANES * 4)));
    double both;
    __builtin_memcpy(&both, p, sizeof both);
    return (vf)(both - (vd){});
  }
}

// ---- parities

// Sums and differences of opposite taps, in place, along an axis of k taps; or back from them, up to a factor that
// makes the two steps each other's transpose.
template <bool Back>
ZNN_INLINE void mirror(float* t, int k, size_t stride) {
  for (int j = 0; j < k / 2; j++) {
    float *p = t + j * stride, *q = t + (k - 1 - j) * stride;
    const vf a = load(p), b = load(q);
    store(p, Back ? a - b : a + b);
    store(q, Back ? b + a : b - a);
  }
}

// The same along all axes, for a slab's taps (z, vector, x, y): those of a sum lie together, as they are summed often.
template <bool Back>
static inline void mirror_all(float* taps, Size k, size_t lanes) {
  const size_t column = k.y * LANES, square = k.x * column, plane = k.y * k.x * lanes;
  for (size_t q = 0; q < plane; q += LANES) mirror<Back>(taps + q, k.z, plane);
  for (size_t q = 0; q < k.z * plane; q += square)
    for (size_t j = 0; j < column; j += LANES) mirror<Back>(taps + q + j, k.x, column);
  for (size_t q = 0; q < k.z * plane; q += column) mirror<Back>(taps + q, k.y, LANES);
}

// Calls body(tap, place, step) for all taps (z, y, x): where its vectors begin in a slab's, and how far apart they are.
template <typename Body>
ZNN_INLINE void in_taps(Size k, size_t lanes, const Body& body) {
  const size_t area = (size_t)k.y * k.x;
  for (int z = 0; z < k.z; z++)
    for (int y = 0; y < k.y; y++)
      for (int x = 0; x < k.x; x++) body(z * area + y * k.x + x, z * area * lanes + (x * k.y + y) * LANES, area * LANES);
}

}  // namespace znn::ZNN_ISA
