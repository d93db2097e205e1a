// Larger and smaller images by whole factors: sums of windows side by side, voxels repeated, and interpolation between
// voxel centres, forward and backward. All are done axis by axis within a row of the result, so that the memory of the
// images goes by once.
#include "simd.hpp"
#include "table.hpp"
#include "width.hpp"

namespace znn::ZNN_ISA {

// ---- windows and repetition

// to = the sum of some rows, times a factor.
static void sum_rows(const float* const* rows, int n_rows, float scale, size_t n, float* to) {
  size_t q = 0;
  for (; q + LANES <= n; q += LANES) {
    vf sum = load(rows[0] + q);
    for (int k = 1; k < n_rows; k++) sum += load(rows[k] + q);
    store(to + q, sum * scale);
  }
  for (; q < n; q++) {
    float sum = rows[0][q];
    for (int k = 1; k < n_rows; k++) sum += rows[k][q];
    to[q] = sum * scale;
  }
}

// Sums of `factor` neighbours of a row of voxels.
static void sum_neighbours(const float* row, int factor, int n, size_t lanes, float* to) {
  if (lanes < (size_t)LANES)
    return with_width(lanes, [=](auto width) mutable {
      for (int x = 0; x < n; x++, row += factor * width, to += width)
        for (size_t q = 0; q < width; q++) {
          float sum = row[q];
          for (int k = 1; k < factor; k++) sum += row[k * width + q];
          to[q] = sum;
        }
    });
  for (int x = 0; x < n; x++, row += factor * lanes, to += lanes)
    for (size_t first = 0; first < lanes; first += LANES) {
      const size_t q = first + LANES <= lanes ? first : lanes - LANES;
      vf sum = load(row + q);
      for (int k = 1; k < factor; k++) sum += load(row + k * lanes + q);
      store(to + q, sum);
    }
}

constexpr size_t POINTER = sizeof(const float*) / 4;  // in floats of scratch memory
size_t window_sum_scratch(const Resample& r) {
  const size_t pointers = (size_t)r.factor.z * r.factor.y * POINTER;
  return pointers + (size_t)r.size.x * r.factor.x * r.channels + LANES;
}

void window_sum(const Resample& r, const float* image, float* out, float* scratch) {
  const Size n = r.size, f = r.factor;
  const int n_rows = f.z * f.y;
  const float** rows = (const float**)scratch;
  float* sums = scratch + n_rows * POINTER;
  const size_t width = (size_t)n.x * f.x * r.channels;
  for (int entry = 0; entry < r.batch; entry++)
    for (int z = 0; z < n.z; z++)
      for (int y = 0; y < n.y; y++, out += (size_t)n.x * r.channels) {
        for (int k = 0; k < n_rows; k++) {
          const size_t row = ((size_t)entry * n.z * f.z + z * f.z + k / f.y) * n.y * f.y + y * f.y + k % f.y;
          rows[k] = image + row * width;
        }
        sum_rows(rows, n_rows, r.scale, width, f.x > 1 ? sums : out);
        if (f.x > 1) sum_neighbours(sums, f.x, n.x, r.channels, out);
      }
}

static void repeat_voxels(const float* row, int factor, float scale, int n, size_t lanes, float* to) {
  if (lanes < (size_t)LANES)
    return with_width(lanes, [=](auto width) mutable {
      for (int x = 0; x < n; x++, row += width)
        for (int k = 0; k < factor; k++, to += width)
          for (size_t q = 0; q < width; q++) to[q] = row[q] * scale;
    });
  for (int x = 0; x < n; x++, row += lanes, to += factor * lanes)
    for (size_t first = 0; first < lanes; first += LANES) {
      const size_t q = first + LANES <= lanes ? first : lanes - LANES;
      const vf value = load(row + q) * scale;
      for (int k = 0; k < factor; k++) store(to + k * lanes + q, value);
    }
}

void repeat(const Resample& r, const float* image, float* out) {
  const Size n = r.size, f = r.factor;
  const size_t width = (size_t)n.x * f.x * r.channels;
  for (int entry = 0; entry < r.batch; entry++)
    for (int z = 0; z < n.z; z++)
      for (int y = 0; y < n.y; y++, image += (size_t)n.x * r.channels) {
        const size_t row = ((size_t)entry * n.z + z) * f.z * n.y * f.y + y * f.y;
        float* first = out + row * width;
        repeat_voxels(image, f.x, r.scale, n.x, r.channels, first);
        for (int dz = 0; dz < f.z; dz++)
          for (int dy = 0; dy < f.y; dy++)
            if (dz + dy > 0) copy(first + ((size_t)dz * n.y * f.y + dy) * width, first, width);
      }
}

// ---- interpolation

// Voxel `low` of n, and the one after it with this weight: what voxel v of the enlarged axis is between.
struct Between {
  int low, high;
  float weight;
};
static Between between(int v, int n, int factor) {
  const double place = (v + 0.5) / factor - 0.5;
  if (place <= 0.0) return {0, 0, 0.0f};
  const int low = (int)place;
  if (low >= n - 1) return {n - 1, n - 1, 0.0f};
  return {low, low + 1, (float)(place - low)};
}

// The rows that a row of the enlarged image is between, at most four, and their weights.
struct BlendedRows {
  int n = 0;
  size_t row[4];
  float weight[4];

