// Where the voxels of a patch come from: an affine map of their numbers, and cubic splines on coarse grids. They are
// found row by row.
#pragma once
#include "simd.hpp"
#include "table.hpp"

namespace znn::ZNN_ISA {

constexpr int ROW_VECTORS = 3, ROW_TILE = ROW_VECTORS * LANES;  // voxels of a row that are found at once

// Which coefficients along x weigh anything for some voxels of a row.
struct Support {
  int first, stop;
};

// Of one spline: the coefficients, those along y and x at a section, and those along x at a row. What belongs to all maps
// lies together, in whole vectors.
struct AtRow {
  const Spline* spline;
  Support* supports;                          // of every tile of a row
  float *coefficients, *section, *row, *along_x;  // (count.z, count.y, width), (count.y, width), (width), (count.x, length)
  int width, length;                          // of all maps' coefficients along x; of a row in whole tiles
};

struct Rows {
  AtRow* splines;
  float* places;  // of the voxels of a row: (maps, length)
  int length;
};

static int row_length(const Motion& m) { return ceil_div(m.size.x, ROW_TILE) * ROW_TILE; }
static int width_of(const Motion& m, const Spline& s) { return ceil_div(m.maps * s.count.x, LANES) * LANES; }
static size_t scratch_of(const Motion& m, const Spline& s) {
  const size_t supports = (size_t)row_length(m) / ROW_TILE * sizeof(Support) / sizeof(float);
  return supports + ((size_t)s.count.z * s.count.y + s.count.y + 1) * width_of(m, s) + (size_t)s.count.x * row_length(m);
}
static size_t course_scratch(const Motion& m) {
  size_t n = m.n_splines * sizeof(AtRow) / sizeof(float) + (size_t)m.maps * row_length(m);
  for (int k = 0; k < m.n_splines; k++) n += scratch_of(m, m.splines[k]);
  return n;
}

static Support support_of(const AtRow& at, int tile) {
  Support found = {at.spline->count.x, 0};
  for (int k = 0; k < at.spline->count.x; k++)
    for (int j = 0; j < ROW_TILE; j++)
      if (at.along_x[(size_t)k * at.length + tile * ROW_TILE + j] != 0.0f) {
        if (found.first > k) found.first = k;
        found.stop = k + 1;
      }
  return found;
}

// Divides the scratch among the splines, and brings their numbers into order.
static Rows begin(const Motion& m, float* scratch) {
  const int length = row_length(m);
  const Rows rows = {(AtRow*)scratch, scratch + m.n_splines * sizeof(AtRow) / sizeof(float), length};
  float* rest = rows.places + (size_t)m.maps * length;
  for (int number = 0; number < m.n_splines; number++) {
    const Spline& s = m.splines[number];
    const Size n = s.count;
    const int width = width_of(m, s);
    Support* const supports = (Support*)rest;
    float* const coefficients = (float*)(supports + length / ROW_TILE);
    float *const section = coefficients + (size_t)n.z * n.y * width, *const row = section + (size_t)n.y * width;
    const AtRow at = {&s, supports, coefficients, section, row, row + width, width, length};
    fill_zero(coefficients, (size_t)n.z * n.y * width);
    for (int map = 0; map < m.maps; map++)
      for (int k = 0; k < n.z * n.y; k++)
        copy(coefficients + (size_t)k * width + map * n.x, s.coefficients + ((size_t)map * n.z * n.y + k) * n.x, n.x);
    fill_zero(at.along_x, (size_t)n.x * length);
    for (int k = 0; k < n.x; k++) copy(at.along_x + (size_t)k * length, s.x + (size_t)k * m.size.x, m.size.x);
    for (int tile = 0; tile < length / ROW_TILE; tile++) supports[tile] = support_of(at, tile);
    rows.splines[number] = at;
    rest += scratch_of(m, s);
  }
  return rows;
}

// to = the sum of n rows of values, each times its weight.
static void weigh_rows(const float* weights, int n, const float* values, size_t width, float* to) {
  for (size_t j = 0; j < width; j += LANES) {
    vf sum = {};
    for (int k = 0; k < n; k++)
      if (const float weight = weights[k]) sum += weight * load(values + k * width + j);
    store(to + j, sum);
  }
}
static void go_to_section(const AtRow& at, int z) {
  const Size n = at.spline->count;
  weigh_rows(at.spline->z + (size_t)z * n.z, n.z, at.coefficients, (size_t)n.y * at.width, at.section);
}
static void go_to_row(const AtRow& at, int y) {
  const int n = at.spline->count.y;
  weigh_rows(at.spline->y + (size_t)y * n, n, at.section, at.width, at.row);
}

template <int MAPS>
ZNN_INLINE void write_row(const Motion& m, const Rows& rows, int z, int y) {
  vf ramp;
  for (int j = 0; j < LANES; j++) ramp[j] = (float)j;
  for (int x = 0; x < rows.length; x += ROW_TILE) {
    vf places[MAPS][ROW_VECTORS];
    for (int map = 0; map < MAPS; map++) {
      const float* const a = m.affine + 4 * map;
      for (int v = 0; v < ROW_VECTORS; v++)
        places[map][v] = (a[0] * (float)z + a[1] * (float)y + a[3]) + a[2] * (ramp + (float)(x + v * LANES));
    }
    for (int number = 0; number < m.n_splines; number++) {
      const AtRow& at = rows.splines[number];
      const Support support = at.supports[x / ROW_TILE];
      for (int k = support.first; k < support.stop; k++)
        for (int v = 0; v < ROW_VECTORS; v++) {
          const vf weight = load(at.along_x + (size_t)k * at.length + x + v * LANES);
          for (int map = 0; map < MAPS; map++) places[map][v] += at.row[map * at.spline->count.x + k] * weight;
        }
    }
    for (int map = 0; map < MAPS; map++)
      for (int v = 0; v < ROW_VECTORS; v++) store(rows.places + map * rows.length + x + v * LANES, places[map][v]);
  }
}

// Calls body(rows, z, y, the first voxel) for every row, of which `rows.places` says where its voxels come from.
template <int MAPS, typename Body>
ZNN_INLINE void for_rows(const Motion& m, float* scratch, Body body) {
  const Rows rows = begin(m, scratch);
  size_t first = 0;
  for (int z = 0; z < m.size.z; z++) {
    for (int k = 0; k < m.n_splines; k++) go_to_section(rows.splines[k], z);
    for (int y = 0; y < m.size.y; y++, first += m.size.x) {
      for (int k = 0; k < m.n_splines; k++) go_to_row(rows.splines[k], y);
      write_row<MAPS>(m, rows, z, y);
      body(rows, z, y, first);
    }
  }
}

}  // namespace znn::ZNN_ISA
