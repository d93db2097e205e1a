// Bindings of what looks at a node as a whole, or at several: normalisation, softmax, the largest of several images.
#include <nanobind/stl/optional.h>

#include <optional>

#include "bindings.hpp"

namespace {

using Numbers = Array<const int32_t, 1>;
using Statistics = Array<const float, 3>;  // (example, 2, all channels)
using Sums = Array<double, 3>;             // (example, 2, channel of the block)
using PerChannel = std::optional<Array<const float, 1>>;

// ---- normalisation

znn::Normalise normalise_of(const Image& image, const Numbers& examples, size_t n_examples) {
  require(image.size() > 0, "an image needs at least one voxel, batch entry and channel");
  require(examples.shape(0) == image.shape(0), "an example is needed for every entry");
  for (size_t e = 0; e < examples.shape(0); e++)
    require(examples.data()[e] >= 0 && (size_t)examples.data()[e] < n_examples, "an entry belongs to no example");
  const int channels = (int)image.shape(4);
  return {size_of(image, 1).voxels(), (int)image.shape(0), channels, 0, channels, (int)n_examples, examples.data()};
}

znn::Normalise normalise_of(const Image& image, const Numbers& examples, const Statistics& statistics, int first_channel) {
  znn::Normalise n = normalise_of(image, examples, statistics.shape(0));
  n.first_channel = first_channel;
  n.all_channels = (int)statistics.shape(2);
  require(statistics.shape(1) == 2 && first_channel >= 0 && first_channel + n.channels <= n.all_channels,
          "statistics must be (example, 2, channel) and hold the channels of the block");
  return n;
}

void require_sums(const Sums& out, const Image& image, size_t n_examples) {
  require(out.shape(0) == n_examples && out.shape(1) == 2 && out.shape(2) == image.shape(4), "sums must be (example, 2, channel)");
}

const float* data_of(const PerChannel& values, const Image& image) {
  require(!values || values->shape(0) == image.shape(4), "scale and shift need one value per channel");
  return values ? values->data() : nullptr;
}

void moments(const Image& image, const Numbers& examples, Sums out) {
  const znn::Normalise n = normalise_of(image, examples, out.shape(0));
  require_sums(out, image, n.n_examples);
  nb::gil_scoped_release release;
  znn::table().moments(n, image.data(), out.data(), znn::pool::scratch(znn::table().moments_scratch(n)));
}

void gradient_moments(const Image& d_out, const Image& image, const Statistics& statistics, const Numbers& examples,
                      int first_channel, Sums out) {
  const znn::Normalise n = normalise_of(image, examples, statistics, first_channel);
  require(d_out.size() == image.size(), "image and gradient differ in size");
  require_sums(out, image, n.n_examples);
  nb::gil_scoped_release release;
  float* scratch = znn::pool::scratch(znn::table().gradient_moments_scratch(n));
  znn::table().gradient_moments(n, d_out.data(), image.data(), statistics.data(), out.data(), scratch);
}

void normalise_forward(const Image& image, const Statistics& statistics, const Numbers& examples, int first_channel,
                       const PerChannel& scale, const PerChannel& shift, Array<float, 5> out) {
  const znn::Normalise n = normalise_of(image, examples, statistics, first_channel);
  require(out.size() == image.size(), "image and output differ in size");
  const float *a = data_of(scale, image), *b = data_of(shift, image);
  nb::gil_scoped_release release;
  float* scratch = znn::pool::scratch(znn::table().normalise_scratch(n));
  znn::table().normalise_forward(n, image.data(), statistics.data(), a, b, out.data(), scratch);
}

void normalise_backward(const Image& d_out, const Image& image, const Statistics& statistics, const Statistics& coefficients,
                        const Numbers& examples, int first_channel, const PerChannel& scale, Array<float, 5> d_image) {
  const znn::Normalise n = normalise_of(image, examples, statistics, first_channel);
  require(d_out.size() == image.size() && d_image.size() == image.size(), "image and gradients differ in size");
  require(coefficients.shape(1) == 2 && coefficients.size() == statistics.size() && coefficients.shape(2) == statistics.shape(2),
          "coefficients and statistics differ in shape");
  const float* a = data_of(scale, image);
  nb::gil_scoped_release release;
  float* scratch = znn::pool::scratch(znn::table().normalise_scratch(n));
  znn::table().normalise_backward(n, d_out.data(), image.data(), statistics.data(), coefficients.data(), a, d_image.data(), scratch);
}

// ---- softmax

struct Blocks {
  std::vector<int> channels;
  znn::Softmax softmax;
};

Blocks softmax_of(const std::vector<Image>& images) {
  require(!images.empty(), "softmax needs at least one block");
  Blocks b{{}, {size_of(images[0], 1).voxels() * images[0].shape(0), (int)images.size(), 0, nullptr}};
  for (const Image& image : images) {
    require(image.size() > 0, "an image needs at least one voxel, batch entry and channel");
    require(size_of(image, 1).voxels() * image.shape(0) == b.softmax.voxels, "blocks differ in size or batch");
    b.channels.push_back((int)image.shape(4));
    b.softmax.all_channels += (int)image.shape(4);
  }
  return b;
}

// Their data, each as large as the block it belongs to.
template <typename T, typename A>
std::vector<T*> data_of(const std::vector<A>& arrays, const std::vector<Image>& blocks) {
  require(arrays.size() == blocks.size(), "one array is needed per block");
  std::vector<T*> data;
  for (size_t b = 0; b < arrays.size(); b++) {
    require(arrays[b].size() == blocks[b].size() && arrays[b].shape(4) == blocks[b].shape(4), "an array does not fit its block");
    data.push_back(arrays[b].data());
  }
  return data;
}

void softmax_forward(const std::vector<Image>& images, const std::vector<Array<float, 5>>& out) {
  Blocks b = softmax_of(images);
  b.softmax.channels = b.channels.data();
  const std::vector<const float*> from = data_of<const float>(images, images);
  const std::vector<float*> to = data_of<float>(out, images);
  nb::gil_scoped_release release;
  znn::table().softmax_forward(b.softmax, from.data(), to.data(), znn::pool::scratch(znn::table().softmax_scratch(b.softmax)));
}

void softmax_backward(const std::vector<Image>& d_out, const std::vector<Image>& out, const std::vector<Array<float, 5>>& d_images) {
  Blocks b = softmax_of(out);
  b.softmax.channels = b.channels.data();
  const std::vector<const float*> gradients = data_of<const float>(d_out, out), outputs = data_of<const float>(out, out);
  const std::vector<float*> to = data_of<float>(d_images, out);
  nb::gil_scoped_release release;
  float* scratch = znn::pool::scratch(znn::table().softmax_scratch(b.softmax));
  znn::table().softmax_backward(b.softmax, gradients.data(), outputs.data(), to.data(), scratch);
}

// ---- the largest of several images

constexpr size_t MOST_IMAGES = 256;

void largest(const std::vector<Image>& images, Array<float, 5> out, Array<uint8_t, 5> argmax) {
  require(!images.empty() && images.size() <= MOST_IMAGES, "the largest is taken of 1 to 256 images");
  require(argmax.size() == out.size(), "the argmax does not fit");
  std::vector<const float*> data;
  for (const Image& image : images) {
    require(image.size() == out.size(), "images differ in size");
    data.push_back(image.data());
  }
  nb::gil_scoped_release release;
  znn::table().largest(out.size(), data.data(), (int)data.size(), out.data(), argmax.data());
}

void largest_backward(const Image& d_out, const Array<const uint8_t, 5>& argmax, const std::vector<Array<float, 5>>& d_images) {
  require(argmax.size() == d_out.size(), "the argmax does not fit");
  std::vector<float*> data;
  for (const Array<float, 5>& d_image : d_images) {
    require(d_image.size() == d_out.size(), "gradients differ in size");
    data.push_back(d_image.data());
  }
  nb::gil_scoped_release release;
  znn::table().largest_backward(d_out.size(), d_out.data(), argmax.data(), (int)data.size(), data.data());
}

}  // namespace

void bind_node(nb::module_& m) {
  m.def("moments", &moments, "image"_a, "examples"_a, "out"_a);
  m.def("gradient_moments", &gradient_moments, "d_out"_a, "image"_a, "statistics"_a, "examples"_a, "first_channel"_a, "out"_a);
  m.def("normalise_forward", &normalise_forward, "image"_a, "statistics"_a, "examples"_a, "first_channel"_a, "scale"_a.none(),
        "shift"_a.none(), "out"_a);
  m.def("normalise_backward", &normalise_backward, "d_out"_a, "image"_a, "statistics"_a, "coefficients"_a, "examples"_a,
        "first_channel"_a, "scale"_a.none(), "d_image"_a);
  m.def("softmax_forward", &softmax_forward, "images"_a, "out"_a);
  m.def("softmax_backward", &softmax_backward, "d_out"_a, "out"_a, "d_images"_a);
  m.def("largest", &largest, "images"_a, "out"_a, "argmax"_a);
  m.def("largest_backward", &largest_backward, "d_out"_a, "argmax"_a, "d_images"_a);
}
