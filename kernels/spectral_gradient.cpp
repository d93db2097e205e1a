// The gradient of the kernel of a spectral convolution: at every frequency outer products over the batch, contracted
// at once to the taps. It is the transpose of what spectral_product does; see spectral.hpp.
#include "spectral_spread.hpp"

namespace znn::ZNN_ISA {

constexpr int TOGETHER = 8;  // frequencies of a line whose output gradients are packed at once, at most
constexpr int PLANES = 2;  // of frequencies that wait to be added to the taps
constexpr int MAX_ROWS = REGISTERS == 32 ? 12 : 4;

// n frequencies' output gradients for a slab, times the conjugates of factors: (batch, 2, LANES) each, `size` floats apart.
// Those at `ahead` are asked for.
template <typename Load>
ZNN_INLINE void pack_rows(const SpectralGradient& a, const float* d, const float* ahead, int n, const Complex* factors, float* rows,
                          size_t size, const Load& load_row) {
  const size_t out = a.out_channels, stride = (size_t)half(a.transform.x) * 2 * out;
  for (int b = 0; b < a.batch; b++, d += stride, ahead += stride, rows += 2 * LANES)
    for (int f = 0; f < n; f++) {
      const vf re = load_row(d + 2 * f * out), im = load_row(d + 2 * f * out + out);
      __builtin_prefetch(ahead + 2 * f * out);
      __builtin_prefetch(ahead + 2 * f * out + out);
      store(rows + f * size, factors[f].re * re + factors[f].im * im);
      store(rows + f * size + LANES, factors[f].re * im - factors[f].im * re);
    }
}

#define ZNN_LOAD [&](const float* p) __attribute__((always_inline))

static void pack_rows(const SpectralGradient& a, const Slab& slab, Place p, Place next, int n, const Complex* factors, float* rows,
                      size_t size) {
  const int length = half(a.transform.x);
  const float* d = a.d_out + at(p, 0, a.batch, length, a.out_channels) + slab.first;
  const float* ahead = a.d_out + at(next, 0, a.batch, length, a.out_channels) + slab.first;
  if (slab.outs == LANES) {
    pack_rows(a, d, ahead, n, factors, rows, size, ZNN_LOAD { return load(p); });
  } else if (slab.group == 1) {
    pack_rows(a, d, ahead, n, factors, rows, size, ZNN_LOAD { return load_first(p, slab.outs); });
  } else {
    pack_rows(a, d, ahead, n, factors, rows, size, ZNN_LOAD {
      const vf v = load_first(p, slab.outs);
      return interleave(v, v, false);
    });
  }
}

// The outer products of one frequency and some vectors of input channels.
struct Outer {
  const float *x, *next;  // what is asked for ahead: the same part of a later frequency
  const float* rows;      // output gradients, (batch, 2, LANES)
  float* to;              // of a vector re, then im
};

// Those that are made one after the other; `step` from a vector's product to that of the next.
struct Outers {
  const SpectralGradient* a;
  size_t step;
  int n;
  Outer all[2 * AT_ONCE];
};

// g[i, o] = sum over the batch of x[b, i] * conj(d[b, o]) for R vectors of input channels.
template <int Group, int R>
ZNN_INLINE void outer(const SpectralGradient& a, const Outer& o, size_t step_size) {
  constexpr int U = R == 1 ? 4 : R <= 3 ? 2 : 1;  // sums side by side, where there are few channels
  const size_t channels = a.in_channels, stride = (size_t)half(a.transform.x) * 2 * channels;
  vf re[U][R], im[U][R];
  for (int u = 0; u < U; u++)
    for (int i = 0; i < R; i++) re[u][i] = im[u][i] = (vf){};
  const float *x = o.x, *next = o.next, *rows = o.rows;
  const auto step = [&](int u) __attribute__((always_inline)) {
    const vf r = load(rows), m = load(rows + LANES);
#pragma GCC unroll 16
    for (int i = 0; i < R; i++) {
      const vf c = broadcast<Group>(x + i * Group), s = broadcast<Group>(x + channels + i * Group);
      re[u][i] += c * r;
      im[u][i] += s * r;
      re[u][i] += s * m;
      im[u][i] -= c * m;
    }
#pragma GCC unroll 4
    for (int j = 0; j < 2 * R * Group; j += 16) __builtin_prefetch(next + j);
    x += stride, next += stride, rows += 2 * LANES;
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
    store(o.to + i * step_size, re[0][i]);
    store(o.to + i * step_size + LANES, im[0][i]);
  }
}

template <int Group, int R>
static void outer_each(Count<R>, const Outers& o) {
  for (int j = 0; j < o.n; j++) outer<Group, R>(*o.a, o.all[j], o.step);
}

// ---- memory

static bool even(const SpectralGradient& a) { return a.in_channels % 2 == 0; }
static Slab slab_of(const SpectralGradient& a, int s) { return slab_of(s, a.in_channels, a.out_channels, even(a)); }

static size_t row_size(const SpectralGradient& a) { return 2 * (size_t)a.batch * LANES; }
static size_t line_size(const SpectralGradient& a) {
  return 2 * a.kernel.x * all_lanes(a.in_channels, a.out_channels, even(a));
}

static size_t plane_size(const SpectralGradient& a) { return line_size(a) / 2 * a.kernel.y; }

struct GradientWorkspace {
  float *rows, *products, *taps, *even_z, *odd_z, *lines;
  size_t size;

