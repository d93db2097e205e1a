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

// Along x, voxels whose distance is the stride see their windows in the same fragments, one voxel further on. So what
// windows hold a voxel is listed once for every x below the stride, and serves the row.
struct Column {  // of a window position x - dx
  int parity;
  ptrdiff_t offset;  // from the first voxel of its fragment's row, for an x below the stride
};
template <typename Index>
struct Row {  // of window positions, in the fragment of one parity along x
  const float* d_out;
  const Index* argmax;
  size_t at;
};
struct Reach {  // the windows that hold voxel v along an axis begin at v - last to v - first
  int first, last;
};
static Reach reach(int v, int window, int positions) {
  return {v < positions ? 0 : v - positions + 1, v < window ? v : window - 1};
}

// The windows that hold a voxel, in the order of its place in them.
template <typename Index>
struct Windows {
  int n;
  Row<Index> row[GATHERED_WINDOW];
  int place[GATHERED_WINDOW];

  // columns and rows: by dx, and by dz, dy and parity along x.
  void list(const Filter& f, const Column* columns, const Row<Index>* rows, Reach z, Reach y, Reach x) {
    n = 0;
    for (int dz = z.first; dz <= z.last; dz++)
      for (int dy = y.first; dy <= y.last; dy++)
        for (int dx = x.first; dx <= x.last; dx++) {
          row[n] = rows[(dz * f.window.y + dy) * f.stride.x + columns[dx].parity];
          row[n].at += columns[dx].offset;
          place[n++] = (dz * f.window.y + dy) * f.window.x + dx;
        }
  }
  inline __attribute__((always_inline)) void sum(int count, size_t offset, size_t lanes, float* to) const {
    for_lanes(lanes, ZNN_BODY(q, n_lanes) {
      vf sum = {};
      for (int k = 0; k < count; k++) {
        const size_t at = row[k].at + offset + q;
        const vi here = load_index(row[k].argmax + at, n_lanes) == (vi){} + place[k];
        sum += here ? load_first(row[k].d_out + at, n_lanes) : (vf){};
      }
      store_first(to + q, sum, n_lanes);
    });
  }
  void sum(size_t offset, size_t lanes, float* to) const {
    if (n == 8) return sum(8, offset, lanes, to);
    if (n == 4) return sum(4, offset, lanes, to);
    sum(n, offset, lanes, to);
  }
};

// A line of voxels of the image along x.
template <typename Index>
struct Line {
  int z, y;
  Reach reach_z, reach_y;
  Row<Index>* rows;       // (dz, dy, parity along x)
  Windows<Index>* inner;  // (x below the stride), of the voxels with whole windows
};

template <typename Index>
struct Gather {
  const Filter& f;
  const float* const* d_out;
  const Index* const* argmax;
  float* d_image;
  size_t lanes;
  Size positions;
  Column* columns;  // (x below the stride, dx)

  void list_columns() const {
    const size_t step = f.parities_per_group * lanes;
    for (int x = 0; x < f.stride.x; x++)
      for (int dx = 0; dx < f.window.x; dx++) {
        const int down = (dx - x + f.stride.x - 1) / f.stride.x;  // fragment voxels from x to x - dx; 0 if dx <= x
        columns[x * f.window.x + dx] = {x - dx + down * f.stride.x, -(ptrdiff_t)(down * step)};
      }
  }
  void begin(Line<Index>& l, int z, int y) const {
    const Size w = f.window, s = f.stride;
    l.z = z;
    l.y = y;
    l.reach_z = reach(z, w.z, positions.z);
    l.reach_y = reach(y, w.y, positions.y);
    for (int dz = l.reach_z.first; dz <= l.reach_z.last; dz++)
      for (int dy = l.reach_y.first; dy <= l.reach_y.last; dy++)
        for (int px = 0; px < s.x; px++) {
          const Place p = place_of(f, z - dz, y - dy, px, lanes);
          l.rows[(dz * w.y + dy) * s.x + px] = {d_out[p.group], argmax[p.group], p.at};
        }
    for (int x = 0; x < s.x; x++) l.inner[x].list(f, columns + x * w.x, l.rows, l.reach_z, l.reach_y, {0, w.x - 1});
  }
  // The voxels from first on, as many as the stride; their windows are `offset` further on than was listed.
  void sum(const Line<Index>& l, int first, size_t offset) const {
    float* to = d_image + (((size_t)l.z * f.size.y + l.y) * f.size.x + first) * lanes;
    for (int phase = 0, x = first; phase < f.stride.x && x < f.size.x; phase++, x++, to += lanes) {
      if (x >= f.window.x - 1 && x < positions.x) {
        l.inner[phase].sum(offset, lanes, to);
        continue;
      }
      Windows<Index> edge;
      edge.list(f, columns + phase * f.window.x, l.rows, l.reach_z, l.reach_y, reach(x, f.window.x, positions.x));
      edge.sum(offset, lanes, to);
    }
  }
};

static size_t gather_bytes(const Filter& f) {
  const size_t lines = (size_t)f.stride.z * f.stride.y, rows = (size_t)f.window.z * f.window.y * f.stride.x;
  return lines * (sizeof(Line<uint8_t>) + rows * sizeof(Row<uint8_t>) + f.stride.x * sizeof(Windows<uint8_t>)) +
         f.stride.x * f.window.x * sizeof(Column);
}

// All lines whose windows lie in the same rows of all fragments are done together: what is read lies together.
template <typename Index>
static void gather(const Filter& f, const float* const* d_out, const Index* const* argmax, float* d_image, float* scratch) {
  const Size s = f.stride, positions = {f.out_size.z * s.z, f.out_size.y * s.y, f.out_size.x * s.x};
  const size_t n_lines = (size_t)s.z * s.y, n_rows = (size_t)f.window.z * f.window.y * s.x;
  Line<Index>* lines = (Line<Index>*)scratch;
  Windows<Index>* inner = (Windows<Index>*)(lines + n_lines);
  Row<Index>* rows = (Row<Index>*)(inner + n_lines * s.x);
  const Gather<Index> g = {f, d_out, argmax, d_image, (size_t)f.batch * f.channels, positions, (Column*)(rows + n_lines * n_rows)};
  g.list_columns();
  for (int z0 = 0; z0 < f.size.z; z0 += s.z)
    for (int y0 = 0; y0 < f.size.y; y0 += s.y) {
      size_t n = 0;
      for (int z = z0; z < z0 + s.z && z < f.size.z; z++)
        for (int y = y0; y < y0 + s.y && y < f.size.y; y++, n++) {
          lines[n].rows = rows + n * n_rows;
          lines[n].inner = inner + n * s.x;
          g.begin(lines[n], z, y);
        }
      size_t offset = 0;
      for (int x = 0; x < f.size.x; x += s.x, offset += f.parities_per_group * g.lanes)
        for (size_t j = 0; j < n; j++) g.sum(lines[j], x, offset);
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
  if (gathered(f)) bytes = gather_bytes(f);
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
