// Max-filter and max-pool. A max-filter's output is written straight into its fragments: position v goes to parity
// v mod stride at v / stride. The argmax is the flat index in the window; ties go to the earlier voxel, NaN wins.
// Windows of two voxels are done in blocks of rows (filter_two.hpp), other small ones voxel by voxel, large ones axis
// by axis (filter_separable.hpp). Backward, small windows are gathered, so that every voxel is written once, or twice by
// windows of two; the others are scattered.
#include "filter.hpp"
#include "filter_separable.hpp"
#include "filter_two.hpp"

namespace znn::ZNN_ISA {

// Whether it is faster to look for NaN first and then compare with or without; with narrow vectors that is slower.
constexpr bool NAN_APART = LANES == 16;
constexpr size_t SMALL_WINDOW = 8, GATHERED_WINDOW = 16;  // voxels; measured

static bool separable(const Filter& f) { return dense(f) && f.window.voxels() > SMALL_WINDOW; }

// ---- forward, voxel by voxel

// W: voxels of the window along an axis, or 0 where only the filter knows. Adds all that it saw to `sum`.
template <int WZ, int WY, int WX, bool MAY_BE_NAN, typename Index>
ZNN_INLINE void window_maximum(const Filter& f, const float* corner, size_t line, size_t plane, size_t lanes, int n,
                               float* out, Index* argmax, vf& sum) {
  const int wz = WZ ? WZ : f.window.z, wy = WY ? WY : f.window.y, wx = WX ? WX : f.window.x;
  Maximum best = {load_first(corner, n), (vi){}};
  sum += best.value;
  for (int dz = 0, index = 0; dz < wz; dz++)
    for (int dy = 0; dy < wy; dy++)
      for (int dx = 0; dx < wx; dx++, index++) {
        if (index == 0) continue;
        const vf here = load_first(corner + dz * plane + dy * line + dx * lanes, n);
        sum += here;
        best = later_of<MAY_BE_NAN>({here, (vi){}}, best, index);
      }
  store_first(out, best.value, n);
  store_index(argmax, best.where, n);
}

// Returns whether there may be NaN in the row.
template <int WZ, int WY, int WX, bool MAY_BE_NAN, typename Index>
static bool direct_row(const Filter& f, const float* corner, float* to, Index* where) {
  const size_t lanes = f.channels, line = f.size.x * lanes, plane = f.size.y * line;
  vf sum = {};
  for (int x = 0; x < f.out_size.x; x++, corner += f.stride.x * lanes, to += lanes, where += lanes)
    for_lanes(lanes, ZNN_BODY(q, n) {
      window_maximum<WZ, WY, WX, MAY_BE_NAN>(f, corner + q, line, plane, lanes, n, to + q, where + q, sum);
    });
  return any_nan(sum);
}

template <int WZ, int WY, int WX, typename Index>
static void direct(const Filter& f, const float* image, float* const* out, Index* const* argmax) {
  for_rows(f, [&](const Row& row) {
    const float* corner = image + row.corner;
    float* to = out[row.group] + row.at;
    Index* where = argmax[row.group] + row.at;
    if (!NAN_APART || direct_row<WZ, WY, WX, false>(f, corner, to, where))
      direct_row<WZ, WY, WX, true>(f, corner, to, where);
  });
}

template <typename Index>
static void forward(const Filter& f, const float* image, float* const* out, Index* const* argmax, float* scratch) {
  const Size w = f.window;
  if (separable(f)) return separable_forward(f, image, out, argmax, scratch);
  if (of_two(f) && w.z == 2) return forward_of_two<2>(f, image, out, argmax);
  if (of_two(f)) return forward_of_two<1>(f, image, out, argmax);
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

struct Reach {  // the windows that hold voxel v along an axis begin at v - last to v - first
  int first, last;

  bool operator==(const Reach& r) const { return first == r.first && last == r.last; }
};
static Reach reach(int v, int window, int positions) {
  return {v < positions ? 0 : v - positions + 1, v < window ? v : window - 1};
}

// Where window position v - d is kept along an axis, for a voxel v below the stride: its parity, and how many voxels
// of the fragment it is before v.
struct Back {
  int parity, voxels;
};
static Back back(int v, int d, int stride) {
  const int voxels = d > v ? (d - v + stride - 1) / stride : 0;
  return {v - d + voxels * stride, voxels};
}

// The windows that hold a voxel, in the order of its place in them. Voxels whose distance is the stride see theirs in
// the same fragments, one voxel further on: a list of those of every voxel below the stride serves the whole image.
template <typename Index>
struct Windows {
  int n;
  Reach of_z, of_y, of_x;
  int place[GATHERED_WINDOW];
  const float* d_out[GATHERED_WINDOW];
  const Index* argmax[GATHERED_WINDOW];
  size_t at[GATHERED_WINDOW];  // counted modulo 2^64: before the array's first value until the voxel's offset is added

  void add(int in_window, const float* d, const Index* where, size_t from) {
    place[n] = in_window;
    d_out[n] = d;
    argmax[n] = where;
    at[n++] = from;
  }
  void list(const Filter& f, Size voxel, size_t lanes, const float* const* gradients, const Index* const* indices) {
    for (int dz = 0; dz < f.window.z; dz++)
      for (int dy = 0; dy < f.window.y; dy++)
        for (int dx = 0; dx < f.window.x; dx++) {
          const Back z = back(voxel.z, dz, f.stride.z), y = back(voxel.y, dy, f.stride.y), x = back(voxel.x, dx, f.stride.x);
          const int parity = (z.parity * f.stride.y + y.parity) * f.stride.x + x.parity, group = parity / f.parities_per_group;
          const size_t cells = ((size_t)z.voxels * f.out_size.y + y.voxels) * f.out_size.x + x.voxels;
          const size_t first = (size_t)(parity % f.parities_per_group) * f.batch * f.out_size.voxels();
          add(n, gradients[group], indices[group], (first - cells) * lanes);
        }
  }
  // Those of `all` that lie in the image; nothing is done if that is what the list holds already.
  void restrict_to(const Windows& all, Size window, Reach z, Reach y, Reach x) {
    if (n > 0 && z == of_z && y == of_y && x == of_x) return;
    n = 0;
    of_z = z;
    of_y = y;
    of_x = x;
    for (int dz = z.first; dz <= z.last; dz++)
      for (int dy = y.first; dy <= y.last; dy++)
        for (int dx = x.first; dx <= x.last; dx++) {
          const int k = (dz * window.y + dy) * window.x + dx;
          add(k, all.d_out[k], all.argmax[k], all.at[k]);
        }
  }
  // Some voxels of a row, `step` values apart; their windows are one voxel apart, the first `offset` on.
  template <int COUNT>
  void sum_of(size_t offset, size_t lanes, int voxels, float* to, size_t step) const {
    const int count = COUNT ? COUNT : n;
    for (int x = 0; x < voxels; x++, offset += lanes, to += step)
      for_lanes(lanes, ZNN_BODY(q, n_lanes) {
        vf sum = {};
        for (int k = 0; k < count; k++) {
          const size_t from = at[k] + offset + q;
          const vi here = load_index(argmax[k] + from, n_lanes) == (vi){} + place[k];
          sum += here ? load_first(d_out[k] + from, n_lanes) : (vf){};
        }
        store_first(to + q, sum, n_lanes);
      });
  }
  void sum(size_t offset, size_t lanes, int voxels, float* to, size_t step) const {
    if (n == 8) return sum_of<8>(offset, lanes, voxels, to, step);
    if (n == 4) return sum_of<4>(offset, lanes, voxels, to, step);
    if (n == 2) return sum_of<2>(offset, lanes, voxels, to, step);
    sum_of<0>(offset, lanes, voxels, to, step);
  }
};

// Of the voxels v, v + stride, .. of a row, how many from v on have one reach: all that have whole windows, or one.
static int alike(int v, int stride, int window, int positions) {
  return v < window - 1 || v >= positions ? 1 : ceil_div(positions - v, stride);
}

template <typename Index>
static void gather(const Filter& f, const float* const* d_out, const Index* const* argmax, float* d_image, float* scratch) {
  const size_t lanes = f.channels;
  const Size n = f.size, w = f.window, s = f.stride, m = {f.out_size.z * s.z, f.out_size.y * s.y, f.out_size.x * s.x};
  // (z, y, x), below the stride: all windows, and those that lie in the image for the voxels done last.
  Windows<Index>*windows = (Windows<Index>*)scratch, *inside = windows + s.voxels();
  for (int v = 0; v < (int)s.voxels(); v++) {
    windows[v].n = inside[v].n = 0;
    windows[v].list(f, {v / (s.y * s.x), v / s.x % s.y, v % s.x}, lanes, d_out, argmax);
  }
  for (int entry = 0; entry < f.batch; entry++)
    for (int z = 0; z < n.z; z++)
      for (int y = 0; y < n.y; y++, d_image += n.x * lanes)
        for (int first = 0; first < s.x && first < n.x; first++) {
          const int v = (z % s.z * s.y + y % s.y) * s.x + first;
          const size_t row = (((size_t)entry * f.out_size.z + z / s.z) * f.out_size.y + y / s.y) * f.out_size.x;
          const Reach of_z = reach(z, w.z, m.z), of_y = reach(y, w.y, m.y);
          for (int x = first, count; x < n.x; x += count * s.x) {
            count = alike(x, s.x, w.x, m.x);
            inside[v].restrict_to(windows[v], w, of_z, of_y, reach(x, w.x, m.x));
            inside[v].sum((row + x / s.x) * lanes, lanes, count, d_image + x * lanes, s.x * lanes);
          }
        }
}

// Windows that do not overlap: each position writes its whole window. W as above.
template <int WZ, int WY, int WX, typename Index>
static void spread(const Filter& f, const float* d_out, const Index* argmax, float* d_image) {
  const size_t lanes = f.channels, line = f.size.x * lanes, plane = f.size.y * line;
  const Size o = f.out_size, w = WZ ? Size{WZ, WY, WX} : f.window;
  if (o.z * w.z != f.size.z || o.y * w.y != f.size.y || o.x * w.x != f.size.x) fill_zero(d_image, f.batch * f.size.voxels() * lanes);
  for_rows(f, [&](const Row& row) {
    float* corner = d_image + row.corner;
    for (int x = 0; x < o.x; x++, corner += w.x * lanes, d_out += lanes, argmax += lanes)
      for_lanes(lanes, ZNN_BODY(q, n) {
        const vf gradient = load_first(d_out + q, n);
        const vi where = load_index(argmax + q, n);
        vi index = {};
        for (int dz = 0; dz < w.z; dz++)
          for (int dy = 0; dy < w.y; dy++)
            for (int dx = 0; dx < w.x; dx++, index += 1) {
              float* to = corner + dz * plane + dy * line + dx * lanes + q;
              store_first(to, where == index ? gradient : (vf){}, n);
            }
      });
  });
}

// Each value goes by itself to the voxel that its argmax names.
template <typename Index>
static void scatter(const Filter& f, const float* const* d_out, const Index* const* argmax, float* d_image, float* scratch) {
  const size_t lanes = f.channels, line = f.size.x * lanes, plane = f.size.y * line;
  size_t* offsets = (size_t*)scratch;
  for (int dz = 0, k = 0; dz < f.window.z; dz++)
    for (int dy = 0; dy < f.window.y; dy++)
      for (int dx = 0; dx < f.window.x; dx++) offsets[k++] = dz * plane + dy * line + dx * lanes;
  fill_zero(d_image, f.batch * f.size.voxels() * lanes);
  for_rows(f, [&](const Row& row) {
    float* to = d_image + row.corner;
    const float* d = d_out[row.group] + row.at;
    const Index* where = argmax[row.group] + row.at;
    for (int x = 0; x < f.out_size.x; x++, to += f.stride.x * lanes, d += lanes, where += lanes)
      for (size_t q = 0; q < lanes; q++) to[offsets[where[q]] + q] += d[q];
  });
}

static bool gathered(const Filter& f) { return dense(f) && f.window.voxels() <= GATHERED_WINDOW; }
static bool side_by_side(const Filter& f) {
  return f.n_parities == 1 && f.stride.z == f.window.z && f.stride.y == f.window.y && f.stride.x == f.window.x;
}

size_t filter_backward_scratch(const Filter& f) {
  size_t bytes = f.window.voxels() * sizeof(size_t);
  if (gathered(f)) bytes = 2 * f.stride.voxels() * sizeof(Windows<uint8_t>);
  if (of_two(f)) return backward_of_two_scratch<uint16_t>(f);
  return bytes / sizeof(float);
}

template <typename Index>
static void backward(const Filter& f, const float* const* d_out, const Index* const* argmax, float* d_image, float* scratch) {
  const Size w = f.window;
  if (side_by_side(f)) {
    if (w.z == 2 && w.y == 2 && w.x == 2) return spread<2, 2, 2>(f, d_out[0], argmax[0], d_image);
    if (w.z == 1 && w.y == 2 && w.x == 2) return spread<1, 2, 2>(f, d_out[0], argmax[0], d_image);
    return spread<0, 0, 0>(f, d_out[0], argmax[0], d_image);
  }
  if (of_two(f) && w.z == 2) return backward_of_two<2>(f, d_out, argmax, d_image, scratch);
  if (of_two(f)) return backward_of_two<1>(f, d_out, argmax, d_image, scratch);
  if (gathered(f)) return gather(f, d_out, argmax, d_image, scratch);
  scatter(f, d_out, argmax, d_image, scratch);
}

void filter_backward(const Filter& f, const float* const* d_out, const void* const* argmax, int argmax_bytes,
                     float* d_image, float* scratch) {
  if (argmax_bytes == 1) backward(f, d_out, (const uint8_t* const*)argmax, d_image, scratch);
  if (argmax_bytes == 2) backward(f, d_out, (const uint16_t* const*)argmax, d_image, scratch);
}

}  // namespace znn::ZNN_ISA
