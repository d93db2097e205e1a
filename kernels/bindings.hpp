// What the binding files share: the arrays that kernels take, and how their shapes are checked.
#pragma once
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/vector.h>

#include <array>
#include <vector>

#include "pool.hpp"
#include "table.hpp"

namespace nb = nanobind;
using namespace nb::literals;

template <typename T, int N>
using Array = nb::ndarray<T, nb::ndim<N>, nb::c_contig, nb::device::cpu>;
using Image = Array<const float, 5>;     // (batch, z, y, x, channel)
using Kernel = Array<const float, 5>;    // (kz, ky, kx, in, out)
using Spectrum = Array<const float, 6>;  // (fz, fy, batch, fx, 2, channel)
using Twiddle = Array<const float, 2>;   // (n / 2 + 1, k + 2), see znn::Twiddles
using Split = Array<const float, 3>;     // (parts, points, 2), see znn::Axis
using Ints = std::array<int, 3>;

inline void require(bool holds, const char* rule) {
  if (!holds) throw nb::value_error(rule);
}

template <typename A>
znn::Size size_of(const A& a, int first = 0) {
  return {(int)a.shape(first), (int)a.shape(first + 1), (int)a.shape(first + 2)};
}
inline znn::Size size_of(const Ints& s) { return {s[0], s[1], s[2]}; }
inline bool same(znn::Size a, znn::Size b) { return a.z == b.z && a.y == b.y && a.x == b.x; }
inline znn::Size valid(znn::Size n, znn::Size k) { return {n.z - k.z + 1, n.y - k.y + 1, n.x - k.x + 1}; }
inline bool positive(znn::Size s) { return s.z > 0 && s.y > 0 && s.x > 0; }
// Of a spectrum: (fz, fy, fx).
template <typename A>
znn::Size frequencies_of(const A& a) {
  return {(int)a.shape(0), (int)a.shape(1), (int)a.shape(3)};
}
inline znn::Size half(znn::Size n) { return {n.z, n.y, n.x / 2 + 1}; }

template <typename A>
std::vector<znn::Block> blocks_of(const std::vector<A>& data, int channel_axis) {
  std::vector<znn::Block> blocks;
  for (const A& d : data) blocks.push_back({d.data(), nullptr, (int)d.shape(channel_axis)});
  return blocks;
}

void bind_convolution(nb::module_& m);
void bind_elementwise(nb::module_& m);
void bind_learning(nb::module_& m);
void bind_sampling(nb::module_& m);
void bind_node(nb::module_& m);
void bind_warping(nb::module_& m);
