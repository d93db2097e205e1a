// The gradient of the kernel of a spectral convolution: at every frequency outer products over the batch, contracted
// at once to the taps. It is the transpose of what spectral_product does; see spectral.hpp.
#include "spectral.hpp"

namespace znn::ZNN_ISA {

constexpr int MAX_ROWS = REGISTERS == 32 ? 12 : 4;

// One frequency's output gradients for a slab, times the conjugate of a factor: (batch, 2, LANES).
static void pack_rows(const SpectralGradient& a, const Slab& slab, size_t index, Complex factor, float* rows) {
  const size_t out = a.out_channels, plane = a.batch * out;
  const float* d = a.d_out + index * 2 * plane + slab.first;
  for (int b = 0; b < a.batch; b++, d += out, rows += 2 * LANES) {
    vf re = load_first(d, slab.outs), im = load_first(d + plane, slab.outs);
    if (slab.group == 2) re = interleave(re, re, false), im = interleave(im, im, false);
    store(rows, factor.re * re + factor.im * im);
    store(rows + LANES, factor.re * im - factor.im * re);
  }
}

// g[i, o] = sum over the batch of x[b, i] * conj(d[b, o]) for R vectors of input channels.
template <int Group, int R>
static void outer(const SpectralGradient& a, const float* x, const float* rows, float* g_re, float* g_im) {
  constexpr int U = R == 1 ? 4 : R <= 3 ? 2 : 1;  // sums side by side, where there are few channels
  const size_t channels = a.in_channels, plane = a.batch * channels;
  vf re[U][R], im[U][R];
  for (int u = 0; u < U; u++)
    for (int i = 0; i < R; i++) re[u][i] = im[u][i] = (vf){};
  const auto step = [&](int u) __attribute__((always_inline)) {
    const vf r = load(rows), m = load(rows + LANES);
#pragma GCC unroll 16
    for (int i = 0; i < R; i++) {
      const vf c = broadcast<Group>(x + i * Group), s = broadcast<Group>(x + plane + i * Group);
      re[u][i] += c * r;
      im[u][i] += s * r;
      re[u][i] += s * m;
      im[u][i] -= c * m;
    }
    x += channels, rows += 2 * LANES;
  };
  int left = a.batch;
  for (; left >= U; left -= U)
#pragma GCC unroll 4
    for (int u = 0; u < U; u++) step(u);
  if constexpr (U > 1)
    for (; left > 0; left--) step(0);
#pragma GCC unroll 16
  for (int i = 0; i < R; i++) {
#pragma GCC unroll 4
    for (int u = 1; u < U; u++) re[0][i] += re[u][i], im[0][i] += im[u][i];
    store(g_re + i * LANES, re[0][i]);
    store(g_im + i * LANES, im[0][i]);
  }
}

template <int Group, int R>
static void outer_of(int n, const SpectralGradient& a, const float* x, const float* rows, float* g_re, float* g_im) {
  if (n == R) return outer<Group, R>(a, x, rows, g_re, g_im);
  if constexpr (R > 1) outer_of<Group, R - 1>(n, a, x, rows, g_re, g_im);
}

// The outer products of one frequency and slab: g is (2, in, LANES).
static void outer_all(const SpectralGradient& a, const Slab& slab, size_t index, Complex factor, float* rows, float* g) {
  pack_rows(a, slab, index, factor, rows);
  const float* x = a.image + index * 2 * a.batch * a.in_channels;
  int left = a.in_channels / slab.group;
  for (int parts = ceil_div(left, MAX_ROWS); parts > 0; parts--) {
    const int n = ceil_div(left, parts);
    if (slab.group == 1) outer_of<1, MAX_ROWS>(n, a, x, rows, g, g + slab.lanes);
    if (slab.group == 2) outer_of<2, MAX_ROWS>(n, a, x, rows, g, g + slab.lanes);
    left -= n, x += n * slab.group, g += n * LANES;
  }
}

// ---- memory

static bool even(const SpectralGradient& a) { return a.in_channels % 2 == 0; }
static Slab slab_of(const SpectralGradient& a, int s) { return slab_of(s, a.in_channels, a.out_channels, even(a)); }

struct GradientWorkspace {
  float *rows, *products, *taps, *even_z, *odd_z, *lines[2];
  size_t size;