  GradientWorkspace(const SpectralGradient& a) : size(0) {
    const Size k = a.kernel;
    const size_t all = all_lanes(a.in_channels, a.out_channels, even(a));
    rows = take(a, 2 * TOGETHER * row_size(a));
    products = take(a, (size_t)AT_ONCE * 4 * MAX_ROWS * LANES);
    if (a.stored) return;
    taps = take(a, k.voxels() * all);
    even_z = take(a, PLANES * k.y * k.x * all);
    odd_z = take(a, PLANES * k.y * k.x * all);
    lines = take(a, 2 * AT_ONCE * line_size(a));
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

// The even lanes, then the odd ones, of which `outs` count.
ZNN_INLINE void store_pair(vf v, int outs, float* even, float* odd) {
  typedef uint64_t vu __attribute__((vector_size(LANES * 4)));
  typedef uint32_t half_vu __attribute__((vector_size(LANES * 2)));
  const half_vu a = __builtin_convertvector((vu)v, half_vu), b = __builtin_convertvector((vu)v >> 32, half_vu);
  for (int o = 0; o < 2; o++) {
    vf whole = {};
    __builtin_memcpy(&whole, o ? &b : &a, sizeof a);
    store_first(o ? odd : even, whole, outs);
  }
}

// n vectors of a slab, `step` apart, as the part they are of an (in, out) matrix.
static void unpack(const SpectralGradient& a, const Slab& slab, int n, const float* from, size_t step, float* to) {
  const size_t out = a.out_channels;
  to += slab.first;
  for (int i = 0; i < n; i++, from += step, to += slab.group * out)
    if (slab.group == 1)
      store_first(to, load(from), slab.outs);
    else
      store_pair(load(from), slab.outs, to, to + out);
}

// ---- all frequencies

// Of n vectors of input channels, the first being i.
static void outer_all(const Slab& slab, int n, const Outers& o) {
  if (slab.group == 1) with_count<MAX_ROWS>(n, [&](auto r) { outer_each<1>(r, o); });
  if (slab.group == 2) with_count<MAX_ROWS>(n, [&](auto r) { outer_each<2>(r, o); });
}

static Outer outer_of(const SpectralGradient& a, const Slab& slab, Place p, Place next, int i, const float* rows, float* to) {
  const int length = half(a.transform.x), first = i * slab.group;
  const float* ahead = a.image + at(next, 0, a.batch, length, a.in_channels) + 2 * first;  // as much of both parts
  return {a.image + at(p, 0, a.batch, length, a.in_channels) + first, ahead, rows, to};
}

// Calls body(first vector, number of vectors) for parts of a slab's vectors of input channels that fit the registers.
template <typename Body>
ZNN_INLINE void in_parts(const SpectralGradient& a, const Slab& slab, const Body& body) {
  const int all = a.in_channels / slab.group, parts = ceil_div(all, MAX_ROWS);
  for (int p = 0, i = 0; p < parts; p++) {
    const int n = ceil_div(all - i, parts - p);
    body(i, n);
    i += n;
  }
}

// The output gradients of n frequencies from fx on, of both lines, for a slab.
static void pack_lines(const SpectralGradient& a, const GradientWorkspace& w, const AxisTaps& x, const Lines& lines, const Lines& next,
                       const Slab& slab, int fx, int n) {
  const float scale = 1.0f / a.transform.voxels();
  const size_t size = row_size(a);
  Complex factors_a[TOGETHER], factors_b[TOGETHER];
  for (int f = 0; f < n; f++) {
    // A frequency off the edges of the half spectrum stands for itself and its conjugate.
    const float weight = is_own_mirror(fx + f, x.n) ? scale : 2 * scale;
    const Complex phase = x.row(fx + f).phase() * Complex{weight, 0.0f};
    factors_a[f] = lines.phase_a * phase, factors_b[f] = lines.phase_b * phase;
  }
  for (int second = 0; second <= lines.pair; second++) {
    const Place ahead = lines.place(second, fx + n, half(x.n), next);
    const Complex* factors = second ? factors_b : factors_a;
    pack_rows(a, slab, lines.place(second, fx, half(x.n), next), ahead, n, factors, w.rows + second * size, 2 * size);
  }
}

// Adds n frequencies from fx on, of both lines, to a slab's parts of a line; their output gradients are packed at `rows`.
static void add_frequencies(const SpectralGradient& a, const GradientWorkspace& w, const AxisTaps& x, const Lines& lines,
                            const Lines& next, const Slab& slab, int fx, int n, const float* rows, float* line) {
  const size_t size = row_size(a);
  in_parts(a, slab, [&](int i, int vectors) {
    Outers outers = {&a, (size_t)n * 4 * LANES, 0, {}};
    for (int second = 0; second <= lines.pair; second++)
      for (int f = 0; f < n; f++) {
        const Place p = lines.place(second, fx + f, half(x.n), next), ahead = lines.place(second, fx + f + n, half(x.n), next);
        const float* row = rows + (2 * f + second) * size;
        outers.all[outers.n++] = outer_of(a, slab, p, ahead, i, row, w.products + (4 * f + 2 * second) * LANES);
      }
    outer_all(slab, vectors, outers);
    float *re = line + (size_t)i * x.k * LANES, *im = re + x.k * slab.lanes;
    with_count<AT_ONCE>(n, [&](auto c) { spread_x(c, x.row(fx), fx == 0, w.products, vectors, lines.pair, re, im); });
  });
}

static void add_lines(const SpectralGradient& a, const GradientWorkspace& w, const AxisTaps& x, const Lines& lines, const Lines& next,
                      float* to) {
  in_pieces(half(x.n), TOGETHER, [&](int first, int n) {
    for (int s = 0; s < n_slabs(a.out_channels); s++) {
      const Slab slab = slab_of(a, s);
      pack_lines(a, w, x, lines, next, slab, first, n);
      for (int f = 0; f < n; f += AT_ONCE)
        add_frequencies(a, w, x, lines, next, slab, first + f, min_of(AT_ONCE, n - f), w.rows + 2 * f * row_size(a),
                        to + 2 * x.k * slab.before);
    }
  });
}

static void gradient_stored(const SpectralGradient& a, const GradientWorkspace& w) {
  const size_t length = half(a.transform.x), n = a.transform.z * a.transform.y * length;
  const size_t matrix = (size_t)a.in_channels * a.out_channels;
  for (size_t f = 0; f < n; f++) {
    const Place place = {f / length, (int)(f % length)}, next = {(f + 1) / length, (int)((f + 1) % length)};
    for (int s = 0; s < n_slabs(a.out_channels); s++) {
      const Slab slab = slab_of(a, s);
      const Complex one = {1.0f, 0.0f};
      pack_rows(a, slab, place, next, 1, &one, w.rows, row_size(a));
      in_parts(a, slab, [&](int i, int n) {
        float* to = a.d_kernel + 2 * f * matrix + i * slab.group * a.out_channels;
        outer_all(slab, n, {&a, 2 * LANES, 1, {outer_of(a, slab, place, next, i, w.rows, w.products)}});
        unpack(a, slab, n, w.products, 2 * LANES, to);
        unpack(a, slab, n, w.products + LANES, 2 * LANES, to + matrix);
      });
    }
  }
}

static void taps_of(const SpectralGradient& a, const GradientWorkspace& w) {
  for (int s = 0; s < n_slabs(a.out_channels); s++) {
    const Slab slab = slab_of(a, s);
    float* taps = w.taps + a.kernel.voxels() * slab.before;
    mirror_all<true>(taps, a.kernel, slab.lanes);
    in_taps(a.kernel, slab.lanes, [&](size_t tap, size_t place, size_t step) {
      unpack(a, slab, a.in_channels / slab.group, taps + place, step, a.d_kernel + tap * a.in_channels * a.out_channels);
    });
  }
}

// Adds all frequencies at fz, and from fy on n rows of them, to the parts of fz.
static void add_y(const SpectralGradient& a, const GradientWorkspace& w, const AxisTaps& z, const AxisTaps& y, const AxisTaps& x, int fz,
                  int fy, int n) {
  bool minus[AT_ONCE];
  const size_t step = line_size(a), area = (size_t)y.k * x.k, plane = (fz - z.first) % PLANES * plane_size(a);
  for (int f = 0; f < n; f++) {
    float* to = w.lines + 2 * f * step;
    minus[f] = has_minus(z, y, fz, fy + f);
    const Lines plus = lines_of(z, y, fz, fy + f, false), after = lines_of(z, y, fz, min_of(fy + f + 1, y.last - 1), false);
    const Lines mirror = minus[f] ? lines_of(z, y, fz, fy + f, true) : after;
    add_lines(a, w, x, plus, mirror, to);
    if (minus[f]) add_lines(a, w, x, mirror, after, to + step);
  }
  for (int s = 0; s < n_slabs(a.out_channels); s++) {
    const Slab slab = slab_of(a, s);
    const float* lines = w.lines + 2 * x.k * slab.before;
    const size_t at = plane + area * slab.before;
    float *even_part = w.even_z + at, *odd_part = z.k == 1 ? nullptr : w.odd_z + at;
    with_count<AT_ONCE>(n, [&](auto c) { spread_y(c, y, fy, lines, step, minus, x.k * slab.lanes, even_part, odd_part); });
  }
}

static void add_z(const SpectralGradient& a, const GradientWorkspace& w, const AxisTaps& z, int fz, int n) {
  const size_t area = (size_t)a.kernel.y * a.kernel.x, step = plane_size(a);
  for (int s = 0; s < n_slabs(a.out_channels); s++) {
    const Slab slab = slab_of(a, s);
    const size_t at = area * slab.before;
    float* taps = w.taps + z.k * at;
    with_count<PLANES>(n, [&](auto c) { spread_z(c, z, fz, w.even_z + at, w.odd_z + at, step, area * slab.lanes, taps); });
  }
}

static void take_share(const SpectralGradient& a, AxisTaps& axis) {
  axis.first = half(axis.n) * a.share / a.n_shares;
  axis.last = half(axis.n) * (a.share + 1) / a.n_shares;
}

void spectral_gradient(const SpectralGradient& a) {
  const GradientWorkspace w(a);
  if (a.stored) return gradient_stored(a, w);
  AxisTaps z{a.transform.z, a.kernel.z, a.twiddles.z}, y{a.transform.y, a.kernel.y, a.twiddles.y};
  const AxisTaps x{a.transform.x, a.kernel.x, a.twiddles.x};
  take_share(a, z.n > 1 ? z : y);
  if (z.first == z.last || y.first == y.last) return fill_zero(a.d_kernel, a.kernel.voxels() * a.in_channels * a.out_channels);
  for (int fz = z.first; fz < z.last; fz++) {
    for (int fy = y.first; fy < y.last; fy += AT_ONCE) add_y(a, w, z, y, x, fz, fy, min_of(AT_ONCE, y.last - fy));
    const int n = (fz - z.first) % PLANES + 1;
    if (n == PLANES || fz + 1 == z.last) add_z(a, w, z, fz + 1 - n, n);
  }
  taps_of(a, w);
}

}  // namespace znn::ZNN_ISA
