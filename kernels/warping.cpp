// Bindings of what makes samples.
#include <cstdlib>

#include "bindings.hpp"

namespace {

using Values = Array<const float, 4>;  // (channel, z, y, x)
using Table2 = Array<const float, 2>;

void places(const Table2& affine, const std::vector<Values>& coefficients, const std::vector<std::vector<Table2>>& weights,
            Array<float, 4> field) {
  const znn::Size size = size_of(field, 1);
  const int maps = (int)field.shape(0);
  require(positive(size) && (maps == 2 || maps == 3), "a field needs voxels, and places along y and x or all axes");
  require((int)affine.shape(0) == maps && affine.shape(1) == 4, "an affine map has four numbers for every map");
  require(coefficients.size() == weights.size(), "every spline needs weights");
  std::vector<znn::Spline> splines;
  for (size_t s = 0; s < weights.size(); s++) {
    const std::vector<Table2>& w = weights[s];
    const znn::Size count = size_of(coefficients[s], 1);
    require(w.size() == 3 && (int)coefficients[s].shape(0) == maps, "a spline has weights along three axes and all maps");
    require((int)w[0].shape(0) == size.z && (int)w[0].shape(1) == count.z && (int)w[1].shape(0) == size.y &&
                (int)w[1].shape(1) == count.y && (int)w[2].shape(0) == count.x && (int)w[2].shape(1) == size.x,
            "the weights of a spline do not fit its coefficients or the field");
    splines.push_back({coefficients[s].data(), count, w[0].data(), w[1].data(), w[2].data()});
  }
  const znn::Motion m{size, maps, affine.data(), (int)splines.size(), splines.data()};
  nb::gil_scoped_release release;
  znn::table().places(m, field.data(), znn::pool::scratch(znn::table().places_scratch(m)));
}

znn::Warp warp_of(const Values& field, const Array<const int, 2>& moved, const Ints& low, znn::Size image, znn::Size stride) {
  const znn::Size size = size_of(field, 1);
  require(positive(size) && positive(image), "there must be voxels");
  require(image.voxels() <= 0x7fffffff, "an image must have fewer than 2^31 voxels");
  require(field.shape(0) == 2 || field.shape(0) == 3, "a field has places along y and x, or all axes");
  require((int)moved.shape(0) == size.z && moved.shape(1) == 2, "every section must be moved along y and x");
  return {size, field.shape(0) == 3, field.data(), moved.data(), size_of(low), image, stride, 0, 1};
}

using Turned = nb::ndarray<const float, nb::ndim<4>, nb::device::cpu>;

void interpolate_at(const Turned& image, const Values& field, const Array<const int, 2>& moved, const Ints& low,
                    Array<float, 4> result) {
  int64_t reach = 0;
  for (int axis = 1; axis < 4; axis++) reach += (int64_t)(image.shape(axis) - 1) * std::abs(image.stride(axis));
  require(reach <= 0x7fffffff, "the voxels of an image must lie within 2^31 of each other");
  znn::Warp w = warp_of(field, moved, low, size_of(image, 1), {(int)image.stride(1), (int)image.stride(2), (int)image.stride(3)});
  w.channel_stride = image.stride(0);
  require(same(size_of(result, 1), w.size) && result.shape(0) == image.shape(0), "the result must have the field's size, and the image's channels");
  w.channels = (int)image.shape(0);
  nb::gil_scoped_release release;
  znn::table().interpolate_at(w, image.data(), result.data());
}

void nearest(const Ints& image_size, const Values& field, const Array<const int, 2>& moved, const Ints& low,
             Array<int64_t, 3> result) {
  const znn::Size image = size_of(image_size);
  const znn::Warp w = warp_of(field, moved, low, image, {image.y * image.x, image.x, 1});
  require(same(size_of(result), w.size), "the result must have the field's size");
  nb::gil_scoped_release release;
  znn::table().nearest(w, result.data());
}

void smooth(Array<float, 4> values, double sigma_z, const Array<const double, 1>& sigmas) {
  const znn::Smooth s{size_of(values, 1), (int)values.shape(0), sigma_z, sigmas.data()};
  require(positive(s.size) && (int)sigmas.shape(0) == s.size.z, "every section needs a width");
  const auto fits = [](double sigma) { return sigma >= 0 && sigma < 1e6; };
  bool all = fits(sigma_z);
  for (int z = 0; z < s.size.z; z++) all = all && fits(s.sigmas[z]);
  require(all, "widths must be 0 or more, and below a million voxels");
  nb::gil_scoped_release release;
  znn::table().smooth(s, values.data(), znn::pool::scratch(znn::table().smooth_scratch(s)));
}

template <typename T, znn::GreyType TYPE>
void standardise(const Array<const T, 4>& values, const Array<const double, 2>& shift, const Array<const double, 2>& scale,
                 Array<float, 4> result) {
  const size_t n_channels = values.shape(0), n_sections = values.shape(1), n = values.shape(2) * values.shape(3);
  require(shift.shape(0) == n_channels && shift.shape(1) == n_sections && scale.shape(0) == n_channels && scale.shape(1) == n_sections,
          "a shift and a scale are needed for every section");
  require(result.shape(0) == n_channels && same(size_of(result, 1), size_of(values, 1)), "the result must have the shape of the values");
  nb::gil_scoped_release release;
  for (size_t k = 0; k < n_channels * n_sections; k++)
    znn::table().standardise(n, TYPE, values.data() + k * n, shift.data()[k], scale.data()[k], result.data() + k * n);
}

void add_noise(Array<float, 1> values, uint64_t key, float sigma) {
  nb::gil_scoped_release release;
  znn::table().add_noise(values.size(), key, sigma, values.data());
}

}  // namespace

void bind_warping(nb::module_& m) {
  m.def("places", &places, "affine"_a, "coefficients"_a, "weights"_a, "field"_a);
  m.def("interpolate_at", &interpolate_at, "image"_a, "field"_a, "moved"_a, "low"_a, "result"_a);
  m.def("nearest", &nearest, "image_size"_a, "field"_a, "moved"_a, "low"_a, "result"_a);
  m.def("smooth", &smooth, "values"_a, "sigma_z"_a, "sigmas"_a);
  m.def("standardise", &standardise<uint8_t, znn::GREY_UINT8>, "values"_a, "shift"_a, "scale"_a, "result"_a);
  m.def("standardise", &standardise<uint16_t, znn::GREY_UINT16>, "values"_a, "shift"_a, "scale"_a, "result"_a);
  m.def("standardise", &standardise<float, znn::GREY_FLOAT>, "values"_a, "shift"_a, "scale"_a, "result"_a);
  m.def("add_noise", &add_noise, "values"_a, "key"_a, "sigma"_a);
}
