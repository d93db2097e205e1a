// Direct kernel gradient: d_kernel[d, i, o] = sum over voxels v of image[v + d, i] * d_out[v, o].
//
// The sums of P pointers (a tap and an input channel, or two channels, each) x T neighbouring taps along x x V vectors of
// output channels stay in registers while the rows of several lines pass. The rows are taken in chunks that fit the
// first cache; sums of chunks are added, which also keeps long sums precise.
#include "direct.hpp"
#include "table.hpp"

namespace znn::ZNN_ISA {

constexpr int MAX_POINTERS = 12, MAX_TAPS = 3;
constexpr int FEW = 4;  // groups of inputs, below which pointers are taken from several taps
constexpr int MAX_LINES = 128;
constexpr size_t CHUNK = 4096;  // floats of the output gradient

constexpr int pointers_for(int vectors, int taps) {
  if (REGISTERS == 32) return vectors * taps == 3 ? 9 : 12;
  return vectors * taps == 3 ? 4 : vectors * taps == 2 ? 6 : 10;
}

// Lines of n rows of the output gradient, which follow each other, and where those lines begin in the image.
struct Walk {
  int lines, n;
  size_t x_at[MAX_LINES];  // floats before each line in the image
  size_t x_step, d_step;   // floats from row to row, in the image and in the output gradient
};

struct Taps {
  const float* x[MAX_POINTERS];
  float* sum[MAX_POINTERS];  // of the first of the taps
  size_t sum_step;           // from tap to tap
};

// Adds row `at` of the image times the output gradients that meet it through taps FROM to TO - 1.
template <int P, int V, int T, int FOLD, int FROM, int TO>
ZNN_INLINE void add_row(vf (&sum)[P][T][V], const float* const (&x)[P], size_t at, const float* d, size_t d_step) {
  vf g[T][V];
  for (int t = FROM; t < TO; t++)
    for (int v = 0; v < V; v++) g[t][v] = load(d - t * d_step + v * LANES);
#pragma GCC unroll 12
  for (int p = 0; p < P; p++) {
    const vf value = spread<FOLD>(x[p] + at);
#pragma GCC unroll 3
    for (int t = FROM; t < TO; t++)
      for (int v = 0; v < V; v++) sum[p][t][v] += value * g[t][v];
  }
}

// A run of n rows of the output gradient meets n + T - 1 rows of the image; n is at least T - 1.
template <int P, int V, int T, int FOLD, bool NEAR>
ZNN_INLINE void add_run(vf (&sum)[P][T][V], const float* const (&x)[P], size_t at, size_t x_step, const float* d,
                        size_t d_step, int n) {
  if constexpr (T >= 2) add_row<P, V, T, FOLD, 0, 1>(sum, x, at, d, d_step), at += x_step, d += d_step;
  if constexpr (T >= 3) add_row<P, V, T, FOLD, 0, 2>(sum, x, at, d, d_step), at += x_step, d += d_step;
  for (int r = T - 1; r < n; r++, at += x_step, d += d_step) {
    if constexpr (!NEAR) keep_as_index(at);
    add_row<P, V, T, FOLD, 0, T>(sum, x, at, d, d_step);
  }
  if constexpr (T >= 3) add_row<P, V, T, FOLD, T - 2, T>(sum, x, at, d, d_step), at += x_step, d += d_step;
  if constexpr (T >= 2) add_row<P, V, T, FOLD, T - 1, T>(sum, x, at, d, d_step);
}

// NEAR: the pointers are neighbours in memory, and so are their sums.
template <int P, int V, int T, int FOLD, bool NEAR>
static void taps_gradient(const Walk& walk, const Taps& taps, const float* d) {
  vf sum[P][T][V];
  const float* x[P];
  for (int p = 0; p < P; p++) {
    x[p] = NEAR ? taps.x[0] + p * FOLD : taps.x[p];
    for (int t = 0; t < T; t++)
      for (int v = 0; v < V; v++) sum[p][t][v] = (vf){};
  }
  for (int line = 0; line < walk.lines; line++, d += walk.n * walk.d_step)
    add_run<P, V, T, FOLD, NEAR>(sum, x, walk.x_at[line], walk.x_step, d, walk.d_step, walk.n);
  for (int p = 0; p < P; p++)
    for (int t = 0; t < T; t++) {
      float* to = (NEAR ? taps.sum[0] + p * V * LANES : taps.sum[p]) + t * taps.sum_step;
      for (int v = 0; v < V; v++) store(to + v * LANES, load(to + v * LANES) + sum[p][t][v]);
    }
}

using Kernel = void (*)(const Walk&, const Taps&, const float*);

template <int V, int T, int FOLD, bool NEAR, int P = pointers_for(V, T)>
static Kernel pick(int pointers) {
  if constexpr (P > (NEAR ? FEW / 2 : 1))
    if (pointers < P) return pick<V, T, FOLD, NEAR, P - 1>(pointers);
  return taps_gradient<P, V, T, FOLD, NEAR>;
}

template <int FOLD, bool NEAR>
static Kernel one_vector_kernel(int taps, int pointers) {
  if (taps == 3) return pick<1, 3, FOLD, NEAR>(pointers);
  if (taps == 2) return pick<1, 2, FOLD, NEAR>(pointers);
  return pick<1, 1, FOLD, NEAR>(pointers);
}

template <bool NEAR>
static Kernel kernel_for(const Part& part, int taps, int pointers) {
  if constexpr (NEAR) {
    if (part.fold == 2) return one_vector_kernel<2, true>(taps, pointers);
  }
  if (part.vectors == 1) return one_vector_kernel<1, NEAR>(taps, pointers);
  if (part.vectors == 2) return pick<2, 1, 1, NEAR>(pointers);
  return pick<MAX_VECTORS, 1, 1, NEAR>(pointers);
}

struct Job {
  const DirectGradient& a;
  Part part;
  Size out_size;
  int groups;   // of `fold` inputs
  float* sums;  // (tap, group, width of the part)
};

// A column of taps, or several next to each other, from which pointers are taken: groups of inputs first, z last.
struct Cursor {
  const Job& job;
  int dx, columns;
  int z = 0, y = 0, x = 0, group = 0;
  bool done() const { return z == job.a.kernel.z; }
  size_t image_offset() const {
    const DirectGradient& a = job.a;
    const size_t row = ((size_t)z * a.size.y + y) * a.size.x + dx + x;
    return row * a.in_channels + group * job.part.fold;
  }
  size_t sum_offset() const {
    const Size& k = job.a.kernel;
    return ((((size_t)z * k.y + y) * k.x + dx + x) * job.groups + group) * job.part.width();
  }
  void next(int n = 1) {
    group += n;
    if (group < job.groups) return;
    group = 0;
    if (++x < columns) return;
    x = 0;
    if (++y < job.a.kernel.y) return;
    y = 0, z++;
  }
};

// Adds a chunk's products for the taps dx .. dx + taps - 1 together, or for `columns` columns from dx one by one.
static void columns_gradient(const Job& job, const Walk& walk, const float* image, const float* d, int dx, int columns,
                             int taps) {
  const DirectGradient& a = job.a;
  Taps t;
  t.sum_step = (size_t)job.groups * job.part.width();
  const bool near = job.groups >= FEW;
  const int most = pointers_for(job.part.vectors, taps);
  const int all = near ? job.groups : a.kernel.z * a.kernel.y * columns * job.groups;
  for (Cursor at{job, dx, columns}; !at.done();) {
    int pieces = ceil_div(all, most);
    for (int left = all; left > 0; pieces--) {
      const int count = ceil_div(left, pieces);
      for (int p = 0; p < (near ? 1 : count); p++, at.next(near ? count : 1)) {
        t.x[p] = image + at.image_offset();
        t.sum[p] = job.sums + at.sum_offset();
      }
      (near ? kernel_for<true>(job.part, taps, count) : kernel_for<false>(job.part, taps, count))(walk, t, d);
      left -= count;
    }
  }
}

static void chunk_gradient(const Job& job, const Walk& walk, const float* image, const float* d) {
  const int kx = job.a.kernel.x;
  if (job.part.vectors > 1 || kx == 1) return columns_gradient(job, walk, image, d, 0, kx, 1);
  const int most = min_of(MAX_TAPS, job.out_size.x + 1);
  for (int dx = 0; dx < kx;) {
    const int left = kx - dx, taps = left == 4 ? 2 : min_of(left, most);
    columns_gradient(job, walk, image, d, dx, 1, taps);
    dx += taps;
  }
}

// Rows of the output gradient, as wide as the part: zero beyond the last channel, or each value `fold` times.
static void pack(const Job& job, const float* from, size_t rows, float* to) {
  const Part& part = job.part;
  from += part.first;
  for (size_t r = 0; r < rows; r++, from += job.a.out_channels, to += part.width()) {
    if (part.fold == 1)
      copy(to, from, part.count);
    else
      for (int o = 0; o < part.count; o++)
        for (int f = 0; f < part.fold; f++) to[o * part.fold + f] = from[o];
    fill_zero(to + part.count * part.fold, part.width() - part.count * part.fold);
  }
}

static void unpack(const Job& job) {
  const DirectGradient& a = job.a;
  const Part& part = job.part;
  const float* from = job.sums;
  for (size_t tap = 0; tap < a.kernel.voxels(); tap++)
    for (int group = 0; group < job.groups; group++, from += part.width())
      for (int f = 0; f < part.fold; f++) {
        float* to = a.d_kernel + (tap * a.in_channels + group * part.fold + f) * a.out_channels + part.first;
        for (int o = 0; o < part.count; o++) to[o] = from[o * part.fold + f];
      }
}

static int lines_at_once(size_t floats_per_line) {
  const size_t lines = CHUNK / floats_per_line;
  return lines > (size_t)MAX_LINES ? MAX_LINES : lines > 0 ? (int)lines : 1;
}

static void part_gradient(const Job& job, float* packed) {
  const DirectGradient& a = job.a;
  const Size m = job.out_size;
  const bool partial = job.part.partial();
  const size_t d_step = partial ? job.part.width() : a.out_channels, all = (size_t)a.batch * m.z * m.y;
  const int at_once = lines_at_once((size_t)m.x * job.part.width());
  fill_zero(job.sums, a.kernel.voxels() * job.groups * job.part.width());
  Walk walk{0, m.x, {}, (size_t)a.in_channels, d_step};
  int entry = 0, z = 0, y = 0;
  for (size_t done = 0; done < all; done += walk.lines) {
    walk.lines = all - done < (size_t)at_once ? (int)(all - done) : at_once;
    for (int line = 0; line < walk.lines; line++) {
      walk.x_at[line] = (((size_t)entry * a.size.z + z) * a.size.y + y) * a.size.x * a.in_channels;
      if (++y == m.y) y = 0, z++;
      if (z == m.z) z = 0, entry++;
    }
    const float* d = a.d_out + done * m.x * a.out_channels;
    if (partial) pack(job, d, (size_t)walk.lines * m.x, packed);
    chunk_gradient(job, walk, a.image, partial ? packed : d + job.part.first);
  }
  unpack(job);
}

size_t direct_gradient_scratch(const DirectGradient& a) {
  const size_t line = (size_t)(a.size.x - a.kernel.x + 1) * MAX_VECTORS * LANES;
  return a.kernel.voxels() * a.in_channels * MAX_VECTORS * LANES + (line > CHUNK ? line : CHUNK);
}

void direct_gradient(const DirectGradient& a) {
  const Size m = {a.size.z - a.kernel.z + 1, a.size.y - a.kernel.y + 1, a.size.x - a.kernel.x + 1};
  for (int first = 0; first < a.out_channels;) {
    const Part part = part_at(first, a.out_channels, a.in_channels % 2 == 0 && a.in_channels >= 2 * FEW);
    const Job job = {a, part, m, a.in_channels / part.fold, a.scratch};
    part_gradient(job, a.scratch + a.kernel.voxels() * job.groups * part.width());
    first += part.count;
  }
}

}  // namespace znn::ZNN_ISA
