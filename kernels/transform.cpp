// Real transforms of tiles, LANES values of a voxel side by side: copying in, padding, cutting into tiles, and on the
// way back scale, bias, transfer function and adding of overlaps are all part of the first and last pass over memory.
// A line of n = parts * points is done in two stages (of `points`, then of `parts` points) or in one where parts = 1.
#include "activation.hpp"
#include "dft.hpp"
#include "simd.hpp"
#include "table.hpp"
#include "transform.hpp"

namespace znn::ZNN_ISA {

constexpr size_t PAIR = 2 * LANES;  // floats of one complex element in scratch: real lanes, then imaginary lanes

// Points of a line: real and imaginary parts at their own places, at one stride (in floats).
struct Points {
  const float *re, *im;
  size_t stride;
};
struct Target {
  float *re, *im;
  size_t stride;
};

// `count` transforms of R points each; the j-th starts j steps further. Twiddles, if any, are (count, R, 2).
template <int R>
static void stage(Points from, size_t from_step, Target to, size_t to_step, int count, const float* twiddle) {
  for (int j = 0; j < count; j++) {
    vf r[R], i[R];
#pragma GCC unroll 16
    for (int k = 0; k < R; k++) r[k] = load(from.re + k * from.stride), i[k] = load(from.im + k * from.stride);
    Dft<R>::run(r, i);
    if (twiddle && j > 0) {
      const float* w = twiddle + (size_t)j * R * 2;
#pragma GCC unroll 16
      for (int k = 1; k < R; k++) {
        const vf t = r[k] * w[2 * k] - i[k] * w[2 * k + 1];
        i[k] = r[k] * w[2 * k + 1] + i[k] * w[2 * k];
        r[k] = t;
      }
    }
#pragma GCC unroll 16
    for (int k = 0; k < R; k++) store(to.re + k * to.stride, r[k]), store(to.im + k * to.stride, i[k]);
    from.re += from_step, from.im += from_step;
    to.re += to_step, to.im += to_step;
  }
}

typedef void (*Stage)(Points, size_t, Target, size_t, int, const float*);

// Where the parts of one call's scratch lie.
struct Work {
  int nz, ny, nx, half;
  size_t plane;       // floats of one plane of `volume`, padded away from powers of two
  float *volume;      // (nz, ny, half) elements
  float *rows;        // (ny, half) elements: one plane between its x and y passes
  float *temporary;   // for `line`
  float *element;     // one line of elements
  float *first, *second, *zeros;  // (nx) vectors: two rows of the image where it cannot be read in place; zeros
  float *bias;        // one per channel, or all zero
};

static size_t longest(const TileTransform& t) {
  size_t n = size_of(t.axes[0]);
  for (int d = 1; d < 3; d++)
    if ((size_t)size_of(t.axes[d]) > n) n = size_of(t.axes[d]);
  return n;
}

static size_t work_of(const TileTransform& t, float* scratch, Work& w) {
  w.nz = size_of(t.axes[0]), w.ny = size_of(t.axes[1]), w.nx = size_of(t.axes[2]), w.half = w.nx / 2 + 1;
  w.plane = (size_t)w.ny * w.half * PAIR + PAIR;
  size_t used = 0;
  auto take = [&](size_t n) {
    float* p = scratch ? scratch + used : nullptr;
    used += n;
    return p;
  };
  w.volume = take(w.nz * w.plane);
  w.rows = take((size_t)w.ny * w.half * PAIR);
  w.temporary = take(longest(t) * PAIR);
  w.element = take(longest(t) * PAIR);
  w.first = take((size_t)w.nx * LANES), w.second = take((size_t)w.nx * LANES), w.zeros = take((size_t)w.nx * LANES);
  w.bias = take(t.channels + LANES);
  return used;
}

size_t tile_transform_scratch(const TileTransform& t) {
  if (is_narrow(t)) return narrow_scratch(t);
  Work w;
  return work_of(t, nullptr, w);
}

// Floats from one line of frequencies to the next: all entries of a line lie together.
static size_t line_stride(const TileTransform& t, const Work& w) {
  return (size_t)t.n_tiles * t.entries * w.half * 2 * t.channels;
}

// Asks for n vectors, stride floats apart, that will be read or written next: strides this long are not foreseen.
template <bool Write>
ZNN_INLINE void foresee(const float* p, int n, size_t stride) {
  for (int i = 0; i < n; i++) __builtin_prefetch(p + i * stride, Write, 2);
}

// The row of a tile as `nx` vectors: the image itself if all of it lies there, else a copy with zeros around.
static Points row_of(const float* row, Span x, int nx, size_t stride, int count, float* copied) {
  if (count == LANES && x.first == 0 && x.last == nx) return {row, nullptr, stride};
  fill_zero(copied, (size_t)x.first * LANES);
  for (int i = x.first; i < x.last; i++) store(copied + i * LANES, load_first(row + (ptrdiff_t)i * (ptrdiff_t)stride, count));
  fill_zero(copied + (size_t)x.last * LANES, (size_t)(nx - x.last) * LANES);
  return {copied, nullptr, LANES};
}

// Two real rows are transformed as the two parts of one complex one and then taken apart: all in registers for short rows.
template <int N>
static void rows_apart(const float* a, const float* b, size_t stride, float* to_a, float* to_b) {
  vf r[N], i[N];
#pragma GCC unroll 16
  for (int k = 0; k < N; k++) r[k] = load(a + k * stride), i[k] = load(b + k * stride);
  Dft<N>::run(r, i);
#pragma GCC unroll 16
  for (int k = 0; k <= N / 2; k++, to_a += PAIR, to_b += PAIR) {
    const int q = (N - k) % N;
    const vf pr = 0.5f * r[k], pi = 0.5f * i[k], qr = 0.5f * r[q], qi = 0.5f * i[q];
    store(to_a, pr + qr), store(to_a + LANES, pi - qi);
    store(to_b, pi + qi), store(to_b + LANES, qr - pr);
  }
}
template <int N>
static void rows_together(const float* a, const float* b, float* to) {
  vf r[N], i[N];  // swapped, for the other sign
#pragma GCC unroll 16
  for (int k = 0; k <= N / 2; k++, a += PAIR, b += PAIR) {
    const vf ar = load(a), ai = load(a + LANES), br = load(b), bi = load(b + LANES);
    i[k] = ar - bi, r[k] = ai + br;
    if (k > 0 && 2 * k < N) i[N - k] = ar + bi, r[N - k] = br - ai;
  }
  Dft<N>::run(r, i);
#pragma GCC unroll 16
  for (int k = 0; k < N; k++) store(to + k * PAIR, i[k]), store(to + k * PAIR + LANES, r[k]);
}

typedef void (*Apart)(const float*, const float*, size_t, float*, float*);
typedef void (*Together)(const float*, const float*, float*);
#define ZNN_EACH(f) \
  {nullptr, f<1>, f<2>, f<3>, f<4>, f<5>, f<6>, f<7>, f<8>, f<9>, f<10>, f<11>, f<12>, f<13>, f<14>, f<15>, f<16>}
static const Stage STAGES[] = ZNN_EACH(stage);
static const Apart APART[] = ZNN_EACH(rows_apart);
static const Together TOGETHER[] = ZNN_EACH(rows_together);

// One line of an axis, through `temporary` (n elements) if it takes two stages. From and to must not overlap.
ZNN_INLINE void line(const Axis& a, Points from, Target to, float* temporary) {
  if (a.parts == 1) return STAGES[a.points](from, 0, to, 0, 1, nullptr);
  const Points second = {temporary, temporary + LANES, a.points * PAIR};
  const Target first = {temporary, temporary + LANES, PAIR};
  const Points interleaved = {from.re, from.im, from.stride * a.parts};
  STAGES[a.points](interleaved, from.stride, first, a.points * PAIR, a.parts, a.twiddles);
  STAGES[a.parts](second, PAIR, {to.re, to.im, to.stride * a.points}, to.stride, a.points, nullptr);
}

// The same for long rows, once they are transformed.
static void separate(const float* both, int n, int half, float* a, float* b) {
  for (int k = 0; k < half; k++, a += PAIR, b += PAIR) {
    const float *p = both + k * PAIR, *q = both + (k == 0 ? 0 : n - k) * PAIR;
    const vf pr = 0.5f * load(p), pi = 0.5f * load(p + LANES), qr = 0.5f * load(q), qi = 0.5f * load(q + LANES);
    store(a, pr + qr), store(a + LANES, pi - qi);
    store(b, pi + qi), store(b + LANES, qr - pr);
  }
}

// Two half spectra of real rows as one complex spectrum.
static void unite(const float* a, const float* b, int n, int half, float* both) {
  for (int k = 0; k < half; k++, a += PAIR, b += PAIR) {
    const vf ar = load(a), ai = load(a + LANES), br = load(b), bi = load(b + LANES);
    float *p = both + k * PAIR, *q = both + (n - k) * PAIR;
    store(p, ar - bi), store(p + LANES, ai + br);
    if (k > 0 && 2 * k < n) store(q, ar + bi), store(q + LANES, br - ai);
  }
}

static void rows_forward(const TileTransform& t, const Work& w, const int* origin, const float* plane, Span y, Span x, int count) {
  const ptrdiff_t line_stride = (ptrdiff_t)t.image_size.x * (ptrdiff_t)t.channels;
  const size_t row = (size_t)w.half * PAIR;
  fill_zero(w.rows, y.first * row);
  for (int j = y.first; j < y.last; j += 2) {
    const float* a = plane + (origin[1] + j) * line_stride + (ptrdiff_t)origin[2] * (ptrdiff_t)t.channels;
    Points from = row_of(a, x, w.nx, t.channels, count, w.first);
    const bool two = j + 1 < y.last;
    if (j + 3 < y.last) {
      foresee<false>(a + 2 * line_stride + x.first * (ptrdiff_t)t.channels, x.last - x.first, t.channels);
      foresee<false>(a + 3 * line_stride + x.first * (ptrdiff_t)t.channels, x.last - x.first, t.channels);
    }
    Points other = two ? row_of(a + line_stride, x, w.nx, t.channels, count, w.second) : Points{w.zeros, nullptr, from.stride};
    if (!two && from.stride != LANES) {  // the zeros lie closer than the image's voxels
      for (int i = 0; i < w.nx; i++) store(w.first + i * LANES, load(from.re + i * from.stride));
      from = {w.first, nullptr, LANES}, other.stride = LANES;
    }
    // The row beyond a lone last one is zero, and is written all the same if it is there.
    float *to = w.rows + j * row, *next = j + 1 < w.ny ? to + row : w.temporary;
    if (t.axes[2].parts == 1) {
      APART[w.nx](from.re, other.re, from.stride, to, next);
      continue;
    }
    from.im = other.re;
    line(t.axes[2], from, {w.element, w.element + LANES, PAIR}, w.temporary);
    separate(w.element, w.nx, w.half, to, next);
  }
  const int done = y.last > y.first ? y.first + (y.last - y.first + 1) / 2 * 2 : y.first;
  if (done < w.ny) fill_zero(w.rows + done * row, (w.ny - done) * row);
}

// A line into the spectrum, of whose vectors only `count` lanes may be written.
static void line_out(const Axis& a, Points from, Target to, int count, const Work& w) {
  if (count == LANES) return line(a, from, to, w.temporary);
  line(a, from, {w.element, w.element + LANES, PAIR}, w.temporary);
  for (int k = 0; k < size_of(a); k++) {
    store_first(to.re + k * to.stride, load(w.element + k * PAIR), count);
    store_first(to.im + k * to.stride, load(w.element + k * PAIR + LANES), count);
  }
}

static void column_forward(const TileTransform& t, const Work& w, const int* origin, const float* image, float* spectrum, int count) {
  const size_t all = t.channels, row = (size_t)w.half * PAIR, stride = line_stride(t, w);
  const Span z = inside(origin[0], t.filled.z, t.image_size.z), y = inside(origin[1], t.filled.y, t.image_size.y),
             x = inside(origin[2], t.filled.x, t.image_size.x);
  const ptrdiff_t plane = (ptrdiff_t)t.image_size.y * t.image_size.x * (ptrdiff_t)t.channels;
  for (int k = 0; k < w.nz; k++) {
    float* to = w.volume + k * w.plane;
    if (k < z.first || k >= z.last) {
      fill_zero(to, w.ny * row);
      continue;
    }
    rows_forward(t, w, origin, image + (origin[0] + k) * plane, y, x, count);
    for (int f = 0; f < w.half; f++) {
      const Points from = {w.rows + f * PAIR, w.rows + f * PAIR + LANES, row};
      if (w.nz == 1)
        line_out(t.axes[1], from, {spectrum + f * 2 * all, spectrum + f * 2 * all + all, stride}, count, w);
      else
        line(t.axes[1], from, {to + f * PAIR, to + f * PAIR + LANES, row}, w.temporary);
    }
  }
  if (w.nz == 1 && z.last > z.first) return;
  for (int fy = 0; fy < w.ny; fy++)
    for (int fx = 0; fx < w.half; fx++) {
      const float* from = w.volume + fy * row + fx * PAIR;
      float* to = spectrum + fy * stride + fx * 2 * all;
      foresee<true>(to + 2 * all, w.nz, w.ny * stride);
      foresee<true>(to + 3 * all, w.nz, w.ny * stride);
      line_out(t.axes[0], {from, from + LANES, w.plane}, {to, to + all, w.ny * stride}, count, w);
    }
}

void tile_forward(const TileTransform& t, const float* image, float* spectrum) {
  if (is_narrow(t)) return narrow_forward(t, image, spectrum);
  Work w;
  work_of(t, t.scratch, w);
  fill_zero(w.zeros, (size_t)w.nx * LANES);
  const size_t n_image = t.image_size.voxels() * t.channels, n_spectrum = (size_t)w.half * 2 * t.channels;
  for (int tile = 0; tile < t.n_tiles; tile++)
    for (int entry = 0; entry < t.entries; entry++, spectrum += n_spectrum)
      for (int c = 0; c < t.channels; c += LANES)
        column_forward(t, w, t.origins + 3 * tile, image + entry * n_image + c, spectrum + c, min_of(LANES, t.channels - c));
}

// ---- back

// Stores n voxels of a row; the first n_add are added to what an earlier tile left there.
template <Function F>
static void row_stored(const TileTransform& t, const float* from, int n, int n_add, vf bias, int count, float* to) {
  int i = 0;
  for (; i < n_add; i++, to += t.channels) store_first(to, load_first(to, count) + load(from + i * PAIR) * t.scale, count);
  for (; i < n; i++, to += t.channels) store_first(to, activate<F>(load(from + i * PAIR) * t.scale + bias, t.a, t.b), count);
}
static void row_out(const TileTransform& t, const float* from, int n, int n_add, const float* bias, int count, float* to) {
  with_function(t.function, [&](auto chosen) { row_stored<decltype(chosen)::function>(t, from, n, n_add, load(bias), count, to); });
}

// A line of the spectrum, of whose vectors only `count` lanes may be read.
static void line_in(const Axis& a, Points from, Target to, int count, const Work& w) {
  if (count == LANES) return line(a, from, to, w.temporary);
  for (int k = 0; k < size_of(a); k++) {
    store(w.element + k * PAIR, load_first(from.re + k * from.stride, count));
    store(w.element + k * PAIR + LANES, load_first(from.im + k * from.stride, count));
  }
  line(a, {w.element, w.element + LANES, PAIR}, to, w.temporary);
}

static void rows_inverse(const TileTransform& t, const Work& w, const int* origin, int z, Size n, const float* bias, float* image,
                         int count) {
  const size_t row = (size_t)w.half * PAIR;
  for (int j = 0; j < n.y; j += 2) {
    const bool two = j + 1 < n.y;
    const size_t at = (((size_t)(origin[0] + z) * t.image_size.y + origin[1] + j) * t.image_size.x + origin[2]) * t.channels;
    foresee<true>(image + at, n.x, t.channels);
    if (two) foresee<true>(image + at + t.image_size.x * t.channels, n.x, t.channels);
    const float *a = w.rows + j * row, *b = j + 1 < w.ny ? a + row : a;
    float* result = w.first;  // nx elements: `first` and `second` lie side by side
    if (t.axes[2].parts == 1) {
      TOGETHER[w.nx](a, b, result);
    } else {
      unite(a, b, w.nx, w.half, w.element);
      // Real and imaginary parts swapped: the other sign.
      line(t.axes[2], {w.element + LANES, w.element, PAIR}, {result + LANES, result, PAIR}, w.temporary);
    }
    for (int half = 0; half < (two ? 2 : 1); half++) {
      const int n_add = n_added(t, origin, z, j + half, n.x);
      row_out(t, result + half * LANES, n.x, n_add, bias, count, image + at + half * t.image_size.x * t.channels);
    }
  }
}

static void column_inverse(const TileTransform& t, const Work& w, const int* origin, const float* spectrum, const float* bias,
                           float* image, int count) {
  const size_t all = t.channels, row = (size_t)w.half * PAIR, stride = line_stride(t, w);
  const Size n = given(t, origin);
  if (w.nz > 1)
    for (int fy = 0; fy < w.ny; fy++)
      for (int fx = 0; fx < w.half; fx++) {
        const float* from = spectrum + fy * stride + fx * 2 * all;
        float* to = w.volume + fy * row + fx * PAIR;
        foresee<false>(from + 2 * all, w.nz, w.ny * stride);
        foresee<false>(from + 3 * all, w.nz, w.ny * stride);
        line_in(t.axes[0], {from + all, from, w.ny * stride}, {to + LANES, to, w.plane}, count, w);
      }
  for (int z = 0; z < n.z; z++) {
    const float* plane = w.volume + z * w.plane;
    for (int f = 0; f < w.half; f++) {
      const Target to = {w.rows + f * PAIR + LANES, w.rows + f * PAIR, row};
      const float* from = spectrum + f * 2 * all;
      if (w.nz == 1)
        line_in(t.axes[1], {from + all, from, stride}, to, count, w);
      else
        line(t.axes[1], {plane + f * PAIR + LANES, plane + f * PAIR, row}, to, w.temporary);
    }
    rows_inverse(t, w, origin, z, n, bias, image, count);
  }
}

void tile_inverse(const TileTransform& t, const float* spectrum, const float* bias, float* image) {
  if (is_narrow(t)) return narrow_inverse(t, spectrum, bias, image);
  Work w;
  work_of(t, t.scratch, w);
  fill_zero(w.bias, t.channels + LANES);
  if (bias) copy(w.bias, bias, t.channels);
  const size_t n_image = t.image_size.voxels() * t.channels, n_spectrum = (size_t)w.half * 2 * t.channels;
  for (int tile = 0; tile < t.n_tiles; tile++)
    for (int entry = 0; entry < t.entries; entry++, spectrum += n_spectrum)
      for (int c = 0; c < t.channels; c += LANES)
        column_inverse(t, w, t.origins + 3 * tile, spectrum + c, w.bias + c, image + entry * n_image + c,
                       min_of(LANES, t.channels - c));
}

}  // namespace znn::ZNN_ISA
