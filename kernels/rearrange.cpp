// Voxels moved as they are: borders, crops, phases of a lattice, taps of a kernel. Where a voxel goes is a table per
// axis; along x, neighbours that stay neighbours are moved together.
#include "simd.hpp"
#include "table.hpp"
#include "width.hpp"

namespace znn::ZNN_ISA {

// A few values as much as many: the last vector begins early rather than being cut.
template <typename Part>
ZNN_INLINE void copy_ends(float* to, const float* from, size_t n) {
  Part first, last;
  constexpr size_t PART = sizeof(Part) / sizeof(float);
  __builtin_memcpy(&first, from, sizeof(first));
  __builtin_memcpy(&last, from + n - PART, sizeof(last));
  __builtin_memcpy(to, &first, sizeof(first));
  __builtin_memcpy(to + n - PART, &last, sizeof(last));
}
ZNN_INLINE void copy_values(float* to, const float* from, size_t n) {
  if (n >= (size_t)LANES) {
    for (size_t q = 0; q + LANES <= n; q += LANES) store(to + q, load(from + q));
    if (n % LANES) store(to + n - LANES, load(from + n - LANES));
    return;
  }
  typedef float four __attribute__((vector_size(16)));
  typedef float eight __attribute__((vector_size(32)));
  if (n >= 8) return copy_ends<eight>(to, from, n);
  if (n >= 4) return copy_ends<four>(to, from, n);
  for (size_t q = 0; q < n; q++) to[q] = from[q];
}

// Neighbours along x that stay neighbours: values, counted from the beginning of their rows.
struct Run {
  size_t n, at, place;
  int part;  // -1: zeros
};

size_t rearrange_scratch(const Rearrange& r) { return (size_t)r.size.x * (sizeof(Run) / sizeof(float)); }

static int runs_of(const Rearrange& r, Run* runs) {
  const int *part = r.parts[2], *place = r.places[2];
  const size_t lanes = r.channels;
  int n = 0;
  for (int x = 0; x < r.size.x; x++) {
    const bool zero = place[x] < 0;
    const bool follows = x > 0 && (zero ? place[x - 1] < 0 : part[x - 1] == part[x] && place[x - 1] + 1 == place[x] && place[x] > 0);
    if (follows) {
      runs[n - 1].n += lanes;
      continue;
    }
    runs[n++] = {lanes, x * lanes, zero ? 0 : place[x] * lanes, zero ? -1 : part[x]};
  }
  return n;
}

// Calls body(whole, part, place) for the rows of the whole in their order: the offset of the row there, the number of
// the part, and the offset of the row in it; a part of -1 for zeros.
template <typename Body>
ZNN_INLINE void for_rows(const Rearrange& r, const Body& body) {
  const Size n = r.size, m = r.part_size;
  size_t whole = 0;
  for (int entry = 0; entry < r.batch; entry++)
    for (int z = 0; z < n.z; z++)
      for (int y = 0; y < n.y; y++, whole += (size_t)n.x * r.channels) {
        const int at_z = r.places[0][z], at_y = r.places[1][y];
        const bool zero = at_z < 0 || at_y < 0;
        const size_t row = zero ? 0 : ((size_t)entry * m.z + at_z) * m.y + at_y;
        body(whole, zero ? -1 : r.parts[0][z] + r.parts[1][y], row * m.x * r.channels);
      }
}

// The values of every run if there are few and as many in all, else 0: phases of an image of few channels.
static size_t width_of(const Rearrange& r, const Run* runs, int n_runs) {
  for (int k = 0; k < n_runs; k++)
    if (runs[k].n != (size_t)r.channels) return 0;
  return r.channels;
}
ZNN_INLINE void move(float* to, const float* from, size_t n, Width<0>) { copy_values(to, from, n); }
template <int N>
ZNN_INLINE void move(float* to, const float* from, size_t, Width<N>) {
  for (int q = 0; q < N; q++) to[q] = from[q];
}

void take(const Rearrange& r, const float* const* images, float* out, float* scratch) {
  Run* runs = (Run*)scratch;
  const int n_runs = runs_of(r, runs);
  with_width(width_of(r, runs, n_runs), [&](auto width) {
    for_rows(r, [&](size_t whole, int part, size_t place) {
      if (part < 0) return fill_zero(out + whole, (size_t)r.size.x * r.channels);
      for (const Run* run = runs; run < runs + n_runs; run++)
        if (run->part < 0)
          fill_zero(out + whole + run->at, run->n);
        else
          move(out + whole + run->at, images[part + run->part] + place + run->place, run->n, width);
    });
  });
}

void put(const Rearrange& r, const float* image, float* const* out, float* scratch) {
  Run* runs = (Run*)scratch;
  const int n_runs = runs_of(r, runs);
  with_width(width_of(r, runs, n_runs), [&](auto width) {
    for_rows(r, [&](size_t whole, int part, size_t place) {
      if (part < 0) return;
      for (const Run* run = runs; run < runs + n_runs; run++)
        if (run->part >= 0) move(out[part + run->part] + place + run->place, image + whole + run->at, run->n, width);
    });
  });
}

// Two voxels of a row, by their offsets.
struct Pair {
  size_t to, from;
};

size_t fold_scratch(const Fold& f) { return (size_t)f.padded.x * (sizeof(Pair) / sizeof(float)); }

// The voxels that a voxel was repeated to, along x, besides its own.
static int repeated(const Fold& f, Pair* pairs) {
  int n = 0;
  for (int x = 0; x < f.size.x; x++)
    for (int k = f.starts[2][x]; k < f.starts[2][x + 1]; k++)
      if (f.sources[2][k] != f.before.x + x) pairs[n++] = {(size_t)x * f.channels, (size_t)f.sources[2][k] * f.channels};
  return n;
}

ZNN_INLINE void add_values(float* to, const float* from, size_t n) {
  for (size_t q = 0; q < n; q++) to[q] += from[q];
}

void fold(const Fold& f, const float* d_out, float* d_image, float* scratch) {
  Pair* pairs = (Pair*)scratch;
  const int n_pairs = repeated(f, pairs);
  const size_t lanes = f.channels, width = f.size.x * lanes;
  for (int entry = 0; entry < f.batch; entry++)
    for (int z = 0; z < f.size.z; z++)
      for (int y = 0; y < f.size.y; y++, d_image += width) {
        bool first = true;
        for (int i = f.starts[0][z]; i < f.starts[0][z + 1]; i++)
          for (int j = f.starts[1][y]; j < f.starts[1][y + 1]; j++, first = false) {
            const size_t row = ((size_t)entry * f.padded.z + f.sources[0][i]) * f.padded.y + f.sources[1][j];
            const float *from = d_out + row * f.padded.x * lanes, *inside = from + f.before.x * lanes;
            if (first)
              copy_values(d_image, inside, width);
            else
              add_values(d_image, inside, width);
            for (const Pair* p = pairs; p < pairs + n_pairs; p++) add_values(d_image + p->to, from + p->from, lanes);
          }
      }
}

}  // namespace znn::ZNN_ISA
