// Max-filter and max-pool. A max-filter's output is written straight into its fragments: position v goes to parity
// v mod stride at v / stride. The argmax is the flat index in the window; ties go to the earlier voxel.
#include "simd.hpp"
#include "table.hpp"

namespace znn::ZNN_ISA {

struct Position {
  int z, y, x;
};

static Position parity_of(const Filter& f, int p) {
  return {p / (f.stride.y * f.stride.x), p / f.stride.x % f.stride.y, p % f.stride.x};
}

template <typename Index>
static void window_maximum(const Filter& f, const float* corner, size_t lanes, float* out, Index* argmax) {
  const size_t line = f.size.x * lanes, plane = f.size.y * line;
  for (size_t q = 0; q < lanes; q += LANES) {
    const int n = min_of(LANES, (int)(lanes - q));
    vf best = load_first(corner + q, n);
    vi where = {};
    int index = 0;
    for (int dz = 0; dz < f.window.z; dz++)
      for (int dy = 0; dy < f.window.y; dy++)
        for (int dx = 0; dx < f.window.x; dx++, index++) {
          if (index == 0) continue;
          const vf value = load_first(corner + dz * plane + dy * line + dx * lanes + q, n);
          const vi larger = value > best;
          best = larger ? value : best;
          where = larger ? (vi){} + index : where;
        }
    store_first(out + q, best, n);
    for (int j = 0; j < n; j++) argmax[q + j] = (Index)where[j];
  }
}

template <typename Index>
static void forward(const Filter& f, int group, const float* image, float* out, Index* argmax) {
  const size_t lanes = (size_t)f.batch * f.channels;
  for (int z = 0; z < f.out_size.z; z++)
    for (int y = 0; y < f.out_size.y; y++)
      for (int x = 0; x < f.out_size.x; x++)
        for (int j = 0; j < f.parities_per_group; j++, out += lanes, argmax += lanes) {
          const Position p = parity_of(f, group * f.parities_per_group + j);
          const size_t row = (size_t)(z * f.stride.z + p.z) * f.size.y + y * f.stride.y + p.y;
          window_maximum(f, image + (row * f.size.x + x * f.stride.x + p.x) * lanes, lanes, out, argmax);
        }
}

void filter_forward(const Filter& f, int group, const float* image, float* out, void* argmax, int argmax_bytes) {
  if (argmax_bytes == 1) forward(f, group, image, out, (uint8_t*)argmax);
  if (argmax_bytes == 2) forward(f, group, image, out, (uint16_t*)argmax);
}

// Adds to one input voxel what the output at `offset` before it passes back: where its argmax names this voxel.
template <typename Index>
static void add_matching(size_t lanes, const float* d_out, const Index* argmax, int index, float* d_image) {
  for (size_t q = 0; q < lanes; q++) d_image[q] += argmax[q] == (Index)index ? d_out[q] : 0.0f;
}

template <typename Index>
static void voxel_backward(const Filter& f, const float* const* d_out, const void* const* argmax, Position v, float* d_image) {
  const size_t lanes = (size_t)f.batch * f.channels;
  fill_zero(d_image, lanes);
  int index = 0;
  for (int dz = 0; dz < f.window.z; dz++)
    for (int dy = 0; dy < f.window.y; dy++)
      for (int dx = 0; dx < f.window.x; dx++, index++) {
        const int z = v.z - dz, y = v.y - dy, x = v.x - dx;
        if (z < 0 || y < 0 || x < 0) continue;
        const int oz = z / f.stride.z, oy = y / f.stride.y, ox = x / f.stride.x;
        if (oz >= f.out_size.z || oy >= f.out_size.y || ox >= f.out_size.x) continue;
        const int p = (z % f.stride.z * f.stride.y + y % f.stride.y) * f.stride.x + x % f.stride.x;
        if (p >= f.n_parities) continue;
        const int group = p / f.parities_per_group;
        const size_t at = (((size_t)oz * f.out_size.y + oy) * f.out_size.x + ox) * f.parities_per_group + p % f.parities_per_group;
        add_matching(lanes, d_out[group] + at * lanes, (const Index*)argmax[group] + at * lanes, index, d_image);
      }
}

template <typename Index>
static void backward(const Filter& f, const float* const* d_out, const void* const* argmax, float* d_image) {
  const size_t lanes = (size_t)f.batch * f.channels;
  for (int z = 0; z < f.size.z; z++)
    for (int y = 0; y < f.size.y; y++)
      for (int x = 0; x < f.size.x; x++, d_image += lanes) voxel_backward<Index>(f, d_out, argmax, {z, y, x}, d_image);
}

void filter_backward(const Filter& f, const float* const* d_out, const void* const* argmax, int argmax_bytes,
                     float* d_image) {
  if (argmax_bytes == 1) backward<uint8_t>(f, d_out, argmax, d_image);
  if (argmax_bytes == 2) backward<uint16_t>(f, d_out, argmax, d_image);
}

}  // namespace znn::ZNN_ISA
