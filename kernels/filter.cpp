// Max-filter and max-pool. A max-filter's output is written straight into its fragments: position v goes to parity
// v mod stride at v / stride. The argmax is the flat index in the window; ties go to the earlier voxel, NaN wins.
// Small windows are compared voxel by voxel, large ones axis by axis (filter_separable.hpp). Backward, small windows
// are gathered, so that every voxel is written once; the others are scattered.
#include "filter.hpp"
#include "filter_separable.hpp"

namespace znn::ZNN_ISA {

constexpr size_t SMALL_WINDOW = 8, GATHERED_WINDOW = 16;  // voxels; measured

static bool dense(const Filter& f) { return (size_t)f.n_parities == f.stride.voxels(); }
static bool separable(const Filter& f) { return dense(f) && f.window.voxels() > SMALL_WINDOW; }

// ---- forward, voxel by voxel

// W: voxels of the window along an axis, or 0 where only the filter knows.
template <int WZ, int WY, int WX, typename Index>
ZNN_INLINE void window_maximum(const Filter& f, const float* corner, size_t line, size_t plane, size_t lanes, int n,
                               float* out, Index* argmax) {
  const int wz = WZ ? WZ : f.window.z, wy = WY ? WY : f.window.y, wx = WX ? WX : f.window.x;
  Maximum best = {load_first(corner, n), (vi){}};
  vi index = {};
  for (int dz = 0; dz < wz; dz++)
    for (int dy = 0; dy < wy; dy++)
      for (int dx = 0; dx < wx; dx++, index += 1)
        if (dz + dy + dx > 0) best = later({load_first(corner + dz * plane + dy * line + dx * lanes, n), index}, best);
  store_first(out, best.value, n);
  store_index(argmax, best.where, n);
}

template <int WZ, int WY, int WX, typename Index>
static void direct(const Filter& f, const float* image, float* const* out, Index* const* argmax) {
  const size_t lanes = (size_t)f.batch * f.channels, line = f.size.x * lanes, plane = f.size.y * line;
  size_t at = 0;  // of the position's parities in each group
  for (int z = 0; z < f.out_size.z; z++)
    for (int y = 0; y < f.out_size.y; y++)
      for (int x = 0; x < f.out_size.x; x++, at += f.parities_per_group * lanes) {
        const float* corner = image + z * f.stride.z * plane + y * f.stride.y * line + x * f.stride.x * lanes;
        Parity p = {};
        for (int parity = 0; parity < f.n_parities; parity++, p.next(f)) {
          const float* from = corner + p.z * plane + p.y * line + p.x * lanes;
          float* to = out[p.group] + at + p.in_group * lanes;
          Index* where = argmax[p.group] + at + p.in_group * lanes;
          for_lanes(lanes, ZNN_BODY(q, n) {
            window_maximum<WZ, WY, WX>(f, from + q, line, plane, lanes, n, to + q, where + q);
          });
        }
      }
}

template <typename Index>
static void forward(const Filter& f, const float* image, float* const* out, Index* const* argmax, float* scratch) {
  const Size w = f.window;
  if (separable(f)) return separable_forward(f, image, out, argmax, scratch);
  if (w.z == 2 && w.y == 2 && w.x == 2) return direct<2, 2, 2>(f, image, out, argmax);
  if (w.z == 1 && w.y == 2 && w.x == 2) return direct<1, 2, 2>(f, image, out, argmax);
  direct<0, 0, 0>(f, image, out, argmax);
}

size_t filter_forward_scratch(const Filter& f) { return separable(f) ? separable_scratch(f) : 0; }

void filter_forward(const Filter& f, const float* image, float* const* out, void* const* argmax, int argmax_bytes,
                    float* scratch) {
  if (argmax_bytes == 1) forward(f, image, out, (uint8_t* const*)argmax, scratch);
  if (argmax_bytes == 2) forward(f, image, out, (uint16_t* const*)argmax, scratch);
}

// ---- backward

// What window positions along x share: the parity, and how far its fragment's voxel is from the row's first.
struct Column {
  size_t parity, offset;
};
// Where a row of window positions begins, for one parity along x.
template <typename Index>
struct Row {
  const float* d_out;
  const Index* argmax;
};

// One voxel of the gradient: the sum over the windows that hold it, in the order of its place in them.
template <typename Index>
struct Windows {
  int n;
  const float* d_out[GATHERED_WINDOW];
  const Index* argmax[GATHERED_WINDOW];
  int place[GATHERED_WINDOW];

