// The way back, from the frequencies of a spectral gradient to taps, an axis at a time; see spectral.hpp.
#pragma once
#include "spectral.hpp"

namespace znn::ZNN_ISA {

// to[j * stride] += sum over f < F of c[f * row + j] * part[f], for j < n; the first time it is not read.
template <int F>
ZNN_INLINE void add_parts(int n, bool first, const float* c, size_t row, const vf (&part)[F], float* to, size_t stride) {
  for (int j = 0; j < n; j++, to += stride, c++) {
    vf sum = first ? (vf){} : load(to);
#pragma GCC unroll 4
    for (int f = 0; f < F; f++) sum += c[f * row] * part[f];
    store(to, sum);
  }
}

// The same for two sums, whose vectors lie together.
template <int F>
ZNN_INLINE void add_two(int n, bool first, const float* c, size_t row, const vf (&part_a)[F], const vf (&part_b)[F], float* a, float* b) {
#pragma GCC unroll 4
  for (int j = 0; j < n; j++, a += LANES, b += LANES, c++) {
    vf sum_a = first ? (vf){} : load(a), sum_b = first ? (vf){} : load(b);
#pragma GCC unroll 8
    for (int f = 0; f < F; f++) {
      sum_a += c[f * row] * part_a[f];
      sum_b += c[f * row] * part_b[f];
    }
    store(a, sum_a);
    store(b, sum_b);
  }
}

// Along x: adds products g (vector, F frequencies, line, re and im) to the parts (re, im) of a line.
template <int F>
ZNN_INLINE void spread_x(int k, const Row& row, bool first, const float* g, int vectors, bool pair, float* re, float* im) {
  const int n = evens(k);
  for (; vectors > 0; vectors--, re += k * LANES, im += k * LANES) {
    vf e_re[F], e_im[F], o_re[F], o_im[F];
#pragma GCC unroll 8
    for (int f = 0; f < F; f++, g += 4 * LANES) {
      const vf a_re = load(g), a_im = load(g + LANES);
      const vf b_re = pair ? load(g + 2 * LANES) : (vf){}, b_im = pair ? load(g + 3 * LANES) : (vf){};
      e_re[f] = a_re + b_re, e_im[f] = a_im - b_im;
      o_re[f] = -(a_im + b_im), o_im[f] = a_re - b_re;
    }
    add_two(n, first, row.cosines(), row.k + 2, e_re, e_im, re, im);
    add_two(k / 2, first, row.sines(), row.k + 2, o_re, o_im, re + n * LANES, im + n * LANES);
  }
}

// The same; the compiler lays out the sums of the usual few taps.
template <int F>
static void spread_x(Count<F>, const Row& row, bool first, const float* g, int vectors, bool pair, float* re, float* im) {
  if (row.k == 3) return spread_x<F>(3, row, first, g, vectors, pair, re, im);
  if (row.k == 5) return spread_x<F>(5, row, first, g, vectors, pair, re, im);
  if (row.k == 7) return spread_x<F>(7, row, first, g, vectors, pair, re, im);
  spread_x<F>(row.k, row, first, g, vectors, pair, re, im);
}

// The sums that a cosine and a sine meet along y, of the lines (2, re and im) at fy to fy + F - 1, a `step` apart.
template <int F>
struct Parts {
  vf c_re[F], c_im[F], s_re[F], s_im[F];
  __attribute__((always_inline)) Parts(const float* lines, size_t step, const bool* minus, size_t line) {
#pragma GCC unroll 4
    for (int f = 0; f < F; f++) {
      const float *a = lines + 2 * f * step, *b = a + step;
      const vf a_re = load(a), a_im = load(a + line);
      const vf b_re = minus[f] ? load(b) : (vf){}, b_im = minus[f] ? load(b + line) : (vf){};
      c_re[f] = a_re + b_re, c_im[f] = -(a_im + b_im);
      s_re[f] = b_im - a_im, s_im[f] = b_re - a_re;
    }
  }
};

// Along y: adds those lines to the parts of fz (vector, y).
template <int F>
static void spread_y(Count<F>, const AxisTaps& y, int fy, const float* lines, size_t step, const bool* minus, size_t line, float* even,
                     float* odd) {
  const int n = evens(y.k);
  const bool first = fy == y.first;
  const Row row = y.row(fy);
  if (odd)
    for (size_t q = 0; q < line; q += LANES) {
      const Parts<F> p(lines + q, step, minus, line);
      float *e = even + q * y.k, *o = odd + q * y.k;
      add_two(n, first, row.cosines(), y.k + 2, p.c_re, p.c_im, e, o);
      add_two(y.k / 2, first, row.sines(), y.k + 2, p.s_re, p.s_im, e + n * LANES, o + n * LANES);
    }
  else
    for (size_t q = 0; q < line; q += 2 * LANES) {
      const size_t second = q + LANES < line ? LANES : 0;  // the last vector may have none beside it
      const Parts<F> p(lines + q, step, minus, line), r(lines + q + second, step, minus, line);
      float *a = even + q * y.k, *b = a + second * y.k;
      add_two(n, first, row.cosines(), y.k + 2, p.c_re, r.c_re, a, b);
      add_two(y.k / 2, first, row.sines(), y.k + 2, p.s_re, r.s_re, a + n * LANES, b + n * LANES);
    }
}

// Along z: adds the parts at fz to fz + F - 1, a `step` apart, to the taps.
template <int F>
static void spread_z(Count<F>, const AxisTaps& z, int fz, const float* even, const float* odd, size_t step, size_t plane,
                     float* taps) {
  const int n = evens(z.k);
  const bool first = fz == z.first;
  const Row row = z.row(fz);
  for (size_t q = 0; q < plane; q += LANES) {
    vf p[F], o[F];
    for (int f = 0; f < F; f++) p[f] = load(even + f * step + q);
    add_parts(n, first, row.cosines(), z.k + 2, p, taps + q, plane);
    if (z.k == 1) continue;
    for (int f = 0; f < F; f++) o[f] = load(odd + f * step + q);
    add_parts(z.k / 2, first, row.sines(), z.k + 2, o, taps + n * plane + q, plane);
  }
}

}  // namespace znn::ZNN_ISA