  BlendedRows(const Size& size, size_t plane, const Between& z, const Between& y) {
    for (int k = 0; k < 4; k++) {
      const float w = (k / 2 ? z.weight : 1.0f - z.weight) * (k % 2 ? y.weight : 1.0f - y.weight);
      if (w == 0.0f) continue;
      row[n] = (plane + (k / 2 ? z.high : z.low)) * size.y + (k % 2 ? y.high : y.low);
      weight[n++] = w;
    }
  }
};

template <int N>
ZNN_INLINE void blend(const BlendedRows& rows, const float* image, size_t width, float* to) {
  const float* from[N];
  for (int k = 0; k < N; k++) from[k] = image + rows.row[k] * width;
  size_t q = 0;
  for (; q + LANES <= width; q += LANES) {
    vf sum = {};
    for (int k = 0; k < N; k++) sum += load(from[k] + q) * rows.weight[k];
    store(to + q, sum);
  }
  for (; q < width; q++) {
    float sum = 0.0f;
    for (int k = 0; k < N; k++) sum += from[k][q] * rows.weight[k];
    to[q] = sum;
  }
}
static void blend_rows(const BlendedRows& rows, const float* image, size_t width, float* to) {
  if (rows.n == 4) return blend<4>(rows, image, width, to);
  if (rows.n == 2) return blend<2>(rows, image, width, to);
  blend<1>(rows, image, width, to);
}

// Voxels of a row between their neighbours.
static void stretch(const float* row, const Between* places, int n, size_t lanes, float* to) {
  if (lanes < (size_t)LANES)
    return with_width(lanes, [=](auto width) mutable {
      for (int x = 0; x < n; x++, to += width) {
        const float *low = row + places[x].low * width, *high = row + places[x].high * width;
        const float w = places[x].weight, rest = 1.0f - w;
        for (size_t q = 0; q < width; q++) to[q] = low[q] * rest + high[q] * w;
      }
    });
  for (int x = 0; x < n; x++, to += lanes) {
    const float *low = row + places[x].low * lanes, *high = row + places[x].high * lanes;
    const float w = places[x].weight, rest = 1.0f - w;
    for (size_t first = 0; first < lanes; first += LANES) {
      const size_t q = first + LANES <= lanes ? first : lanes - LANES;
      store(to + q, load(low + q) * rest + load(high + q) * w);
    }
  }
}

size_t interpolate_scratch(const Resample& r) {
  return (size_t)r.size.x * r.channels + (size_t)r.size.x * r.factor.x * (sizeof(Between) / sizeof(float)) + LANES;
}

void interpolate(const Resample& r, const float* image, float* out, float* scratch) {
  const Size n = r.size, f = r.factor;
  const size_t width = (size_t)n.x * r.channels;
  Between* along_x = (Between*)(scratch + width);
  for (int x = 0; x < n.x * f.x; x++) along_x[x] = between(x, n.x, f.x);
  for (int entry = 0; entry < r.batch; entry++)
    for (int z = 0; z < n.z * f.z; z++)
      for (int y = 0; y < n.y * f.y; y++, out += f.x * width) {
        const BlendedRows rows(n, (size_t)entry * n.z, between(z, n.z, f.z), between(y, n.y, f.y));
        blend_rows(rows, image, width, f.x > 1 ? scratch : out);
        if (f.x > 1) stretch(scratch, along_x, n.x * f.x, r.channels, out);
      }
}

// What every voxel of a row gives to its neighbours, gathered: for voxel x those from starts[x] on, with their weights.
struct Shrink {
  const int* starts;     // (n)
  const float* weights;  // (n, taps)
  int taps;
};
// So many voxels of the enlarged axis reach one of n at most.
static int taps_of(int n, int factor) { return min_of(n, 2) * factor; }

static void shrink(const Shrink& s, const float* row, int n, size_t lanes, float* to) {
  const int taps = s.taps;
  if (lanes < (size_t)LANES)
    return with_width(lanes, [=](auto width) mutable {
      for (int x = 0; x < n; x++, to += width) {
        const float *weights = s.weights + x * taps, *from = row + s.starts[x] * width;
        for (size_t q = 0; q < width; q++) {
          float sum = 0.0f;
          for (int k = 0; k < taps; k++) sum += from[k * width + q] * weights[k];
          to[q] = sum;
        }
      }
    });
  for (int x = 0; x < n; x++, to += lanes) {
    const float *weights = s.weights + x * taps, *from = row + s.starts[x] * lanes;
    for (size_t first = 0; first < lanes; first += LANES) {
      const size_t q = first + LANES <= lanes ? first : lanes - LANES;
      vf sum = {};
      for (int k = 0; k < taps; k++) sum += load(from + k * lanes + q) * weights[k];
      store(to + q, sum);
    }
  }
}

size_t interpolate_backward_scratch(const Resample& r) {
  return (size_t)r.size.x * r.channels + (size_t)r.size.x * (1 + taps_of(r.size.x, r.factor.x)) + LANES;
}

void interpolate_backward(const Resample& r, const float* d_out, float* d_image, float* scratch) {
  const Size n = r.size, f = r.factor;
  const size_t width = (size_t)n.x * r.channels;
  int* starts = (int*)(scratch + width);
  float* weights = scratch + width + n.x;
  const int taps = taps_of(n.x, f.x);
  fill_zero(weights, (size_t)n.x * taps);
  for (int x = 0; x < n.x; x++) {
    // Those that reach voxel x lie within `factor` of its centre; near the ends all taps are moved into the row.
    const int first = x * f.x - f.x / 2, last = n.x * f.x - taps;
    starts[x] = first < 0 ? 0 : min_of(first, last);
  }
  for (int v = 0; v < n.x * f.x; v++) {
    const Between b = between(v, n.x, f.x);
    weights[b.low * taps + v - starts[b.low]] += 1.0f - b.weight;
    if (b.weight > 0.0f) weights[b.high * taps + v - starts[b.high]] += b.weight;
  }
  const Shrink along_x = {starts, weights, taps};
  fill_zero(d_image, r.batch * n.voxels() * r.channels);
  for (int entry = 0; entry < r.batch; entry++)
    for (int z = 0; z < n.z * f.z; z++)
      for (int y = 0; y < n.y * f.y; y++, d_out += f.x * width) {
        const BlendedRows rows(n, (size_t)entry * n.z, between(z, n.z, f.z), between(y, n.y, f.y));
        if (f.x > 1) shrink(along_x, d_out, n.x, r.channels, scratch);
        const float* from = f.x > 1 ? scratch : d_out;
        for (int k = 0; k < rows.n; k++) {
          float* to = d_image + rows.row[k] * width;
          for (size_t q = 0; q < width; q++) to[q] += rows.weight[k] * from[q];
        }
      }
}

}  // namespace znn::ZNN_ISA
