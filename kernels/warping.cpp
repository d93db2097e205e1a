// Bindings of what makes samples.
#include <nanobind/stl/optional.h>

#include <optional>

#include "bindings.hpp"
#include "warp.hpp"

namespace {

void interpolate(Array<const float, 4> image, std::optional<Array<const float, 3>> z, Array<const float, 3> y,
                 Array<const float, 3> x, Array<const int, 2> moved, const Ints& low, Array<float, 4> result) {
  const znn::Size size = size_of(result, 1), field = size_of(y), from = size_of(image, 1);
  require(positive(size) && positive(from), "there must be voxels");
  require(result.shape(0) == image.shape(0), "image and result must have the same channels");
  require(same(size_of(x), field), "x must have the shape of y");
  require(field.y == size.y && field.x == size.x, "the field must have the size of the result");
  require(field.z == size.z || field.z == 1, "the field must have one section, or all of the result");
  require(!z || same(size_of(*z), size), "z must have the size of the result");
  require((int)moved.shape(0) == size.z && moved.shape(1) == 2, "every section must be moved along y and x");
  const znn::Places places{z ? z->data() : nullptr, y.data(), x.data(), {size.z, size.y, size.x}, field.z,
                           moved.data(), {low[0], low[1], low[2]}};
  const int image_size[3] = {from.z, from.y, from.x};
  nb::gil_scoped_release release;
  for (size_t c = 0; c < image.shape(0); c++)
    znn::interpolate(image.data() + c * from.z * from.y * from.x, image_size, places,
                     result.data() + c * size.z * size.y * size.x);
}

}  // namespace

void bind_warping(nb::module_& m) {
  m.def("interpolate", &interpolate, "image"_a, "z"_a.none(), "y"_a, "x"_a, "moved"_a, "low"_a, "result"_a);
}
