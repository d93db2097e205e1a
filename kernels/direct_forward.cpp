// Direct convolution: channels-last, register-blocked, no im2col. Vectors run over output channels.
//
// A row is one voxel. Outputs that meet the same taps (all of them without padding; with it, the taps that fall on
// zeros are left out) form a cell. The rows of a cell are taken many at a time, across the ends of lines and of batch
// entries, so that short lines fill the registers too.
#include "activation.hpp"
#include "direct.hpp"
#include "direct_pack.hpp"
#include "table.hpp"

namespace znn::ZNN_ISA {

constexpr int MAX_ROWS = 12, MAX_RUN = 8, MAX_TAPS = 3;
constexpr int rows_for(int vectors) {
  if (REGISTERS == 32) return vectors == 3 ? 9 : vectors == 2 ? 10 : 12;
  return vectors == 2 ? 6 : 10;
}
// Runs of `positions` neighbours along x done at once where there is one vector of channels.
constexpr int runs_for(int positions) { return positions > 4 && REGISTERS == 32 ? 2 : rows_for(1) / positions; }

struct Range {
  int from, to;
  int count() const { return to > from ? to - from : 0; }
};

struct Job {
  const DirectForward& a;
  Part part;
  Size out_size;
  const float* packed;  // weights of the part, or null: as they are in the kernels
  const float* bias;    // as many as the part is wide
  size_t step;          // floats from the weights of one input (or `fold` inputs) to the next
};

// Outputs that meet the same taps.
struct Cell {
  Range z, y, x;
  Range dz, dy, dx;
};

struct Rows {
  size_t from[MAX_ROWS];  // row of the input under the cell's first tap
  size_t to[MAX_ROWS];    // row of the output
};

// Where sums become values of the output: `change` is applied to n rows of sums, each as wide as the part.
template <typename Change>
ZNN_INLINE void finish_with(const Job& job, const size_t* rows, int n, const float* sums, const Change& change) {
  const Part& part = job.part;
  for (int r = 0; r < n; r++) {
    float* to = job.a.out + rows[r] * job.a.out_channels + part.first;
    for (int v = 0; v < part.vectors; v++, sums += LANES) {
      const vf sum = part.fold == 2 ? add_pairs(load(sums)) : load(sums);
      store_first(to + v * LANES, change(sum, job.bias + v * LANES), min_of(LANES, part.count - v * LANES));
    }
  }
}

static __attribute__((noinline)) void finish_rows(const Job& job, const size_t* rows, int n, const float* sums) {
  const DirectForward& a = job.a;
  if (!a.transfer) return finish_with(job, rows, n, sums, [](vf sum, const float*) { return sum; });
  with_function(a.function, [&](auto chosen) {
    finish_with(job, rows, n, sums, [&](vf sum, const float* bias) {
      return activate<decltype(chosen)::function>(sum + load(bias), a.a, a.b);
    });
  });
}

template <int R, int V>
ZNN_INLINE void store_rows(const Job& job, const size_t* rows, const vf* sum) {
  const int rest = job.part.count - (V - 1) * LANES;
  if (job.a.transfer || job.part.fold > 1 || (rest != LANES && rest != LANES / 2)) {
    float sums[R * V * LANES];
    for (int j = 0; j < R * V; j++) store(sums + j * LANES, sum[j]);
    return finish_rows(job, rows, R, sums);
  }
  for (int r = 0; r < R; r++) {
    float* to = job.a.out + rows[r] * job.a.out_channels + job.part.first;
    for (int v = 0; v < V - 1; v++) store(to + v * LANES, sum[r * V + v]);
    if (rest == LANES)
      store(to + (V - 1) * LANES, sum[r * V + V - 1]);
    else
      __builtin_memcpy(to + (V - 1) * LANES, &sum[r * V + V - 1], sizeof(vf) / 2);
  }
}

// ---- two or three vectors: R rows anywhere

template <int R, int V>
ZNN_INLINE void add_inputs(vf (&sum)[R][V], const float* const (&x)[R], size_t at, size_t n, const float* w,
                           size_t step) {
  for (const size_t end = at + n; at < end; at++, w += step) {
    keep_as_index(at);
    vf weight[V];
    for (int v = 0; v < V; v++) weight[v] = load(w + v * LANES);
#pragma GCC unroll 12
    for (int r = 0; r < R; r++) {
      const float value = x[r][at];
      for (int v = 0; v < V; v++) sum[r][v] += value * weight[v];
    }
  }
}

template <int R, int V>
static void rows_forward(const Job& job, const Cell& cell, const Rows& rows) {
  const DirectForward& a = job.a;
  vf sum[R][V];
  for (int r = 0; r < R; r++)
    for (int v = 0; v < V; v++) sum[r][v] = (vf){};
  const float* packed = job.packed;
  for (int block = 0; block < a.n_blocks; block++) {
    const size_t channels = a.blocks[block].channels;
    const float* weights = packed ? packed : a.blocks[block].kernel + job.part.first;
    const float* x[R];
    for (int r = 0; r < R; r++) x[r] = a.blocks[block].data + rows.from[r] * channels;
    for (int dz = cell.dz.from; dz < cell.dz.to; dz++)
      for (int dy = cell.dy.from; dy < cell.dy.to; dy++) {
        // Taps along x follow each other in memory, inputs and weights.
        const size_t line = (size_t)(dz - cell.dz.from) * a.size.y + (dy - cell.dy.from);
        const size_t tap = ((size_t)dz * a.kernel.y + dy) * a.kernel.x + cell.dx.from;
        const float* w = weights + tap * channels * job.step;
        add_inputs<R, V>(sum, x, line * a.size.x * channels, channels * cell.dx.count(), w, job.step);
      }
    if (packed) packed += a.kernel.voxels() * channels * job.step;
  }
  store_rows<R, V>(job, rows.to, sum[0]);
}

// ---- one vector: B runs of X neighbours along x; each value is loaded once for T neighbouring taps

template <int X, int B>
using Pointers = const float* [B][X + MAX_TAPS - 1];

template <int X, int B, int T, int FOLD, bool LAST = false>
ZNN_INLINE void add_input(vf (&sum)[B][X], const Pointers<X, B>& x, size_t at, const float* w, size_t tap_step) {
  vf weight[T];
  for (int t = 0; t < T; t++) weight[t] = load(w + t * tap_step);
#pragma GCC unroll 12
  for (int b = 0; b < B; b++)
#pragma GCC unroll 12
    for (int q = 0; q < X + T - 1; q++) {
      vf value = spread<LAST ? 1 : FOLD>(x[b][q] + at);
      if constexpr (LAST) {  // one input is left: to the first lane of each two
        typedef int64_t pairs __attribute__((vector_size(sizeof(vf))));
        value = (vf)((pairs)value & (0xffffffff - (pairs){}));
      }
#pragma GCC unroll 3
      for (int t = 0; t < T; t++)
        if (q - t >= 0 && q - t < X) sum[b][q - t] += value * weight[t];
    }
}

template <int X, int B, int T, int FOLD>
ZNN_INLINE void add_inputs(vf (&sum)[B][X], const Pointers<X, B>& x, size_t at, size_t channels, const float* w,
                           size_t tap_step, size_t step) {
  size_t end = at + channels / FOLD * FOLD;
  for (; at < end; at += FOLD, w += step) {
    keep_as_index(at);
    add_input<X, B, T, FOLD>(sum, x, at, w, tap_step);
  }
  if (FOLD == 2 && channels % 2 == 1) add_input<X, B, T, FOLD, true>(sum, x, at, w, tap_step);
}

template <int X, int B, int FOLD>
static void runs_forward(const Job& job, const Cell& cell, const Rows& rows) {
  const DirectForward& a = job.a;
  vf sum[B][X];
  for (int b = 0; b < B; b++)
    for (int r = 0; r < X; r++) sum[b][r] = (vf){};
  const float* packed = job.packed;
  for (int block = 0; block < a.n_blocks; block++) {
    const size_t channels = a.blocks[block].channels;
    const size_t tap_step = groups_of(channels, FOLD) * job.step;
    const float* weights = packed ? packed : a.blocks[block].kernel + job.part.first;
    Pointers<X, B> x;
    for (int b = 0; b < B; b++)
      for (int q = 0; q < X + MAX_TAPS - 1; q++) x[b][q] = a.blocks[block].data + (rows.from[b] + q) * channels;
    for (int dz = cell.dz.from; dz < cell.dz.to; dz++)
      for (int dy = cell.dy.from; dy < cell.dy.to; dy++) {
        size_t at = ((size_t)(dz - cell.dz.from) * a.size.y + (dy - cell.dy.from)) * a.size.x * channels;
        const float* w = weights + (((size_t)dz * a.kernel.y + dy) * a.kernel.x + cell.dx.from) * tap_step;
        int left = cell.dx.count();
        if constexpr (X > 1) {
          for (; left > 4 || left == 3; left -= 3, at += 3 * channels, w += 3 * tap_step)
            add_inputs<X, B, 3, FOLD>(sum, x, at, channels, w, tap_step, job.step);
          for (; left >= 2; left -= 2, at += 2 * channels, w += 2 * tap_step)
            add_inputs<X, B, 2, FOLD>(sum, x, at, channels, w, tap_step, job.step);
        }
        for (; left > 0; left--, at += channels, w += tap_step)
          add_inputs<X, B, 1, FOLD>(sum, x, at, channels, w, tap_step, job.step);
      }
    if (packed) packed += a.kernel.voxels() * tap_step;
  }
  size_t to[B * X];
  for (int b = 0; b < B; b++)
    for (int r = 0; r < X; r++) to[b * X + r] = rows.to[b] + r;
  store_rows<B * X, 1>(job, to, sum[0]);
}

// ---- the rows of a cell

using Kernel = void (*)(const Job&, const Cell&, const Rows&);

template <int V, int R>
static Kernel rows_kernel(int rows) {
  if constexpr (R > 1)
    if (rows < R) return rows_kernel<V, R - 1>(rows);
  return rows_forward<R, V>;
}

template <int FOLD, int X, int B>
static Kernel runs_kernel(int positions, int runs) {
  if constexpr (X > 1)
    if (positions < X) return runs_kernel<FOLD, X - 1, runs_for(X - 1)>(positions, runs);
  if constexpr (B > 1)
    if (runs < B) return runs_kernel<FOLD, X, B - 1>(positions, runs);
  return runs_forward<X, B, FOLD>;
}

static Kernel kernel_for(const Part& part, int positions, int rows) {
  if (part.fold == 2) return runs_kernel<2, MAX_RUN, runs_for(MAX_RUN)>(positions, rows);
  if (part.vectors == 1) return runs_kernel<1, MAX_RUN, runs_for(MAX_RUN)>(positions, rows);
  if (part.vectors == 2) return rows_kernel<2, rows_for(2)>(rows);
  return rows_kernel<MAX_VECTORS, rows_for(MAX_VECTORS)>(rows);
}

// Outputs x .. x + n - 1 of all lines, as rows, or as runs of `positions` rows where that is n.
static void cell_rows(const Job& job, const Cell& cell, int x, int n, int positions, int at_once) {
  const DirectForward& a = job.a;
  const Kernel full = kernel_for(job.part, positions, at_once);
  Rows rows;
  int held = 0;
  for (int entry = 0; entry < a.batch; entry++)
    for (int z = cell.z.from; z < cell.z.to; z++)
      for (int y = cell.y.from; y < cell.y.to; y++) {
        const int iz = z + cell.dz.from - a.pad.z, iy = y + cell.dy.from - a.pad.y, ix = x + cell.dx.from - a.pad.x;
        const size_t from = (((size_t)entry * a.size.z + iz) * a.size.y + iy) * a.size.x + ix;
        const size_t to = (((size_t)entry * job.out_size.z + z) * job.out_size.y + y) * job.out_size.x + x;
        for (int r = 0; r < n; r += positions) {
          rows.from[held] = from + r;
          rows.to[held] = to + r;
          if (++held == at_once) full(job, cell, rows), held = 0;
        }
      }
  if (held > 0) kernel_for(job.part, positions, held)(job, cell, rows);
}

static void cell_forward(const Job& job, const Cell& cell) {
  int left = cell.x.count(), pieces = ceil_div(left, MAX_RUN);
  if (job.part.vectors > 1) return cell_rows(job, cell, cell.x.from, left, 1, rows_for(job.part.vectors));
  for (int x = cell.x.from; left > 0; pieces--) {
    const int positions = ceil_div(left, pieces);
    cell_rows(job, cell, x, positions, positions, runs_for(positions));
    x += positions;
    left -= positions;
  }
}

// The taps of output position p that fall on the n inputs of this axis.
static Range taps_at(int p, int n, int k, int pad) { return {p < pad ? pad - p : 0, min_of(k, n + pad - p)}; }

// From output `from` on, the outputs with the same taps.
static Range same_taps(int from, int n_out, int n, int k, int pad) {
  const Range taps = taps_at(from, n, k, pad);
  int to = from + 1;
  for (; to < n_out; to++) {
    const Range other = taps_at(to, n, k, pad);
    if (other.from != taps.from || other.to != taps.to) break;
  }
  return {from, to};
}

static void part_forward(const Job& job) {
  const DirectForward& a = job.a;
  const Size m = job.out_size;
  Cell cell;
  for (int z = 0; z < m.z; z = cell.z.to) {
    cell.z = same_taps(z, m.z, a.size.z, a.kernel.z, a.pad.z);
    cell.dz = taps_at(z, a.size.z, a.kernel.z, a.pad.z);
    for (int y = 0; y < m.y; y = cell.y.to) {
      cell.y = same_taps(y, m.y, a.size.y, a.kernel.y, a.pad.y);
      cell.dy = taps_at(y, a.size.y, a.kernel.y, a.pad.y);
      for (int x = 0; x < m.x; x = cell.x.to) {
        cell.x = same_taps(x, m.x, a.size.x, a.kernel.x, a.pad.x);
        cell.dx = taps_at(x, a.size.x, a.kernel.x, a.pad.x);
        cell_forward(job, cell);
      }
    }
  }
}

size_t direct_forward_scratch(const DirectForward& a) {
  size_t channels = 0;
  for (int block = 0; block < a.n_blocks; block++) channels += a.blocks[block].channels;
  return (a.kernel.voxels() * channels + 1) * MAX_VECTORS * LANES;
}

void direct_forward(const DirectForward& a) {
  const Size m = {a.size.z + a.pad.z + a.after.z - a.kernel.z + 1, a.size.y + a.pad.y + a.after.y - a.kernel.y + 1,
                  a.size.x + a.pad.x + a.after.x - a.kernel.x + 1};
  int inputs = a.blocks[0].channels;
  for (int block = 1; block < a.n_blocks; block++) inputs = min_of(inputs, a.blocks[block].channels);
  for (int first = 0; first < a.out_channels;) {
    const Part part = part_at(first, a.out_channels, inputs > 1);
    float *bias = a.scratch, *packed = bias + MAX_VECTORS * LANES;
    fill_zero(bias, part.width());
    if (a.bias) copy(bias, a.bias + first, part.count);
    if (a.turned || part.partial() || a.out_channels % LANES != 0) {
      pack(a, part, packed);
      part_forward({a, part, m, packed, bias, (size_t)part.width()});
    } else {
      part_forward({a, part, m, nullptr, bias, (size_t)a.out_channels});
    }
    first += part.count;
  }
}

}  // namespace znn::ZNN_ISA
