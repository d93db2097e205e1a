// The maximum over large windows: along x, then y, then z, in work per voxel that hardly grows with the window. The
// order of the axes keeps ties right: of two ranges that are compared, one begins and ends before the other.
#pragma once
#include "filter.hpp"

namespace znn::ZNN_ISA {

// A strip of window positions along y is done for all z before the next, one vector of lanes at a time, so that the
// planes between fit in the cache.
struct Strip {
  int rows;        // window positions along y
  size_t plane;    // vectors of one plane of results: rows * positions along x
  size_t working;  // vectors of the rows that a plane is made from
};

static Strip strip_of(const Filter& f) {
  constexpr size_t BYTES = 1 << 19;
  const int mx = f.size.x - f.window.x + 1, my = f.size.y - f.window.y + 1;
  const size_t row = mx * sizeof(Maximum);
  // The window's rows are done again for every strip: at least as many positions again.
  size_t rows = BYTES / ((f.window.z + 2) * row);
  if (rows < (size_t)f.window.y) rows = f.window.y;
  if (rows > (size_t)my) rows = my;
  return {(int)rows, rows * mx, (rows + f.window.y - 1) * (size_t)mx + f.window.x - 1};
}

static size_t separable_scratch(const Filter& f) {
  const Strip s = strip_of(f);
  return (s.working + (f.window.z + 1) * s.plane) * (sizeof(Maximum) / sizeof(float));
}

// In place: element j becomes the maximum of elements j to j + window - 1, by doubling. n is what comes out; an
// element is `width` vectors.
ZNN_INLINE void running_maximum(Maximum* elements, size_t n, int window, size_t width) {
  int covered = 1;
  while (covered < window) {
    const int step = covered <= window - covered ? covered : window - covered;
    covered += step;
    const size_t count = (n + window - covered) * width;  // the steps that follow need elements beyond n
    for (size_t j = 0; j < count; j++) elements[j] = later(elements[j + step * width], elements[j]);
  }
}

// One plane of the strip at rows y0 on: the maximum over y and x. `where` counts from row y0 of plane z = 0 on.
static void plane_maximum(const Filter& f, const float* image, int z, int y0, int rows, size_t lanes,
                          int n, Maximum* working) {
  const int mx = f.size.x - f.window.x + 1;
  for (int y = 0; y < rows + f.window.y - 1; y++) {
    const float* from = image + ((size_t)z * f.size.y + y0 + y) * f.size.x * lanes;
    Maximum* row = working + (size_t)y * mx;
    for (int x = 0; x < f.size.x; x++) row[x] = {load_first(from + x * lanes, n), (vi){} + x};
    running_maximum(row, mx, f.window.x, 1);
    vi correction = (vi){} + (z * f.window.y + y) * f.window.x;
    for (int x = 0; x < mx; x++, correction -= 1) row[x].where += correction;
  }
  running_maximum(working, rows, f.window.y, mx);
}

// Along z, after van Herk and Gil and Werman: planes come in blocks of the window's length. A window is the end of
// one block (whose maxima were taken backwards when it was complete) and the beginning of the next.
struct Blocks {
  Maximum *block, *begun;
  size_t plane;
  int window;

  // Takes in plane z and puts the maximum over the last `window` planes in its place.
  inline __attribute__((always_inline)) void take(int z, Maximum* in, size_t vectors) {
    const int r = z % window;
    Maximum* kept = block + r * plane;
    for (size_t j = 0; j < vectors; j++) {
      const Maximum value = in[j], all = r > 0 ? later(value, begun[j]) : value;
      begun[j] = all;
      kept[j] = value;
      in[j] = r == window - 1 || z < window ? all : later(all, kept[plane + j]);
    }
    if (r < window - 1) return;
    for (int k = window - 2; k >= 0; k--)
      for (size_t j = 0; j < vectors; j++)
        block[k * plane + j] = later(block[(k + 1) * plane + j], block[k * plane + j]);
  }
};

template <typename Index>
static void write_row(const Filter& f, int entry, int z, int y, int y_in_strip, size_t q, int n, const Maximum* row,
                      float* const* out, Index* const* argmax) {
  const int mx = f.out_size.x * f.stride.x;
  for (int px = 0; px < f.stride.x; px++) {
    const Place p = place_of(f, entry, z, y, px);
    float* to = out[p.group] + p.at + q;
    Index* where = argmax[p.group] + p.at + q;
    const vi first = (vi){} + (z * f.window.y + y_in_strip) * f.window.x;
    for (int x = px; x < mx; x += f.stride.x, to += f.channels, where += f.channels) {
      store_first(to, row[x].value, n);
      store_index(where, row[x].where - first, n);
    }
  }
}

template <typename Index>
static void separable_forward(const Filter& f, const float* image, float* const* out, Index* const* argmax, float* scratch) {
  const size_t lanes = f.channels;
  const Strip s = strip_of(f);
  const int mx = f.size.x - f.window.x + 1, my = f.size.y - f.window.y + 1;
  Maximum* working = (Maximum*)scratch;
  Blocks blocks = {working + s.working, working + s.working + f.window.z * s.plane, s.plane, f.window.z};
  const auto strip = [&](int entry, int y0, size_t q, int n) __attribute__((always_inline)) {
    const int rows = min_of(s.rows, my - y0);
    for (int z = 0; z < f.size.z; z++) {
      plane_maximum(f, image + entry * f.size.voxels() * lanes + q, z, y0, rows, lanes, n, working);
      if (f.window.z > 1) blocks.take(z, working, (size_t)rows * mx);
      const int first = z - f.window.z + 1;
      if (first < 0) continue;
      for (int y = 0; y < rows; y++) write_row(f, entry, first, y0 + y, y, q, n, working + (size_t)y * mx, out, argmax);
    }
  };
  for (int entry = 0; entry < f.batch; entry++)
    for_lanes(lanes, [&](size_t q, int n) {
      for (int y0 = 0; y0 < my; y0 += s.rows) strip(entry, y0, q, n);
    });
}

}  // namespace znn::ZNN_ISA
