// Which tiles the Winograd convolutions take: said once, for the kernels and for those who count their products.
#pragma once
#include "simd.hpp"
#include "table.hpp"

namespace znn::ZNN_ISA {

constexpr int SMALL_TILE = 4, LARGE_TILE = 6;      // values along an axis; the other axis may have the other
constexpr int MIDDLE_TILE = 5, LARGEST_TILE = 8;   // along both axes
constexpr int MIDDLE_TAPS = 3, LARGEST_FROM = 3;   // MIDDLE_TILE is for so many taps, LARGEST_TILE for as many or more
constexpr int FEWEST_TAPS = 2, MOST_TAPS = 5;

struct Tile {
  int y, x;
};

// The values along an axis of n outputs: fewer products decide, and of equals the smaller tile, which rounds less.
ZNN_INLINE int tile_along(int n, int k) {
  const int small = SMALL_TILE + 1 - k, large = LARGE_TILE + 1 - k;
  if (small < 2) return LARGE_TILE;
  return ceil_div(n, small) * SMALL_TILE <= ceil_div(n, large) * LARGE_TILE ? SMALL_TILE : LARGE_TILE;
}

// The products for y by x outputs of k by k taps.
ZNN_INLINE int64_t products_of(Tile tile, int y, int x, int k) {
  const auto along = [&](int n, int t) { return (int64_t)ceil_div(n, t + 1 - k) * t; };
  return along(y, tile.y) * along(x, tile.x);
}

// Squares along both axes are taken where they save a tenth of the products: less goes into more transforms, or rounding.
ZNN_INLINE Tile tile_for(int y, int x, int k) {
  Tile best = {tile_along(y, k), tile_along(x, k)};
  const auto prefer = [&](Tile tile) {
    if (products_of(tile, y, x, k) * 10 <= products_of(best, y, x, k) * 9) best = tile;
  };
  if (k == MIDDLE_TAPS) prefer({MIDDLE_TILE, MIDDLE_TILE});
  if (k >= LARGEST_FROM) prefer({LARGEST_TILE, LARGEST_TILE});
  return best;
}

}  // namespace znn::ZNN_ISA
