// Bindings of what learning takes beside gradients: updates of parameters, norms, and the pairs of MALIS.
#include <nanobind/stl/pair.h>

#include <utility>

#include "bindings.hpp"
#include "malis.hpp"

namespace {

using Values = Array<const float, 1>;
using NewValues = Array<float, 1>;

void sgd(const Values& parameter, const Values& velocity, const Values& gradient, float rate, float momentum, float decay,
         bool nesterov, float scale, float most, NewValues new_parameter, NewValues new_velocity) {
  const size_t n = parameter.shape(0);
  require(velocity.shape(0) == n && gradient.shape(0) == n && new_parameter.shape(0) == n && new_velocity.shape(0) == n,
          "parameter, velocity and gradient differ in size");
  nb::gil_scoped_release release;
  znn::table().sgd({rate, momentum, decay, scale, most, nesterov}, n, parameter.data(), velocity.data(), gradient.data(),
                   new_parameter.data(), new_velocity.data());
}

void adam(const Values& parameter, const Values& moment, const Values& square, const Values& gradient, float step, float shrink,
          float root, float epsilon, double beta1, double beta2, float decay, float scale, float most, NewValues new_parameter,
          NewValues new_moment, NewValues new_square) {
  const size_t n = parameter.shape(0);
  require(moment.shape(0) == n && square.shape(0) == n && gradient.shape(0) == n, "parameter, moments and gradient differ in size");
  require(new_parameter.shape(0) == n && new_moment.shape(0) == n && new_square.shape(0) == n, "results differ in size");
  const znn::Adam a{step, shrink, root, epsilon, (float)(1.0 - beta1), (float)beta2, (float)(1.0 - beta2), decay, scale, most};
  nb::gil_scoped_release release;
  znn::table().adam(a, n, parameter.data(), moment.data(), square.data(), gradient.data(), new_parameter.data(),
                    new_moment.data(), new_square.data());
}

double square_sum(const Values& values) {
  nb::gil_scoped_release release;
  return znn::table().square_sum(values.shape(0), values.data());
}

std::pair<double, double> malis(const Array<const float, 4>& affinities, const Array<const int32_t, 3>& segments, int n_segments,
                const Array<const int, 2>& offsets, bool constrained, Array<float, 4> positive, Array<float, 4> negative) {
  require(same(size_of(affinities, 1), size_of(segments)), "affinities and segments differ in size");
  require(affinities.size() > 0 && affinities.size() < 0x80000000u, "a volume needs 1 to 2^31 affinities");
  require(offsets.shape(0) == affinities.shape(0) && offsets.shape(1) == 3, "one offset (z, y, x) per channel is needed");
  require(positive.size() == affinities.size() && negative.size() == affinities.size(), "counts do not fit the affinities");
  for (size_t v = 0; v < segments.size(); v++)
    require(segments.data()[v] >= 0 && segments.data()[v] <= n_segments, "a segment lies outside 0 to n_segments");
  const znn::Size s = size_of(segments);
  const znn::Malis m{{s.z, s.y, s.x}, (int)affinities.shape(0), offsets.data(), affinities.data(), segments.data(), n_segments, constrained};
  nb::gil_scoped_release release;
  const znn::Pairs pairs = znn::count_pairs(m, positive.data(), negative.data());
  return {pairs.positive, pairs.negative};
}

}  // namespace

void bind_learning(nb::module_& m) {
  m.def("sgd", &sgd, "parameter"_a, "velocity"_a, "gradient"_a, "rate"_a, "momentum"_a, "decay"_a, "nesterov"_a, "scale"_a,
        "most"_a, "new_parameter"_a, "new_velocity"_a);
  m.def("adam", &adam, "parameter"_a, "moment"_a, "square"_a, "gradient"_a, "step"_a, "shrink"_a, "root"_a, "epsilon"_a,
        "beta1"_a, "beta2"_a, "decay"_a, "scale"_a, "most"_a, "new_parameter"_a, "new_moment"_a, "new_square"_a);
  m.def("square_sum", &square_sum, "values"_a);
  m.def("malis", &malis, "affinities"_a, "segments"_a, "n_segments"_a, "offsets"_a, "constrained"_a, "positive"_a, "negative"_a);
}
