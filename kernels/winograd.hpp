// What the Winograd convolutions share: transforms, and the division of images into tiles and of tiles into chunks.
//
// Along y and x a tile of n values meets k taps in m = n + 1 - k outputs by n products, not m * k: both are polynomials,
// multiplied by their values at n points as Toom and Cook do it; S. Winograd 1980, for networks Lavin and Gray,
// arXiv 1509.09308. The products of one pair of points (a frequency, below) over all input
// channels and all taps along z are a matrix product. Taps along z are not transformed: they are summed there.
//
// For output gradients d and images x the kernel's gradient is found the same way, with k outputs and m taps.
#pragma once
#include "direct.hpp"
#include "table.hpp"
#include "winograd_tiles.hpp"

namespace znn::ZNN_ISA {

// For a function within a function: of some the compiler would make calls, whose vectors go through memory.
#define ZNN_INLINE_HERE __attribute__((always_inline))

// ---- transforms of lines, each value a vector

// The points: 0, pairs of a value and its opposite, infinity, and of 5 one (ALONE) that has no opposite. Of many tried
// these round least: those of 6 half as much as 1 and 2 would, those of 5 two thirds as much; of 8 four times as much.
constexpr float ALONE = 2.0f;
template <int N>
constexpr float point(int pair) {
  static_assert((N >= 4 && N <= 6) || N == 8, "4, 5, 6 or 8 points");
  if (N == 4) return 1.0f;
  if (N == 8) return pair == 0 ? 0.5f : pair == 1 ? 1.0f : 2.0f;
  return pair == 0 ? 0.75f : 1.5f;
}
template <int N>
constexpr float square(int pair) { return point<N>(pair) * point<N>(pair); }
constexpr int pairs_of(int points) { return (points - 2) / 2; }

// Calls body with the number p of every pair as a constant.
template <int P>
struct Pair {
  static constexpr int p = P;
};
template <int N, int P = 0, typename Body>
ZNN_INLINE void with_pairs(const Body& body) {
  body(Pair<P>{});
  if constexpr (P + 1 < pairs_of(N)) with_pairs<N, P + 1>(body);
}

// Coefficients, lowest first, of the product of (t - square) over all pairs but one, or over all (-1).
template <int N>
struct Polynomial {
  float c[N / 2] = {1.0f};
  int degree = 0;
};
template <int N>
constexpr Polynomial<N> without(int pair) {
  Polynomial<N> p;
  for (int q = 0; q < pairs_of(N); q++) {
    if (q == pair) continue;
    p.c[++p.degree] = 0.0f;
    for (int j = p.degree; j >= 0; j--) p.c[j] = (j > 0 ? p.c[j - 1] : 0.0f) - square<N>(q) * p.c[j];
  }
  return p;
}
// One over the product of the differences between a point, or 0 (-1), and the others.
template <int N>
constexpr float scale(int pair) {
  float product = pair < 0 ? 1.0f : 2.0f * square<N>(pair);
  for (int q = 0; q < pairs_of(N); q++)
    if (q != pair) product *= (pair < 0 ? 0.0f : square<N>(pair)) - square<N>(q);
  return 1.0f / product;
}

// That of 5 points.
template <int K>
ZNN_INLINE void tap_line_of_5(const vf (&g)[K], vf (&to)[5]) {
  constexpr float NEAR = point<5>(0), NEAR2 = square<5>(0);
  constexpr float AT_0 = 1.0f / (NEAR2 * ALONE), AT_ALONE = 1.0f / (ALONE * (ALONE * ALONE - NEAR2));
  constexpr float AT_NEAR = 0.5f / (NEAR2 * (NEAR - ALONE)), OPPOSITE = -0.5f / (NEAR2 * (NEAR + ALONE));
  vf even = (vf){}, odd = (vf){}, distant = (vf){};
  float near = 1.0f, far = AT_ALONE;
  for (int l = 0; l < K; l++, near *= NEAR, far *= ALONE) {
    (l % 2 ? odd : even) += g[l] * near;
    distant += g[l] * far;
  }
  to[0] = g[0] * AT_0;
  to[1] = (even + odd) * AT_NEAR;
  to[2] = (even - odd) * OPPOSITE;
  to[3] = distant;
  to[4] = g[K - 1];
}

// Values at the n points of the polynomial whose coefficients are the taps, each over the product of the differences.
template <int N, int K>
ZNN_INLINE void tap_line(const vf (&g)[K], vf (&to)[N]) {
  if constexpr (N == 5) return tap_line_of_5(g, to);
  constexpr float AT_0 = scale<N>(-1);
  to[0] = g[0] * AT_0;
  to[N - 1] = g[K - 1];
  with_pairs<N>([&](auto pair) ZNN_INLINE_HERE {
    constexpr float POINT = point<N>(pair.p), SCALE = scale<N>(pair.p);
    float power = SCALE;
    vf even = (vf){}, odd = (vf){};
    for (int l = 0; l < K; l++, power *= POINT) (l % 2 ? odd : even) += g[l] * power;
    to[2 * pair.p + 1] = even + odd;
    to[2 * pair.p + 2] = even - odd;
  });
}

// That of 5 points.
ZNN_INLINE void input_line_of_5(const vf (&d)[5], vf (&to)[5]) {
  constexpr float NEAR = point<5>(0), NEAR2 = square<5>(0);
  const vf e1 = d[1] - ALONE * d[0], e2 = d[2] - ALONE * d[1], e3 = d[3] - ALONE * d[2], e4 = d[4] - ALONE * d[3];
  to[0] = e3 - NEAR2 * e1;
  to[1] = e3 + NEAR * e2;
  to[2] = e3 - NEAR * e2;
  to[3] = d[3] - NEAR2 * d[1];
  to[4] = e4 - NEAR2 * e2;
}

// The sum of every other value from `first` on, times the coefficients of a polynomial, the last of which is 1.
template <int N, int PAIR>
ZNN_INLINE vf sum_of(const vf (&d)[N], int first) {
  constexpr Polynomial<N> p = without<N>(PAIR);
  vf sum = d[first + 2 * p.degree];
  for (int j = p.degree - 1; j >= 0; j--) sum += p.c[j] * d[first + 2 * j];
  return sum;
}

// The transposed inverse for n points.
template <int N>
ZNN_INLINE void input_line(const vf (&d)[N], vf (&to)[N]) {
  if constexpr (N == 5) return input_line_of_5(d, to);
  to[0] = sum_of<N, -1>(d, 0);
  to[N - 1] = sum_of<N, -1>(d, 1);
  with_pairs<N>([&](auto pair) ZNN_INLINE_HERE {
    constexpr float POINT = point<N>(pair.p);
    const vf even = sum_of<N, pair.p>(d, 2), odd = POINT * sum_of<N, pair.p>(d, 1);
    to[2 * pair.p + 1] = even + odd;
    to[2 * pair.p + 2] = even - odd;
  });
}

// The m outputs.
template <int N, int M>
ZNN_INLINE void output_line(const vf (&t)[N], vf (&y)[M]) {
  for (int i = 0; i < M; i++) y[i] = (vf){};
  with_pairs<N>([&](auto pair) ZNN_INLINE_HERE {
    constexpr float POINT = point<N>(pair.p);
    const vf sum = t[2 * pair.p + 1] + t[2 * pair.p + 2], difference = t[2 * pair.p + 1] - t[2 * pair.p + 2];
    float power = 1.0f;
    for (int i = 0; i < M; i++, power *= POINT) y[i] += (i % 2 ? difference : sum) * power;
  });
  if constexpr (N == 5) {
    float power = 1.0f;
    for (int i = 0; i < M; i++, power *= ALONE) y[i] += t[3] * power;
  }
  y[0] += t[0];
  y[M - 1] += t[N - 1];
}

// ---- transforms of squares


// IY x IX values, get(y, x), become OY x OX, put(y, x, value): along y first, by the transform that the line is.
template <int IY, int IX, int OY, int OX, typename Line, typename Get, typename Put>
ZNN_INLINE void transform_square(const Line& transform, const Get& get, const Put& put) {
  vf columns[OY][IX];
#pragma GCC unroll 8
  for (int x = 0; x < IX; x++) {
    vf line[IY], values[OY];
#pragma GCC unroll 8
    for (int y = 0; y < IY; y++) line[y] = get(y, x);
    transform(line, values);
    for (int y = 0; y < OY; y++) columns[y][x] = values[y];
  }
#pragma GCC unroll 8
  for (int y = 0; y < OY; y++) {
    vf values[OX];
    transform(columns[y], values);
#pragma GCC unroll 8
    for (int x = 0; x < OX; x++) put(y, x, values[x]);
  }
}

// From values get(y, x), or those `in` floats apart, to places `out` floats apart.
template <int NY, int NX, typename Get>
ZNN_INLINE void input_square(const Get& get, float* to, size_t out) {
  transform_square<NY, NX, NY, NX>([](const auto& d, auto& values) ZNN_INLINE_HERE { input_line(d, values); }, get,
                                   [&](int y, int x, vf value) { store(to + (y * NX + x) * out, value); });
}

template <int NY, int NX, int KY, int KX, typename Get>
ZNN_INLINE void tap_square(const Get& get, float* to, size_t out) {
  transform_square<KY, KX, NY, NX>([](const auto& g, auto& values) ZNN_INLINE_HERE { tap_line(g, values); }, get,
                                   [&](int y, int x, vf value) { store(to + (y * NX + x) * out, value); });
}

template <int NY, int NX, int MY, int MX>
ZNN_INLINE void output_square(const float* from, size_t in, float* to, size_t out) {
  transform_square<NY, NX, MY, MX>([](const auto& t, auto& values) ZNN_INLINE_HERE { output_line(t, values); },
                                   [&](int y, int x) { return load(from + (y * NX + x) * in); },
                                   [&](int y, int x, vf value) { store(to + (y * MX + x) * out, value); });
}

// ---- tiles

constexpr int MOST_OUTPUTS = 36;  // of a tile, and the most taps of its kernel's gradient
constexpr int FEWEST_ROWS = 12;
constexpr size_t WIDEST = MAX_VECTORS * LANES;  // of a part

// Sums that stay in registers while they are added to: so many rows, each of some vectors.
constexpr int rows_for(int vectors) {
  if (REGISTERS == 32) return vectors == 3 ? 9 : 12;
  return vectors == 2 ? 6 : 10;
}

// How outputs of `size` are divided. A row is one tile in one slice; a chunk has `slices` outputs along z of `tiles`
// tiles, which are counted over x, y and entries.
struct Tiles {
  Size out, kernel;
  int ny, nx, my, mx;
  int across, down, all;     // tiles along x, along y, and of all entries
  int tiles, slices;         // of a chunk, at most
  size_t points() const { return (size_t)ny * nx; }
  size_t rows() const { return (size_t)tiles * slices; }
  size_t rows_in() const { return (size_t)tiles * (slices + kernel.z - 1); }
};

// lanes: floats of a row of what is transformed. chunk_floats: of a chunk.
static Tiles tiles_of(Size out, Size kernel, int batch, size_t lanes, size_t chunk_floats) {
  const Tile tile = tile_for(out.y, out.x, kernel.y);
  Tiles t{out, kernel, tile.y, tile.x, 0, 0, 0, 0, 0, 0, 0};
  t.my = t.ny + 1 - kernel.y;
  t.mx = t.nx + 1 - kernel.x;
  t.down = ceil_div(out.y, t.my);
  t.across = ceil_div(out.x, t.mx);
  t.all = batch * t.down * t.across;
  const size_t fit = chunk_floats / (t.points() * lanes);
  const int rows = fit > (size_t)FEWEST_ROWS ? (int)(fit < 65536 ? fit : 65536) : FEWEST_ROWS;
  const int most = rows / (out.z + kernel.z - 1);
  t.tiles = most > 1 ? min_of(t.all, most) : 1;
  t.slices = most > 1 ? out.z : min_of(out.z, rows - kernel.z + 1 > 1 ? rows - kernel.z + 1 : 1);
  return t;
}

// Where a tile begins in the outputs.
struct Place {
  int entry, y, x;
};
ZNN_INLINE Place place_of(const Tiles& t, int tile) {
  const int line = tile / t.across;
  return {line / t.down, line % t.down * t.my, tile % t.across * t.mx};
}

template <int NY, int NX, int K>
struct Square {
  static constexpr int ny = NY, nx = NX, k = K, my = NY + 1 - K, mx = NX + 1 - K;
};

template <int NY, int NX, typename Body>
ZNN_INLINE void with_taps(int k, Body body) {
  if constexpr (NY < LARGEST_TILE)
    if (k == 2) return body(Square<NY, NX, 2>{});
  if (k == 3) return body(Square<NY, NX, 3>{});
  if constexpr (NY >= LARGE_TILE && NX >= LARGE_TILE) {
    if (k == 4) return body(Square<NY, NX, 4>{});
    if (k == 5) return body(Square<NY, NX, 5>{});
  }
}

// Calls body with the points and taps as constants; there are as many taps along y as along x.
template <typename Body>
ZNN_INLINE void with_square(const Tiles& t, Body body) {
  constexpr int S = SMALL_TILE, L = LARGE_TILE;
  const int k = t.kernel.y;
  if (t.ny == LARGEST_TILE) return with_taps<LARGEST_TILE, LARGEST_TILE>(k, body);
  if (t.ny == MIDDLE_TILE) return body(Square<MIDDLE_TILE, MIDDLE_TILE, MIDDLE_TAPS>{});
  if (t.ny == S) return t.nx == S ? with_taps<S, S>(k, body) : with_taps<S, L>(k, body);
  return t.nx == S ? with_taps<L, S>(k, body) : with_taps<L, L>(k, body);
}

// From the values of one point to those of the next: an odd number of cache lines. Transforms go from point to point, and
// those a power of two apart would share a few places of the cache.
ZNN_INLINE size_t point_step_for(size_t floats) {
  constexpr size_t LINE = 16;
  return ((floats + LINE - 1) / LINE | 1) * LINE;
}

// ---- the transformed image of a chunk: (point, slice, tile, lane)

ZNN_INLINE size_t lanes_for(int channels) { return (size_t)ceil_div(channels, LANES) * LANES; }

// What is transformed: `size` voxels of `stride` floats for every entry, of which `channels` are wanted.
struct Source {
  const float *data, *end;
  Size size;
  size_t stride;
  int channels;
};

// Calls body with a function of (dy, dx), both below n, that loads the lanes from channel c on at (y + dy, x + dx) of a
// slice: zeros outside of it, and anything in lanes beyond the channels.
template <int NY, int NX, typename Body>
ZNN_INLINE void with_lanes(const Source& s, const float* slice, int y, int x, int c, const Body& body) {
  const ptrdiff_t step = s.stride, line = s.size.x * step;
  const float* corner = slice + y * line + x * step + c;
  const int below = min_of(y + NY, s.size.y) - 1, right = min_of(x + NX, s.size.x) - 1;
  // Whole vectors may reach into the next voxel, but not past the last one.
  const bool readable = s.end - slice >= below * line + right * step + c + LANES;
  if (readable && y >= 0 && x >= 0 && below == y + NY - 1 && right == x + NX - 1)
    return body([&](int dy, int dx) { return load(corner + dy * line + dx * step); });
  const float zeros[LANES] = {};
  float copied[NY * NX * LANES];
  const float* from[NY][NX];
  for (int dy = 0; dy < NY; dy++)
    for (int dx = 0; dx < NX; dx++) {
      const bool there = y + dy >= 0 && y + dy <= below && x + dx >= 0 && x + dx <= right;
      const float* voxel = corner + dy * line + dx * step;
      from[dy][dx] = there ? voxel : zeros;
      if (there && !readable) {
        from[dy][dx] = copied + (dy * NX + dx) * LANES;
        store(copied + (dy * NX + dx) * LANES, load_first(voxel, s.channels - c));
      }
    }
  body([&](int dy, int dx) { return load(from[dy][dx]); });
}

// Where the square of a row begins in its slice, which may be outside of it.
struct Corner {
  const float* slice;
  int y, x;
};

// Asks for a square that will be read: squares are no stream, which the processor would foresee.
template <int NY, int NX>
ZNN_INLINE void ask_for(const Source& s, Corner at, int c) {
  const ptrdiff_t step = s.stride, line = s.size.x * step;
  const float* corner = at.slice + at.y * line + at.x * step + c;
#pragma GCC unroll 8
  for (int dy = 0; dy < NY; dy++)
#pragma GCC unroll 8
    for (int dx = 0; dx < NX; dx++) __builtin_prefetch(corner + dy * line + dx * step);
}

// One row of an image: its square, in lanes `point_step` apart from point to point. `next` is that of the next row.
template <int NY, int NX>
ZNN_INLINE void transform_row(const Source& s, Corner at, Corner next, float* to, size_t point_step) {
  for (int c = 0; c < s.channels; c += LANES) {
    ask_for<NY, NX>(s, next, c);
    with_lanes<NY, NX>(s, at.slice, at.y, at.x, c,
                       [&](const auto& get) ZNN_INLINE_HERE { input_square<NY, NX>(get, to + c, point_step); });
  }
}

}  // namespace znn::ZNN_ISA
