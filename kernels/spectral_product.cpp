// Spectral products. The kernel is transformed on the fly, a line of frequencies at a time, multiplied with all input
// channels in registers, and forgotten. See spectral.hpp for the transform, spectral_fold.hpp for its loops.
#include "spectral_fold.hpp"

namespace znn::ZNN_ISA {

constexpr int MAX_BATCH = REGISTERS == 32 ? 12 : 4;

// The product at one frequency and slab: out[b, o] = phase * sum over blocks and i of x[b, i] * w[i, o], all complex.
struct Frequency {
  Place place, next;     // next: what is asked for ahead
  const float* weights;  // of an input channel re, then im
  Complex phase;
};

// Those that are multiplied one after the other.
struct Frequencies {
  const SpectralProduct* a;
  Slab slab;
  size_t step;  // from weights to those of the next input channel
  int n;
  Frequency all[2 * AT_ONCE];
};

// The sums of groups of lanes, as many floats as there are groups.
template <int Group>
ZNN_INLINE void store_sums(float* to, vf v) {
  if constexpr (Group == 1) {
    store(to, v);
  } else {
    typedef uint64_t vu __attribute__((vector_size(LANES * 4)));
    typedef uint32_t half_vu __attribute__((vector_size(LANES * 2)));
    const half_vu sums = __builtin_convertvector((vu)(v + (vf)((vu)v >> 32)), half_vu);
    __builtin_memcpy(to, &sums, sizeof sums);
  }
}

// Writes the products (re, im) of B entries, a `stride` apart, and asks for where the next frequency's will go, `ahead`.
template <int Group, int B>
ZNN_INLINE void store_products(const vf (&found)[B][2], int outs, size_t channels, size_t stride, float* y, const float* ahead) {
  for (int b = 0; b < B; b++) {
    __builtin_prefetch(ahead + b * stride, 1);
    __builtin_prefetch(ahead + b * stride + channels, 1);
  }
  if (outs * Group == LANES) {
#pragma GCC unroll 16
    for (int b = 0; b < B; b++) {
      store_sums<Group>(y + b * stride, found[b][0]);
      store_sums<Group>(y + b * stride + channels, found[b][1]);
    }
    return;
  }
  float sums[2 * B][LANES] = {};
#pragma GCC unroll 16
  for (int b = 0; b < B; b++) {
    store_sums<Group>(sums[2 * b], found[b][0]);
    store_sums<Group>(sums[2 * b + 1], found[b][1]);
  }
  for (int b = 0; b < B; b++, y += stride)
    for (int o = 0; o < outs; o++) y[o] = sums[2 * b][o], y[channels + o] = sums[2 * b + 1][o];
}

template <int Group, int B>
ZNN_INLINE void multiply(const SpectralProduct& a, const Slab& slab, size_t step_size, const Frequency& f, size_t first_batch) {
  constexpr int U = B == 1 ? 4 : B <= 4 ? 2 : 1;  // sums side by side, where there are few entries
  const int length = half(a.transform.x);
  vf re[U][B], im[U][B];
  for (int u = 0; u < U; u++)
    for (int b = 0; b < B; b++) re[u][b] = im[u][b] = (vf){};
  const float* w = f.weights;
  for (int block = 0; block < a.n_blocks; block++) {
    const size_t channels = a.blocks[block].channels, stride = (size_t)length * 2 * channels;
    const float* x = a.blocks[block].data + at(f.place, first_batch, a.batch, length, channels);
    const float* next = a.blocks[block].data + at(f.next, first_batch, a.batch, length, channels);  // two cache lines at a step
    size_t ahead = 0;
    int rows = B;
    // Every fourth entry has a pointer of its own, so that all addresses are a pointer and 0 to 3 strides.
    const float *xr[ceil_div(B, 4)], *xi[ceil_div(B, 4)];
    for (int p = 0; p < ceil_div(B, 4); p++) {
      xr[p] = opaque(x + 4 * p * stride);
      xi[p] = opaque(x + 4 * p * stride + channels);
    }
    const auto step = [&](int u) __attribute__((always_inline)) {
      const vf r = load(w), m = load(w + LANES);
#pragma GCC unroll 16
      for (int b = 0; b < B; b++) {
        const vf c = broadcast<Group>(xr[b / 4] + b % 4 * stride), s = broadcast<Group>(xi[b / 4] + b % 4 * stride);
        re[u][b] += c * r;
        im[u][b] += c * m;
        re[u][b] -= s * m;
        im[u][b] += s * r;
      }
      w += step_size;
      __builtin_prefetch(next + ahead);
      __builtin_prefetch(next + ahead + 16);
      ahead += 32;
      if (ahead >= 2 * channels) ahead = 0, next += --rows > 0 ? stride : 0;
      for (int p = 0; p < ceil_div(B, 4); p++) xr[p] += Group, xi[p] += Group;
    };
    size_t left = channels / Group;
    for (; left >= U; left -= U)
#pragma GCC unroll 4
      for (int u = 0; u < U; u++) step(u);
    if constexpr (U > 1)
      for (; left > 0; left--) step(0);
  }
  vf found[B][2];
#pragma GCC unroll 16
  for (int b = 0; b < B; b++) {
    vf r = re[0][b], m = im[0][b];
#pragma GCC unroll 4
    for (int u = 1; u < U; u++) r += re[u][b], m += im[u][b];
    found[b][0] = f.phase.re * r - f.phase.im * m;
    found[b][1] = f.phase.re * m + f.phase.im * r;
  }
  const size_t stride = (size_t)length * 2 * a.out_channels;
  float* y = a.out + at(f.place, first_batch, a.batch, length, a.out_channels) + slab.first;
  const float* ahead = a.out + at(f.next, first_batch, a.batch, length, a.out_channels) + slab.first;
  store_products<Group>(found, slab.outs, a.out_channels, stride, y, ahead);
}

template <int Group, int B>
static void multiply_each(const Frequencies& f, size_t first_batch) {
  for (int j = 0; j < f.n; j++) multiply<Group, B>(*f.a, f.slab, f.step, f.all[j], first_batch);
}

template <int Group, int B>
static void multiply_of(const Frequencies& f, int n, size_t first_batch) {
  if (n == B) return multiply_each<Group, B>(f, first_batch);
  if constexpr (B > 1) multiply_of<Group, B - 1>(f, n, first_batch);
}

static void multiply_all(const Frequencies& f) {
  int left = f.a->batch;
  for (int parts = ceil_div(left, MAX_BATCH); parts > 0; parts--) {
    const int n = ceil_div(left, parts);
    if (f.slab.group == 1) multiply_of<1, MAX_BATCH>(f, n, f.a->batch - left);
    if (f.slab.group == 2) multiply_of<2, MAX_BATCH>(f, n, f.a->batch - left);
    left -= n;
  }
}

// ---- weights

static size_t total_channels(const SpectralProduct& a) {
  size_t n = 0;
  for (int block = 0; block < a.n_blocks; block++) n += a.blocks[block].channels;
  return n;
}

static bool all_even(const SpectralProduct& a) {
  for (int block = 0; block < a.n_blocks; block++)
    if (a.blocks[block].channels % 2) return false;
  return true;
}

static Slab slab_of(const SpectralProduct& a, int s) {
  return slab_of(s, total_channels(a), a.out_channels, all_even(a));
}

// A slab's part of one tap (or one frequency plane) of every block, transposed if need be; its vectors are `step` apart.
static void pack(const SpectralProduct& a, const Slab& slab, size_t offset, bool turned, float* to, size_t step) {
  for (int block = 0; block < a.n_blocks; block++) {
    const int channels = a.blocks[block].channels, out = a.out_channels;
    const float* from = a.blocks[block].kernel + offset * channels * out;
    for (int i = 0; i < channels; i += LANES) {
      const int n = min_of(LANES, channels - i);
      vf rows[LANES];
      if (a.transpose) {
        for (int o = 0; o < LANES; o++)
          rows[o] = o < slab.outs ? load_first(from + (size_t)(slab.first + o) * channels + i, n) : (vf){};
        transpose(rows);
      } else {
        for (int j = 0; j < n; j++) rows[j] = load_first(from + (size_t)(i + j) * out + slab.first, slab.outs);
      }
      for (int j = 0; j < n; j += slab.group, to += step) {
        const vf v = slab.group == 1 ? rows[j] : interleave(rows[j], rows[j + 1], false);
        store(to, turned ? -v : v);
      }
    }
  }
}

// ---- the kernel's transform

// Of the lines, re and im, of all slabs.
static size_t line_size(const SpectralProduct& a) {
  return 2 * a.kernel.x * all_lanes(total_channels(a), a.out_channels, all_even(a));
}

struct ProductWorkspace {
  float *tables[3], *taps, *even_z, *odd_z, *lines, *weights;
  size_t size;

