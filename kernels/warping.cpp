// Bindings of what makes samples.
#include "bindings.hpp"

namespace {

using Values = Array<const float, 4>;  // (channel, z, y, x)
using Table2 = Array<const float, 2>;

// A motion as Python gives it.
struct Given {
  std::vector<znn::Spline> splines;
  znn::Motion motion;

  Given(const Table2& affine, const std::vector<Values>& coefficients, const std::vector<std::vector<Table2>>& weights, znn::Size size) {
    const int maps = (int)affine.shape(0);
    require(positive(size) && (maps == 2 || maps == 3), "a patch needs voxels, and maps along y and x or all axes");
    require(affine.shape(1) == 4, "an affine map has four numbers for every map");
    require(coefficients.size() == weights.size(), "every spline needs weights");
    for (size_t s = 0; s < weights.size(); s++) {
      const std::vector<Table2>& w = weights[s];
      const znn::Size count = size_of(coefficients[s], 1);
      require(w.size() == 3 && (int)coefficients[s].shape(0) == maps, "a spline has weights along three axes and all maps");
      require((int)w[0].shape(0) == size.z && (int)w[0].shape(1) == count.z && (int)w[1].shape(0) == size.y &&
                  (int)w[1].shape(1) == count.y && (int)w[2].shape(0) == count.x && (int)w[2].shape(1) == size.x,
              "the weights of a spline do not fit its coefficients or the patch");
      splines.push_back({coefficients[s].data(), count, w[0].data(), w[1].data(), w[2].data()});
    }
    motion = {size, maps, affine.data(), (int)splines.size(), splines.data()};
  }
  znn::Course course(const Array<const int, 2>& moved) const {
    require((int)moved.shape(0) == motion.size.z && moved.shape(1) == 3, "every section must be moved along z, y and x");
    return {motion, moved.data()};
  }
  float* scratch() const { return znn::pool::scratch(znn::table().places_scratch(motion)); }
};

void places(const Table2& affine, const std::vector<Values>& coefficients, const std::vector<std::vector<Table2>>& weights,
            Array<float, 4> field) {
  const Given given(affine, coefficients, weights, size_of(field, 1));
  require(affine.shape(0) == field.shape(0), "a field has a map for each of the motion");
  nb::gil_scoped_release release;
  znn::table().places(given.motion, field.data(), given.scratch());
}

znn::Window window_of(znn::Size image, int channels, const Ints& at, const Ints& low, const Ints& high) {
  require(positive(image) && channels > 0, "there must be voxels");
  require(image.voxels() <= 0x7fffffff, "an image must have fewer than 2^31 voxels");
  znn::Window w = {image, channels, {}, {}, {}};
  const int length[3] = {image.z, image.y, image.x};
  for (int axis = 0; axis < 3; axis++) {
    require(low[axis] < high[axis] && low[axis] < length[axis] && high[axis] > 0, "the image must hold some of what may be seen");
    w.at[axis] = at[axis], w.low[axis] = low[axis], w.high[axis] = high[axis];
  }
  return w;
}

template <typename T, znn::GreyType TYPE>
void interpolate_at(const Array<const T, 4>& image, const Array<const float, 3>& levels, const Table2& affine,
                    const std::vector<Values>& coefficients, const std::vector<std::vector<Table2>>& weights,
                    const Array<const int, 2>& moved, const Ints& at, const Ints& low, const Ints& high, Array<float, 4> result) {
  const Given given(affine, coefficients, weights, size_of(result, 1));
  const znn::Course course = given.course(moved);
  const znn::Window w = window_of(size_of(image, 1), (int)image.shape(0), at, low, high);
  require(levels.shape(0) == 2 && levels.shape(1) == image.shape(0) && levels.shape(2) == image.shape(1),
          "levels are a factor and what is added, for every section");
  require(result.shape(0) == image.shape(0), "the result must have the channels of the image");
  nb::gil_scoped_release release;
  znn::table().interpolate_at(course, w, TYPE, image.data(), levels.data(), result.data(), given.scratch());
}

void nearest(const Ints& image_size, const Table2& affine, const std::vector<Values>& coefficients,
             const std::vector<std::vector<Table2>>& weights, const Array<const int, 2>& moved, const Ints& at, const Ints& low,
             const Ints& high, const Ints& region_low, const Ints& region_high, Array<int64_t, 3> voxels, Array<uint8_t, 3> inside) {
  const Given given(affine, coefficients, weights, size_of(voxels));
  const znn::Course course = given.course(moved);
  const znn::Window w = window_of(size_of(image_size), 1, at, low, high);
  require(same(size_of(voxels), size_of(inside)), "both results must have the size of the patch");
  nb::gil_scoped_release release;
  znn::table().nearest(course, w, region_low.data(), region_high.data(), voxels.data(), inside.data(), given.scratch());
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

void grade(Array<float, 4> values, const Array<const float, 2>& levels) {
  const znn::Size size = size_of(values, 1);
  require(positive(size) && values.shape(0) > 0, "there must be voxels");
  require(levels.shape(0) == 3 && (int)levels.shape(1) == size.z, "a power, a factor and what is added are needed for every section");
  const float* const all = levels.data();
  const znn::Grade g = {size, (int)values.shape(0), all, all + size.z, all + 2 * size.z};
  nb::gil_scoped_release release;
  znn::table().grade(g, values.data());
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
  m.def("interpolate_at", &interpolate_at<uint8_t, znn::GREY_UINT8>, "image"_a.noconvert(), "levels"_a, "affine"_a, "coefficients"_a, "weights"_a, "moved"_a, "at"_a, "low"_a, "high"_a, "result"_a);
  m.def("interpolate_at", &interpolate_at<uint16_t, znn::GREY_UINT16>, "image"_a.noconvert(), "levels"_a, "affine"_a, "coefficients"_a, "weights"_a, "moved"_a, "at"_a, "low"_a, "high"_a, "result"_a);
  m.def("interpolate_at", &interpolate_at<float, znn::GREY_FLOAT>, "image"_a.noconvert(), "levels"_a, "affine"_a, "coefficients"_a, "weights"_a, "moved"_a, "at"_a, "low"_a, "high"_a, "result"_a);
  m.def("nearest", &nearest, "image_size"_a, "affine"_a, "coefficients"_a, "weights"_a, "moved"_a, "at"_a, "low"_a, "high"_a, "region_low"_a, "region_high"_a, "voxels"_a, "inside"_a);
  m.def("grade", &grade, "values"_a.noconvert(), "levels"_a);
  m.def("smooth", &smooth, "values"_a.noconvert(), "sigma_z"_a, "sigmas"_a);
  m.def("standardise", &standardise<uint8_t, znn::GREY_UINT8>, "values"_a.noconvert(), "shift"_a, "scale"_a, "result"_a);
  m.def("standardise", &standardise<uint16_t, znn::GREY_UINT16>, "values"_a.noconvert(), "shift"_a, "scale"_a, "result"_a);
  m.def("standardise", &standardise<float, znn::GREY_FLOAT>, "values"_a.noconvert(), "shift"_a, "scale"_a, "result"_a);
  m.def("add_noise", &add_noise, "values"_a, "key"_a, "sigma"_a);
}