  GradientWorkspace(const SpectralGradient& a) : size(0) {
    const Size k = a.kernel;
    const size_t all = all_lanes(a.in_channels, a.out_channels, even(a));
    rows = take(a, 2 * (size_t)a.batch * LANES);
    products = take(a, (size_t)AT_ONCE * 4 * a.in_channels * LANES);
    if (a.stored) return;
    taps = take(a, k.voxels() * all);
    even_z = take(a, (size_t)k.y * k.x * all);
    odd_z = take(a, (size_t)k.y * k.x * all);
    for (float*& line : lines) line = take(a, 2 * k.x * all);
  }

 private:
  float* take(const SpectralGradient& a, size_t n) {
    float* p = a.scratch ? a.scratch + size : nullptr;
    size += (n + 15) / 16 * 16;
    return p;
  }
};

size_t spectral_gradient_scratch(const SpectralGradient& a) {
  SpectralGradient unplaced = a;
  unplaced.scratch = nullptr;
  return GradientWorkspace(unplaced).size;
}

// A slab's vectors as the part it is of an (in, out) matrix.
static void unpack(const SpectralGradient& a, const Slab& slab, const float* from, float* to) {
  const size_t out = a.out_channels;
  to += slab.first;
  for (int i = 0; i < a.in_channels; i += slab.group, from += LANES, to += slab.group * out)
    if (slab.group == 1)
      store_first(to, load(from), slab.outs);
    else
      for (int o = 0; o < slab.outs; o++) to[o] = from[2 * o], to[out + o] = from[2 * o + 1];
}

// ---- the way back from frequencies to taps

// Along x: the sums of F frequencies' products, of both lines, to the parts (re, im) of a line.
template <int F>
static void spread_x(const Axis& x, int fx, const float* g, size_t lanes, bool pair, float* re, float* im) {
  const int n = evens(x.k);
  for (size_t q = 0; q < lanes; q += LANES) {
    vf e_re[F], e_im[F], o_re[F], o_im[F];
    for (int f = 0; f < F; f++) {
      const float* p = g + 4 * f * lanes + q;
      const vf a_re = load(p), a_im = load(p + lanes);
      const vf b_re = pair ? load(p + 2 * lanes) : (vf){}, b_im = pair ? load(p + 3 * lanes) : (vf){};
      e_re[f] = a_re + b_re, e_im[f] = a_im - b_im;
      o_re[f] = -(a_im + b_im), o_im[f] = a_re - b_re;
    }
    for (int j = 0; j < x.k; j++) {
      float *to_re = re + j * lanes + q, *to_im = im + j * lanes + q;
      vf r = fx ? load(to_re) : (vf){}, i = fx ? load(to_im) : (vf){};
#pragma GCC unroll 4
      for (int f = 0; f < F; f++) {
        const float c = x.row(fx + f).c[j];
        r += c * (j < n ? e_re[f] : o_re[f]);
        i += c * (j < n ? e_im[f] : o_im[f]);
      }
      store(to_re, r);
      store(to_im, i);
    }
  }
}

template <int F>
static void spread_x_of(int n, const Axis& x, int fx, const float* g, size_t lanes, bool pair, float* re, float* im) {
  if (n == F) return spread_x<F>(x, fx, g, lanes, pair, re, im);
  if constexpr (F > 1) spread_x_of<F - 1>(n, x, fx, g, lanes, pair, re, im);
}

// Along y: adds the lines at (fz, fy) and, unless null, (fz, -fy) to the even and, unless null, the odd part of fz.
static void spread_y(const Row& row, bool first, const float* plus, const float* minus, size_t line, float* even, float* odd) {
  const int n = evens(row.k);
  for (size_t q = 0; q < line; q += LANES) {
    const vf a_re = load(plus + q), a_im = load(plus + line + q);
    const vf b_re = minus ? load(minus + q) : (vf){}, b_im = minus ? load(minus + line + q) : (vf){};
    const vf c_re = a_re + b_re, c_im = -(a_im + b_im), s_re = b_im - a_im, s_im = b_re - a_re;
    for (int j = 0; j < row.k; j++) {
      float* to = even + j * line + q;
      store(to, (first ? (vf){} : load(to)) + row.c[j] * (j < n ? c_re : s_re));
      if (odd == nullptr) continue;
      to = odd + j * line + q;
      store(to, (first ? (vf){} : load(to)) + row.c[j] * (j < n ? c_im : s_im));
    }
  }
}

static void spread_z(const Row& row, bool first, const float* even, const float* odd, size_t plane, float* taps) {
  const int n = evens(row.k);
  for (int j = 0; j < row.k; j++, taps += plane) {
    const float* from = j < n ? even : odd;
    for (size_t q = 0; q < plane; q += LANES)
      store(taps + q, (first ? (vf){} : load(taps + q)) + row.c[j] * load(from + q));
  }
}

static void lines_products(const SpectralGradient& a, const GradientWorkspace& w, const Axis& x, const Lines& lines, float* to) {
  const float scale = 1.0f / a.transform.voxels();
  for (int s = 0; s < n_slabs(a.out_channels); s++) {
    const Slab slab = slab_of(a, s);
    const size_t m = slab.lanes;
    float* re = to + 2 * x.k * slab.before;
    for (int fx = 0; fx < half(x.n); fx += AT_ONCE) {
      const int n = min_of(AT_ONCE, half(x.n) - fx);
      for (int f = 0; f < n; f++) {
        // A frequency off the edges of the half spectrum stands for itself and its conjugate.
        const float weight = is_own_mirror(fx + f, x.n) ? scale : 2 * scale;
        const Complex phase = x.row(fx + f).phase() * Complex{weight, 0.0f};
        outer_all(a, slab, lines.a + fx + f, lines.phase_a * phase, w.rows, w.products + 4 * f * m);
        if (lines.pair)
          outer_all(a, slab, lines.b + fx + f, lines.phase_b * phase, w.rows, w.products + (4 * f + 2) * m);
      }
      spread_x_of<AT_ONCE>(n, x, fx, w.products, m, lines.pair, re, re + x.k * m);
    }
  }
}

static void gradient_stored(const SpectralGradient& a, const GradientWorkspace& w) {
  const size_t n = (size_t)a.transform.z * a.transform.y * half(a.transform.x);
  const size_t matrix = (size_t)a.in_channels * a.out_channels;
  for (size_t f = 0; f < n; f++)
    for (int s = 0; s < n_slabs(a.out_channels); s++) {
      const Slab slab = slab_of(a, s);
      outer_all(a, slab, f, {1.0f, 0.0f}, w.rows, w.products);
      unpack(a, slab, w.products, a.d_kernel + 2 * f * matrix);
      unpack(a, slab, w.products + slab.lanes, a.d_kernel + (2 * f + 1) * matrix);
    }
}

static void taps_of(const SpectralGradient& a, const GradientWorkspace& w) {
  for (int s = 0; s < n_slabs(a.out_channels); s++) {
    const Slab slab = slab_of(a, s);
    float* taps = w.taps + a.kernel.voxels() * slab.before;
    mirror_all<true>(taps, a.kernel, slab.lanes);
    for (size_t t = 0; t < a.kernel.voxels(); t++)
      unpack(a, slab, taps + t * slab.lanes, a.d_kernel + t * a.in_channels * a.out_channels);
  }
}

void spectral_gradient(const SpectralGradient& a) {
  const GradientWorkspace w(a);
  if (a.stored) return gradient_stored(a, w);
  const Axis z{a.transform.z, a.kernel.z, a.twiddles.z}, y{a.transform.y, a.kernel.y, a.twiddles.y},
      x{a.transform.x, a.kernel.x, a.twiddles.x};
  const size_t area = (size_t)y.k * x.k;
  for (int fz = 0; fz < half(z.n); fz++) {
    for (int fy = 0; fy < half(y.n); fy++) {
      const bool minus = has_minus(z, y, fz, fy);
      lines_products(a, w, x, lines_of(z, y, x.n, fz, fy, false), w.lines[0]);
      if (minus) lines_products(a, w, x, lines_of(z, y, x.n, fz, fy, true), w.lines[1]);
      for (int s = 0; s < n_slabs(a.out_channels); s++) {
        const Slab slab = slab_of(a, s);
        const size_t at = 2 * x.k * slab.before;
        spread_y(y.row(fy), fy == 0, w.lines[0] + at, minus ? w.lines[1] + at : nullptr, x.k * slab.lanes,
                 w.even_z + area * slab.before, w.odd_z + area * slab.before);
      }
    }
    for (int s = 0; s < n_slabs(a.out_channels); s++) {
      const Slab slab = slab_of(a, s);
      const size_t at = area * slab.before;
      spread_z(z.row(fz), fz == 0, w.even_z + at, w.odd_z + at, area * slab.lanes, w.taps + z.k * at);
    }
  }
  taps_of(a, w);
}

}  // namespace znn::ZNN_ISA