  ProductWorkspace(const SpectralProduct& a) : size(0) {
    const Size n = a.transform, k = a.kernel;
    const size_t in = total_channels(a), all = all_lanes(in, a.out_channels, all_even(a));
    weights = take(a, AT_ONCE * 4 * in * LANES);
    if (a.stored) return;
    tables[0] = take(a, (size_t)half(n.z) * (k.z + 2));
    tables[1] = take(a, (size_t)half(n.y) * (k.y + 2));
    tables[2] = take(a, (size_t)half(n.x) * (k.x + 2));
    taps = take(a, k.voxels() * all);
    even_z = take(a, (size_t)k.y * k.x * all);
    odd_z = take(a, (size_t)k.y * k.x * all);
    lines = take(a, 2 * AT_ONCE * line_size(a));
  }

 private:
  float* take(const SpectralProduct& a, size_t n) {
    float* p = a.scratch ? a.scratch + size : nullptr;
    size += (n + 15) / 16 * 16;
    return p;
  }
};

size_t spectral_product_scratch(const SpectralProduct& a) {
  SpectralProduct unplaced = a;
  unplaced.scratch = nullptr;
  return ProductWorkspace(unplaced).size;
}

#define ZNN_STEP [&](size_t q, auto count) __attribute__((always_inline))

static void all_of_z(const SpectralProduct& a, const ProductWorkspace& w, const Row& row) {
  const size_t area = (size_t)a.kernel.y * a.kernel.x;
  for (int s = 0; s < n_slabs(a.out_channels); s++) {
    const Slab slab = slab_of(a, s);
    const size_t plane = area * slab.lanes, at = area * slab.before;
    const float* taps = w.taps + a.kernel.z * at;
    in_steps(plane, ZNN_STEP { fold_z(count, row, taps + q, plane, w.even_z + at + q, w.odd_z + at + q); });
  }
}

static void all_of_y(const SpectralProduct& a, const ProductWorkspace& w, const AxisTaps& y, int fz, int fy, int rows) {
  const size_t k = a.kernel.x, step = line_size(a);
  for (int s = 0; s < n_slabs(a.out_channels); s++) {
    const Slab slab = slab_of(a, s);
    const size_t line = k * slab.lanes, at = y.k * k * slab.before;
    const float *even = w.even_z + at, *odd = fz == 0 ? nullptr : w.odd_z + at;
    float* to = w.lines + 2 * k * slab.before;
    with_count<AT_ONCE>(rows, [&](auto count) { fold_line(count, y, fy, even, odd, line, to, step); });
  }
}

// n frequencies from fx on, of both lines, and all slabs.
static void multiply_frequencies(const SpectralProduct& a, const ProductWorkspace& w, const AxisTaps& x, const Lines& lines,
                                 const Lines& next, int fx, int n, const float* from) {
  for (int s = 0; s < n_slabs(a.out_channels); s++) {
    const Slab slab = slab_of(a, s);
    const size_t m = slab.lanes;
    const float *re = from + 2 * x.k * slab.before, *im = re + x.k * m;
    with_count<AT_ONCE>(n, [&](auto count) { fold_x(count, x.row(fx), re, im, m, lines.pair, w.weights); });
    Frequencies all = {&a, slab, (size_t)n * 4 * LANES, 0, {}};
    for (int second = 0; second <= lines.pair; second++)
      for (int f = 0; f < n; f++) {
        const Place p = lines.place(second, fx + f, half(x.n), next), ahead = lines.place(second, fx + f + n, half(x.n), next);
        const Complex phase = (second ? lines.phase_b : lines.phase_a) * x.row(fx + f).phase();
        all.all[all.n++] = {p, ahead, w.weights + (4 * f + 2 * second) * LANES, phase};
      }
    multiply_all(all);
  }
}

static void multiply_lines(const SpectralProduct& a, const ProductWorkspace& w, const AxisTaps& x, const Lines& lines, const Lines& next,
                           const float* from) {
  in_pieces(half(x.n), AT_ONCE, [&](int fx, int n) { multiply_frequencies(a, w, x, lines, next, fx, n, from); });
}

static void product_stored(const SpectralProduct& a, const ProductWorkspace& w) {
  const size_t length = half(a.transform.x), n = a.transform.z * a.transform.y * length;
  for (size_t f = 0; f < n; f++)
    for (int s = 0; s < n_slabs(a.out_channels); s++) {
      const Slab slab = slab_of(a, s);
      pack(a, slab, 2 * f, false, w.weights, 2 * LANES);
      pack(a, slab, 2 * f + 1, a.conjugate, w.weights + LANES, 2 * LANES);
      const Place place = {f / length, (int)(f % length)}, next = {(f + 1) / length, (int)((f + 1) % length)};
      multiply_all({&a, slab, 2 * LANES, 1, {{place, next, w.weights, {1.0f, 0.0f}}}});
    }
}

void spectral_product(const SpectralProduct& a) {
  const ProductWorkspace w(a);
  if (a.stored) return product_stored(a, w);
  const AxisTaps z{a.transform.z, a.kernel.z, w.tables[0]}, y{a.transform.y, a.kernel.y, w.tables[1]},
      x{a.transform.x, a.kernel.x, w.tables[2]};
  copy_table(a.twiddles.z, z.n, z.k, !a.conjugate, w.tables[0]);
  copy_table(a.twiddles.y, y.n, y.k, !a.conjugate, w.tables[1]);
  copy_table(a.twiddles.x, x.n, x.k, !a.conjugate, w.tables[2]);
  for (int s = 0; s < n_slabs(a.out_channels); s++) {
    const Slab slab = slab_of(a, s);
    float* taps = w.taps + a.kernel.voxels() * slab.before;
    in_taps(a.kernel, slab.lanes, [&](size_t tap, size_t place, size_t step) { pack(a, slab, tap, false, taps + place, step); });
    mirror_all<false>(taps, a.kernel, slab.lanes);
  }
  for (int fz = 0; fz < half(z.n); fz++) {
    all_of_z(a, w, z.row(fz));
    for (int fy = 0; fy < half(y.n); fy++) {
      const size_t step = line_size(a);
      if (fy % AT_ONCE == 0) all_of_y(a, w, y, fz, fy, min_of(AT_ONCE, half(y.n) - fy));
      const float* line = w.lines + 2 * (fy % AT_ONCE) * step;
      const bool minus = has_minus(z, y, fz, fy);
      const Lines plus = lines_of(z, y, fz, fy, false), after = lines_of(z, y, fz, min_of(fy + 1, half(y.n) - 1), false);
      const Lines mirror = minus ? lines_of(z, y, fz, fy, true) : after;
      multiply_lines(a, w, x, plus, mirror, line);
      if (minus) multiply_lines(a, w, x, mirror, after, line + step);
    }
  }
}

}  // namespace znn::ZNN_ISA
