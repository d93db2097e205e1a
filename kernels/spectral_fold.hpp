// From taps to the frequencies of a spectral product, an axis at a time; see spectral.hpp.
#pragma once
#include "spectral.hpp"

namespace znn::ZNN_ISA {

// Calls body(q, Count<number of vectors at q>) all over `lanes`.
template <typename Body>
ZNN_INLINE void in_steps(size_t lanes, const Body& body) {
  size_t q = 0;
  for (; q + AT_ONCE * LANES <= lanes; q += AT_ONCE * LANES) body(q, Count<AT_ONCE>());
  for (; q < lanes; q += LANES) body(q, Count<1>());
}

// sum = sum over j < n of c[j] * in[j * stride], for U vectors.
template <int U>
ZNN_INLINE void fold(int n, const float* c, const float* in, size_t stride, vf (&sum)[U]) {
  for (int u = 0; u < U; u++) sum[u] = (vf){};
  for (int j = 0; j < n; j++, in += stride)
#pragma GCC unroll 4
    for (int u = 0; u < U; u++) sum[u] += c[j] * load(in + u * LANES);
}

// The same for two vectors and F frequencies, whose rows of c are `row` apart; vectors of a sum lie together.
template <int F>
ZNN_INLINE void fold_two(int n, const float* c, size_t row, const float* a, const float* b, vf (&sum_a)[F], vf (&sum_b)[F]) {
  for (int f = 0; f < F; f++) sum_a[f] = sum_b[f] = (vf){};
#pragma GCC unroll 4
  for (int j = 0; j < n; j++, a += LANES, b += LANES, c++) {
    const vf part_a = in_register(load(a)), part_b = in_register(load(b));
#pragma GCC unroll 4
    for (int f = 0; f < F; f++) {
      sum_a[f] += c[f * row] * part_a;
      sum_b[f] += c[f * row] * part_b;
    }
  }
}

template <int U>
ZNN_INLINE void store_all(float* to, const vf (&v)[U]) {
  for (int u = 0; u < U; u++) store(to + u * LANES, v[u]);
}

// Along z, from taps to the even and the odd part at one fz.
template <int U>
ZNN_INLINE void fold_z(Count<U>, const Row& row, const float* taps, size_t plane, float* even, float* odd) {
  vf p[U], q[U];
  fold(evens(row.k), row.cosines(), taps, plane, p);
  fold(row.k / 2, row.sines(), taps + evens(row.k) * plane, plane, q);
  store_all(even, p);
  store_all(odd, q);
}

// Along y, from a vector's even and odd part (y) to its complex lines (2, re and im) at (fz, fy) and (fz, -fy), for fy to
// fy + F - 1, each a `step` apart.
template <int F>
ZNN_INLINE void fold_y(const AxisTaps& y, int fy, const float* even, const float* odd, size_t line, float* to, size_t step) {
  const int n = evens(y.k);
  const Row row = y.row(fy);
  vf pp[F], pq[F], qp[F], qq[F];
  fold_two(n, row.cosines(), y.k + 2, even, odd, pp, qp);
  fold_two(y.k / 2, row.sines(), y.k + 2, even + n * LANES, odd + n * LANES, pq, qq);
#pragma GCC unroll 4
  for (int f = 0; f < F; f++, to += 2 * step) {
    store(to, pp[f] - qq[f]);
    store(to + line, pq[f] + qp[f]);
    store(to + step, pp[f] + qq[f]);
    store(to + step + line, qp[f] - pq[f]);
  }
}

// The same where there is no odd part, and (fz, -fy) is the mirror of (fz, fy): for two vectors, `second` the other's place.
template <int F>
ZNN_INLINE void fold_y_even(const AxisTaps& y, int fy, const float* even, size_t second, size_t line, float* to, size_t step) {
  const int n = evens(y.k);
  const Row row = y.row(fy);
  vf p[2][F], q[2][F];
  fold_two(n, row.cosines(), y.k + 2, even, even + second * y.k, p[0], p[1]);
  fold_two(y.k / 2, row.sines(), y.k + 2, even + n * LANES, even + n * LANES + second * y.k, q[0], q[1]);
#pragma GCC unroll 4
  for (int f = 0; f < F; f++, to += 2 * step)
    for (int v = 0; v < 2; v++) {
      store(to + v * second, p[v][f]);
      store(to + v * second + line, q[v][f]);
    }
}

// The same for all vectors of a line.
template <int F>
static void fold_line(Count<F>, const AxisTaps& y, int fy, const float* even, const float* odd, size_t line, float* to, size_t step) {
  if (odd)
    for (size_t q = 0; q < line; q += LANES) fold_y<F>(y, fy, even + q * y.k, odd + q * y.k, line, to + q, step);
  else
    for (size_t q = 0; q < line; q += 2 * LANES) fold_y_even<F>(y, fy, even + q * y.k, q + LANES < line ? LANES : 0, line, to + q, step);
}

// Along x, from the parts (vector, x) of a line to the spectra (vector, frequency, line, re and im) at fx to fx + F - 1.
template <int F>
ZNN_INLINE void fold_x(int k, const Row& row, const float* re, const float* im, size_t lanes, bool pair, float* to) {
  const int n = evens(k);
  for (size_t q = 0; q < lanes; q += LANES, re += k * LANES, im += k * LANES) {
    vf p_re[F], p_im[F], q_re[F], q_im[F];
    fold_two(n, row.cosines(), row.k + 2, re, im, p_re, p_im);
    fold_two(k / 2, row.sines(), row.k + 2, re + n * LANES, im + n * LANES, q_re, q_im);
#pragma GCC unroll 4
    for (int f = 0; f < F; f++, to += 4 * LANES) {
      store(to, p_re[f] - q_im[f]);
      store(to + LANES, p_im[f] + q_re[f]);
      if (!pair) continue;
      store(to + 2 * LANES, p_re[f] + q_im[f]);
      store(to + 3 * LANES, q_re[f] - p_im[f]);
    }
  }
}

// The same; the compiler lays out the sums of the usual few taps.
template <int F>
static void fold_x(Count<F>, const Row& row, const float* re, const float* im, size_t lanes, bool pair, float* to) {
  if (row.k == 3) return fold_x<F>(3, row, re, im, lanes, pair, to);
  if (row.k == 5) return fold_x<F>(5, row, re, im, lanes, pair, to);
  if (row.k == 7) return fold_x<F>(7, row, re, im, lanes, pair, to);
  fold_x<F>(row.k, row, re, im, lanes, pair, to);
}

}  // namespace znn::ZNN_ISA