  void add(const Row<Index>& row, size_t offset, int in_window) {
    d_out[n] = row.d_out + offset;
    argmax[n] = row.argmax + offset;
    place[n++] = in_window;
  }
  inline __attribute__((always_inline)) void gather(int count, size_t lanes, float* to) const {
    for_lanes(lanes, ZNN_BODY(q, n_lanes) {
      vf sum = {};
      for (int k = 0; k < count; k++) {
        const vi here = load_index(argmax[k] + q, n_lanes) == (vi){} + place[k];
        sum += here ? load_first(d_out[k] + q, n_lanes) : (vf){};
      }
      store_first(to + q, sum, n_lanes);
    });
  }
};

// The window positions that hold voxel v along an axis are v - last to v - first.
struct Reach {
  int first, last;
};
static Reach reach(int v, int window, int positions) {
  return {v < positions ? 0 : v - positions + 1, v < window ? v : window - 1};
}

template <typename Index>
static void gather(const Filter& f, const float* const* d_out, const Index* const* argmax, float* d_image, float* scratch) {
  const size_t lanes = (size_t)f.batch * f.channels, step = f.parities_per_group * lanes;
  const Size s = f.stride, m = {f.out_size.z * s.z, f.out_size.y * s.y, f.out_size.x * s.x};
  Column* columns = (Column*)scratch;
  Row<Index>* rows = (Row<Index>*)(columns + m.x);  // (dz, dy, parity along x)
  for (int x = 0; x < m.x; x++) columns[x] = {(size_t)(x % s.x), x / s.x * step};
  for (int z = 0; z < f.size.z; z++)
    for (int y = 0; y < f.size.y; y++) {
      const Reach rz = reach(z, f.window.z, m.z), ry = reach(y, f.window.y, m.y);
      for (int dz = rz.first; dz <= rz.last; dz++)
        for (int dy = ry.first; dy <= ry.last; dy++)
          for (int px = 0; px < s.x; px++) {
            const Place p = place_of(f, z - dz, y - dy, px, lanes);
            rows[(dz * f.window.y + dy) * s.x + px] = {d_out[p.group] + p.at, argmax[p.group] + p.at};
          }
      for (int x = 0; x < f.size.x; x++, d_image += lanes) {
        const Reach rx = reach(x, f.window.x, m.x);
        Windows<Index> w;
        w.n = 0;
        for (int dz = rz.first; dz <= rz.last; dz++)
          for (int dy = ry.first; dy <= ry.last; dy++)
            for (int dx = rx.first; dx <= rx.last; dx++) {
              const Column c = columns[x - dx];
              w.add(rows[(dz * f.window.y + dy) * s.x + c.parity], c.offset, (dz * f.window.y + dy) * f.window.x + dx);
            }
        if (w.n == 8) w.gather(8, lanes, d_image);
        else if (w.n == 4) w.gather(4, lanes, d_image);
        else w.gather(w.n, lanes, d_image);
      }
    }
}

// Windows that do not overlap: each position writes its whole window.
template <typename Index>
static void spread(const Filter& f, const float* d_out, const Index* argmax, float* d_image) {
  const size_t lanes = (size_t)f.batch * f.channels, line = f.size.x * lanes, plane = f.size.y * line;
  const Size o = f.out_size, w = f.window;
  if (o.z * w.z != f.size.z || o.y * w.y != f.size.y || o.x * w.x != f.size.x) fill_zero(d_image, f.size.voxels() * lanes);
  for (int z = 0; z < o.z; z++)
    for (int y = 0; y < o.y; y++)
      for (int x = 0; x < o.x; x++, d_out += lanes, argmax += lanes) {
        float* corner = d_image + z * w.z * plane + y * w.y * line + x * w.x * lanes;
        for_lanes(lanes, ZNN_BODY(q, n) {
          const vf gradient = load_first(d_out + q, n);
          const vi where = load_index(argmax + q, n);
          vi index = {};
          for (int dz = 0; dz < w.z; dz++)
            for (int dy = 0; dy < w.y; dy++)
              for (int dx = 0; dx < w.x; dx++, index += 1)
                store_first(corner + dz * plane + dy * line + dx * lanes + q, where == index ? gradient : (vf){}, n);
        });
      }
}

// Each value goes by itself to the voxel that its argmax names.
template <typename Index>
static void scatter(const Filter& f, const float* const* d_out, const Index* const* argmax, float* d_image, float* scratch) {
  const size_t lanes = (size_t)f.batch * f.channels, line = f.size.x * lanes, plane = f.size.y * line;
  size_t* offsets = (size_t*)scratch;
  for (int dz = 0, k = 0; dz < f.window.z; dz++)
    for (int dy = 0; dy < f.window.y; dy++)
      for (int dx = 0; dx < f.window.x; dx++) offsets[k++] = dz * plane + dy * line + dx * lanes;
  fill_zero(d_image, f.size.voxels() * lanes);
  size_t at = 0;
  for (int z = 0; z < f.out_size.z; z++)
    for (int y = 0; y < f.out_size.y; y++)
      for (int x = 0; x < f.out_size.x; x++, at += f.parities_per_group * lanes) {
        float* corner = d_image + z * f.stride.z * plane + y * f.stride.y * line + x * f.stride.x * lanes;
        Parity p = {};
        for (int parity = 0; parity < f.n_parities; parity++, p.next(f)) {
          float* to = corner + p.z * plane + p.y * line + p.x * lanes;
          const float* d = d_out[p.group] + at + p.in_group * lanes;
          const Index* where = argmax[p.group] + at + p.in_group * lanes;
          for (size_t q = 0; q < lanes; q++) to[offsets[where[q]] + q] += d[q];
        }
      }
}

static bool gathered(const Filter& f) { return dense(f) && f.window.voxels() <= GATHERED_WINDOW; }
static bool side_by_side(const Filter& f) {
  return f.n_parities == 1 && f.stride.z == f.window.z && f.stride.y == f.window.y && f.stride.x == f.window.x;
}

size_t filter_backward_scratch(const Filter& f) {
  size_t bytes = f.window.voxels() * sizeof(size_t);
  if (gathered(f))
    bytes = (size_t)f.size.x * sizeof(Column) + (size_t)f.window.z * f.window.y * f.stride.x * sizeof(Row<uint8_t>);
  return bytes / sizeof(float);
}

template <typename Index>
static void backward(const Filter& f, const float* const* d_out, const Index* const* argmax, float* d_image, float* scratch) {
  if (side_by_side(f)) return spread(f, d_out[0], argmax[0], d_image);
  if (gathered(f)) return gather(f, d_out, argmax, d_image, scratch);
  scatter(f, d_out, argmax, d_image, scratch);
}

void filter_backward(const Filter& f, const float* const* d_out, const void* const* argmax, int argmax_bytes,
                     float* d_image, float* scratch) {
  if (argmax_bytes == 1) backward(f, d_out, (const uint8_t* const*)argmax, d_image, scratch);
  if (argmax_bytes == 2) backward(f, d_out, (const uint16_t* const*)argmax, d_image, scratch);
}

}  // namespace znn::ZNN_ISA
