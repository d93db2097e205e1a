// Direct convolution: channels-last, register-blocked, no im2col. Vectors run over output channels; a row is one
// voxel, so a shift by one voxel in x is a shift by one row.
#include "simd.hpp"
#include "table.hpp"

namespace znn::ZNN_ISA {

static Size valid_size(Size n, Size k) { return {n.z - k.z + 1, n.y - k.y + 1, n.x - k.x + 1}; }

// Vectors of output channels done at once, and the rows that then fit the registers.
constexpr int MAX_VECTORS = REGISTERS == 32 ? 3 : 2;
constexpr int rows_for(int vectors) {
  return REGISTERS == 32 ? (vectors == 3 ? 8 : 12) : (vectors == 2 ? 6 : 10);
}

template <int R, int V>
static void rows_forward(const DirectForward& a, int entry, int z, int y, size_t row, const float* w, float* out, int tail) {
  vf sum[R][V];
  for (int r = 0; r < R; r++)
    for (int v = 0; v < V; v++) sum[r][v] = (vf){};
  for (int block = 0; block < a.n_blocks; block++) {
    const size_t channels = a.blocks[block].channels;
    const float* image = a.blocks[block].data + entry * a.size.voxels() * channels;
    for (int dz = 0; dz < a.kernel.z; dz++)
      for (int dy = 0; dy < a.kernel.y; dy++) {
        const int iz = z + dz - a.pad_z, iy = y + dy - a.pad_y;
        if (iz < 0 || iz >= a.size.z || iy < 0 || iy >= a.size.y) {
          w += a.kernel.x * channels * V * LANES;
          continue;
        }
        const float* line = image + (((size_t)iz * a.size.y + iy) * a.size.x + row) * channels;
        for (int dx = 0; dx < a.kernel.x; dx++, line += channels)
          for (size_t i = 0; i < channels; i++, w += V * LANES) {
            vf weight[V];
            for (int v = 0; v < V; v++) weight[v] = load(w + v * LANES);
#pragma GCC unroll 12
            for (int r = 0; r < R; r++) {
              const float value = line[r * channels + i];
              for (int v = 0; v < V; v++) sum[r][v] += value * weight[v];
            }
          }
      }
  }
  for (int r = 0; r < R; r++) {
    for (int v = 0; v < V - 1; v++) store(out + (size_t)r * a.out_channels + v * LANES, sum[r][v]);
    store_first(out + (size_t)r * a.out_channels + (V - 1) * LANES, sum[r][V - 1], tail);
  }
}

template <int R, int V>
static size_t rows_up_to(const DirectForward& a, int entry, int z, int y, size_t row, size_t n, const float* w, float* out,
                         int tail) {
  for (; row + R <= n; row += R) rows_forward<R, V>(a, entry, z, y, row, w, out + row * a.out_channels, tail);
  return row;
}

template <int V>
static void channels_forward(const DirectForward& a, const float* w, int first, int tail) {
  const Size padded = {a.size.z + 2 * a.pad_z, a.size.y + 2 * a.pad_y, a.size.x};
  const Size m = valid_size(padded, a.kernel);
  const size_t n = m.x;
  float* out = a.out + first;
  for (int entry = 0; entry < a.batch; entry++)
    for (int z = 0; z < m.z; z++)
      for (int y = 0; y < m.y; y++, out += n * a.out_channels) {
        size_t row = rows_up_to<rows_for(V), V>(a, entry, z, y, 0, n, w, out, tail);
        row = rows_up_to<4, V>(a, entry, z, y, row, n, w, out, tail);
        rows_up_to<1, V>(a, entry, z, y, row, n, w, out, tail);
      }
}

// Copies channels first .. first + V * LANES of every tap, zero beyond the last, so that loops load whole vectors.
static void pack(const DirectForward& a, int first, int width, float* to) {
  const int count = min_of(width, a.out_channels - first);
  for (int block = 0; block < a.n_blocks; block++) {
    const size_t taps = a.kernel.voxels() * a.blocks[block].channels;
    for (size_t t = 0; t < taps; t++, to += width) {
      copy(to, a.blocks[block].kernel + t * a.out_channels + first, count);
      fill_zero(to + count, width - count);
    }
  }
}

size_t direct_forward_scratch(const DirectForward& a) {
  size_t taps = 0;
  for (int block = 0; block < a.n_blocks; block++) taps += a.kernel.voxels() * a.blocks[block].channels;
  return taps * MAX_VECTORS * LANES;
}

void direct_forward(const DirectForward& a) {
  for (int first = 0; first < a.out_channels;) {
    const int left = ceil_div(a.out_channels - first, LANES);
    // Four vectors go as two and two: a lone one would waste registers.
    const int vectors = left == 4 && MAX_VECTORS == 3 ? 2 : min_of(left, MAX_VECTORS);
    const int tail = min_of(LANES, a.out_channels - first - (vectors - 1) * LANES);
    pack(a, first, vectors * LANES, a.scratch);
    if (vectors == 1) channels_forward<1>(a, a.scratch, first, tail);
    if (vectors == 2) channels_forward<2>(a, a.scratch, first, tail);
    if constexpr (MAX_VECTORS == 3)
      if (vectors == 3) channels_forward<3>(a, a.scratch, first, tail);
    first += vectors * LANES;
  }
}

// ---- kernel gradient: d_kernel[d, i, o] = sum over voxels v of image[v + d, i] * d_out[v, o]

constexpr int TAPS = REGISTERS == 32 ? 8 : 4;

// Adds `rows` rows to T taps (an x shift and an input channel each) x V vectors of output channels.
template <int T, int V>
ZNN_INLINE void taps_gradient(const float* image, const size_t* shift, size_t stride, const float* d_out, size_t d_stride,
                              size_t rows, float* sum, size_t sum_stride) {
  vf acc[T][V];
  for (int t = 0; t < T; t++)
    for (int v = 0; v < V; v++) acc[t][v] = load(sum + t * sum_stride + v * LANES);
  for (size_t r = 0; r < rows; r++, image += stride, d_out += d_stride) {
    vf d[V];
    for (int v = 0; v < V; v++) d[v] = load(d_out + v * LANES);
#pragma GCC unroll 8
    for (int t = 0; t < T; t++) {
      const float value = image[shift[t]];
      for (int v = 0; v < V; v++) acc[t][v] += value * d[v];
    }
  }
  for (int t = 0; t < T; t++)
    for (int v = 0; v < V; v++) store(sum + t * sum_stride + v * LANES, acc[t][v]);
}

template <int T>
static void vectors_gradient(const float* image, const size_t* shift, size_t stride, const float* d_out, size_t padded,
                             size_t rows, float* sum) {
  size_t o = 0;
  for (; o + 3 * LANES <= padded && REGISTERS == 32; o += 3 * LANES)
    taps_gradient<T, REGISTERS == 32 ? 3 : 2>(image, shift, stride, d_out + o, padded, rows, sum + o, padded);
  for (; o + 2 * LANES <= padded; o += 2 * LANES)
    taps_gradient<T, 2>(image, shift, stride, d_out + o, padded, rows, sum + o, padded);
  for (; o < padded; o += LANES) taps_gradient<T, 1>(image, shift, stride, d_out + o, padded, rows, sum + o, padded);
}

static size_t padded_channels(int channels) { return (size_t)ceil_div(channels, LANES) * LANES; }

size_t direct_gradient_scratch(const DirectGradient& a) {
  const size_t padded = padded_channels(a.out_channels);
  const Size m = valid_size(a.size, a.kernel);
  return (a.kernel.voxels() * a.in_channels + m.x) * padded;
}

// `image`: of one entry.
static void line_gradient(const DirectGradient& a, const float* image, int z, int y, const float* d_line, size_t rows,
                          size_t padded, float* sums) {
  const size_t taps = (size_t)a.kernel.x * a.in_channels;
  for (int dz = 0; dz < a.kernel.z; dz++)
    for (int dy = 0; dy < a.kernel.y; dy++) {
      const float* line = image + ((size_t)(z + dz) * a.size.y + y + dy) * a.size.x * a.in_channels;
      float* sum = sums + ((size_t)dz * a.kernel.y + dy) * taps * padded;
      for (size_t t = 0; t < taps;) {
        size_t shift[TAPS];
        const size_t count = taps - t < (size_t)TAPS ? taps - t : TAPS;
        for (size_t j = 0; j < count; j++) shift[j] = t + j;
        const size_t stride = a.in_channels;
        if (count == TAPS)
          vectors_gradient<TAPS>(line, shift, stride, d_line, padded, rows, sum + t * padded), t += TAPS;
        else if (count >= 3)
          vectors_gradient<3>(line, shift, stride, d_line, padded, rows, sum + t * padded), t += 3;
        else
          vectors_gradient<1>(line, shift, stride, d_line, padded, rows, sum + t * padded), t += 1;
      }
    }
}

void direct_gradient(const DirectGradient& a) {
  const size_t padded = padded_channels(a.out_channels), taps = a.kernel.voxels() * a.in_channels;
  const Size m = valid_size(a.size, a.kernel);
  const size_t rows = m.x;
  float *sums = a.scratch, *d_line = sums + taps * padded;
  fill_zero(sums, (taps + rows) * padded);
  const float* from = a.d_out;
  for (int entry = 0; entry < a.batch; entry++) {
    const float* image = a.image + entry * a.size.voxels() * a.in_channels;
    for (int z = 0; z < m.z; z++)
      for (int y = 0; y < m.y; y++) {
        for (size_t r = 0; r < rows; r++, from += a.out_channels) copy(d_line + r * padded, from, a.out_channels);
        line_gradient(a, image, z, y, d_line, rows, padded, sums);
      }
  }
  for (size_t t = 0; t < taps; t++) copy(a.d_kernel + t * a.out_channels, sums + t * padded, a.out_channels);
}

}  // namespace znn::ZNN_ISA
