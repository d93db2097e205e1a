// Transforms of few channels: the lanes of a vector are several tiles, side by side. They are gathered into one image
// of as many channels as a vector has lanes, which tile_forward or tile_inverse then transforms as a single tile.
#include "transform.hpp"

#include "simd.hpp"

namespace znn::ZNN_ISA {

size_t tile_transform_scratch(const TileTransform&);
void tile_forward(const TileTransform&, const float*, float*);
void tile_inverse(const TileTransform&, const float*, const float*, float*);

constexpr size_t LARGEST_TILE = 1 << 16;  // voxels: two tiles of vectors are scratch memory

static size_t voxels_of(const TileTransform& t) { return (size_t)size_of(t.axes[0]) * size_of(t.axes[1]) * size_of(t.axes[2]); }
static size_t items_of(const TileTransform& t) { return (size_t)t.n_tiles * t.entries; }

bool is_narrow(const TileTransform& t) {
  return 2 * t.channels < LANES && items_of(t) > 1 && voxels_of(t) <= LARGEST_TILE;
}

// The tiles of one call, and its memory.
struct Gathered {
  TileTransform tile;  // all of them as one
  int origin[3] = {0, 0, 0};
  size_t line;                      // floats of a line of the gathered spectrum
  float *image, *spectrum, *bias;

  Gathered(const TileTransform& t) : tile(t) {
    tile.image_size = t.filled;
    tile.overlap = {0, 0, 0};
    tile.n_tiles = tile.entries = 1;
    tile.channels = LANES;
    line = (size_t)(size_of(t.axes[2]) / 2 + 1) * 2 * LANES;
    image = t.scratch;
    spectrum = image + t.filled.voxels() * LANES;
    bias = spectrum + n_lines() * line;
    tile.scratch = bias + LANES;
  }
  Gathered(const Gathered&) = delete;

  size_t n_lines() const { return (size_t)size_of(tile.axes[0]) * size_of(tile.axes[1]); }
  void place() { tile.origins = origin; }
};

size_t narrow_scratch(const TileTransform& t) {
  TileTransform unplaced = t;
  unplaced.scratch = nullptr;
  const Gathered g(unplaced);
  return t.filled.voxels() * LANES + g.n_lines() * g.line + LANES + tile_transform_scratch(g.tile);
}

// Calls body(item, first lane) for the tiles of a group, from `first` on.
template <typename Body>
ZNN_INLINE void for_items(const TileTransform& t, size_t first, const Body& body) {
  for (int lane = 0; lane + t.channels <= LANES && first < items_of(t); lane += t.channels) body(first++, lane);
}
// Calls body(first item) for every group.
template <typename Body>
ZNN_INLINE void for_groups(const TileTransform& t, const Body& body) {
  for (size_t first = 0; first < items_of(t); first += LANES / t.channels) body(first);
}

// n times `channels` values between memory where they lie together and a lane of vectors.
ZNN_INLINE void to_lane(const float* from, size_t n, int channels, float* to) {
  for (size_t i = 0; i < n; i++, to += LANES)
    for (int c = 0; c < channels; c++) to[c] = *from++;
}
ZNN_INLINE void from_lane(const float* from, size_t n, int channels, float* to) {
  for (size_t i = 0; i < n; i++, from += LANES)
    for (int c = 0; c < channels; c++) *to++ = from[c];
}
ZNN_INLINE void add_from_lane(const float* from, size_t n, int channels, float* to) {
  for (size_t i = 0; i < n; i++, from += LANES)
    for (int c = 0; c < channels; c++) *to++ += from[c];
}

// Where row (z, y) of an item's tile begins in the image.
static size_t row_at(const TileTransform& t, size_t item, int z, int y) {
  const int* o = t.origins + item / t.entries * 3;
  const Size n = t.image_size;
  const ptrdiff_t in_entry = (((ptrdiff_t)o[0] + z) * n.y + o[1] + y) * n.x + o[2];
  return (item % t.entries * n.voxels() + in_entry) * t.channels;
}

static void gather_image(const TileTransform& t, const float* image, size_t item, float* to) {
  const int* o = t.origins + item / t.entries * 3;
  const Span z = inside(o[0], t.filled.z, t.image_size.z), y = inside(o[1], t.filled.y, t.image_size.y),
             x = inside(o[2], t.filled.x, t.image_size.x);
  for (int j = z.first; j < z.last; j++)
    for (int k = y.first; k < y.last; k++) {
      const size_t row = (size_t)j * t.filled.y + k;
      const float* from = image + row_at(t, item, j, k) + (size_t)x.first * t.channels;
      to_lane(from, x.last - x.first, t.channels, to + (row * t.filled.x + x.first) * LANES);
    }
}

void narrow_forward(const TileTransform& t, const float* image, float* spectrum) {
  Gathered g(t);
  g.place();
  const size_t length = g.line / LANES * t.channels;
  for_groups(t, [&](size_t first) {
    fill_zero(g.image, t.filled.voxels() * LANES);
    for_items(t, first, [&](size_t item, int lane) { gather_image(t, image, item, g.image + lane); });
    tile_forward(g.tile, g.image, g.spectrum);
    for (size_t line = 0; line < g.n_lines(); line++)
      for_items(t, first, [&](size_t item, int lane) {
        from_lane(g.spectrum + line * g.line + lane, g.line / LANES, t.channels, spectrum + (line * items_of(t) + item) * length);
      });
  });
}

static void scatter_image(const TileTransform& t, const float* from, size_t item, float* image) {
  const int* o = t.origins + item / t.entries * 3;
  const Size n = given(t, o);
  for (int z = 0; z < n.z; z++)
    for (int y = 0; y < n.y; y++) {
      const int n_add = n_added(t, o, z, y, n.x);
      const float* row = from + ((size_t)z * t.filled.y + y) * t.filled.x * LANES;
      float* to = image + row_at(t, item, z, y);
      add_from_lane(row, n_add, t.channels, to);
      from_lane(row + (size_t)n_add * LANES, n.x - n_add, t.channels, to + (size_t)n_add * t.channels);
    }
}

void narrow_inverse(const TileTransform& t, const float* spectrum, const float* bias, float* image) {
  Gathered g(t);
  g.place();
  const size_t length = g.line / LANES * t.channels;
  for (int lane = 0; lane < LANES; lane++) g.bias[lane] = bias ? bias[lane % t.channels] : 0.0f;
  fill_zero(g.spectrum, g.n_lines() * g.line);
  for_groups(t, [&](size_t first) {
    for (size_t line = 0; line < g.n_lines(); line++)
      for_items(t, first, [&](size_t item, int lane) {
        to_lane(spectrum + (line * items_of(t) + item) * length, g.line / LANES, t.channels, g.spectrum + line * g.line + lane);
      });
    tile_inverse(g.tile, g.spectrum, g.bias, g.image);
    for_items(t, first, [&](size_t item, int lane) { scatter_image(t, g.image + lane, item, image); });
  });
}

}  // namespace znn::ZNN_ISA
