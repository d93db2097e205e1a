// Moving windows of an image to and from the tiles that are transformed, and complex numbers to and from split planes.
#include "simd.hpp"
#include "table.hpp"

namespace znn::ZNN_ISA {

// The part of a tile's axis that lies inside the image: [first, last) in tile coordinates.
struct Range {
  int first, last;
};
static Range inside(int origin, int tile, int image) {
  const int first = origin < 0 ? -origin : 0;
  const int last = min_of(tile, image - origin);
  return {min_of(first, tile), last < first ? min_of(first, tile) : last};
}

static void gather_line(const TileCopy& t, Range x, const float* line, float* to) {
  fill_zero(to, x.first * t.tile_lanes);
  for (int i = x.first; i < x.last; i++) {
    const float* from = line + (size_t)(t.origin[2] + i) * t.image_lanes;
    float* voxel = to + i * t.tile_lanes;
    copy(voxel, from, t.lanes);
    fill_zero(voxel + t.lanes, t.tile_lanes - t.lanes);
  }
  fill_zero(to + x.last * t.tile_lanes, (t.tile_size.x - x.last) * t.tile_lanes);
}

// Voxels outside the image or the filled part of the tile, and lanes beyond the last, become zero.
void gather_tile(const TileCopy& t, const float* image, float* tile) {
  const Range z = inside(t.origin[0], t.filled.z, t.image_size.z), y = inside(t.origin[1], t.filled.y, t.image_size.y),
              x = inside(t.origin[2], t.filled.x, t.image_size.x);
  const size_t line = t.tile_size.x * t.tile_lanes;
  for (int k = 0; k < t.tile_size.z; k++)
    for (int j = 0; j < t.tile_size.y; j++, tile += line) {
      if (k < z.first || k >= z.last || j < y.first || j >= y.last) {
        fill_zero(tile, line);
        continue;
      }
      const size_t row = (size_t)(t.origin[0] + k) * t.image_size.y + t.origin[1] + j;
      gather_line(t, x, image + row * t.image_size.x * t.image_lanes + t.first_lane, tile);
    }
}

// Stores (or adds) tile voxels skip .. skip + count, times scale, at `origin` of the image, cropped to it.
void scatter_tile(const TileCopy& t, const float* tile, float* image, const int* skip, const int* count, float scale,
                  bool add) {
  const int nz = min_of(count[0], t.image_size.z - t.origin[0]), ny = min_of(count[1], t.image_size.y - t.origin[1]),
            nx = min_of(count[2], t.image_size.x - t.origin[2]);
  for (int k = 0; k < nz; k++)
    for (int j = 0; j < ny; j++)
      for (int i = 0; i < nx; i++) {
        const float* from =
            tile + (((size_t)(skip[0] + k) * t.tile_size.y + skip[1] + j) * t.tile_size.x + skip[2] + i) * t.tile_lanes;
        float* to = image +
                    (((size_t)(t.origin[0] + k) * t.image_size.y + t.origin[1] + j) * t.image_size.x + t.origin[2] + i) *
                        t.image_lanes +
                    t.first_lane;
        if (add)
          for (size_t q = 0; q < t.lanes; q++) to[q] += scale * from[q];
        else
          for (size_t q = 0; q < t.lanes; q++) to[q] = scale * from[q];
      }
}

// n complex voxels of tile_lanes values, interleaved -> planes (n, 2, lanes), values first .. first + count.
void split_complex(const float* tile, size_t tile_lanes, size_t n, float* spectrum, size_t lanes, size_t first,
                   size_t count) {
  for (size_t f = 0; f < n; f++) {
    const float* from = tile + f * 2 * tile_lanes;
    float *re = spectrum + f * 2 * lanes + first, *im = re + lanes;
    for (size_t q = 0; q < count; q++) {
      re[q] = from[2 * q];
      im[q] = from[2 * q + 1];
    }
  }
}

void join_complex(const float* spectrum, size_t lanes, size_t first, size_t count, size_t n, float* tile,
                  size_t tile_lanes) {
  for (size_t f = 0; f < n; f++) {
    float* to = tile + f * 2 * tile_lanes;
    const float *re = spectrum + f * 2 * lanes + first, *im = re + lanes;
    for (size_t q = 0; q < count; q++) {
      to[2 * q] = re[q];
      to[2 * q + 1] = im[q];
    }
    fill_zero(to + 2 * count, 2 * (tile_lanes - count));
  }
}

}  // namespace znn::ZNN_ISA
