// Bindings of what happens between convolutions: transfers, dropout, filters and losses.
#include <nanobind/stl/optional.h>

#include <optional>

#include "bindings.hpp"

namespace {

// ---- pointwise

znn::Transfer transfer_of(const Image& image, int function, float a, float b) {
  require(image.size() > 0, "an image needs at least one voxel, batch entry and channel");
  require(function >= 0 && function <= znn::SOFTPLUS, "unknown transfer function");
  return {size_of(image, 1).voxels() * image.shape(0), (int)image.shape(4), (znn::Function)function, a, b};
}

void transfer_forward(const Image& image, const Array<const float, 1>& bias, int function, float a, float b, Array<float, 5> out) {
  const znn::Transfer t = transfer_of(image, function, a, b);
  require(bias.shape(0) == image.shape(4) && out.size() == image.size(), "bias or output does not fit the image");
  nb::gil_scoped_release release;
  znn::table().transfer_forward(t, image.data(), bias.data(), out.data());
}

void transfer_backward(const Image& d_out, const Image& out, int function, float a, float b, Array<float, 5> d_image,
                       Array<double, 1> d_bias) {
  const znn::Transfer t = transfer_of(out, function, a, b);
  require(d_out.size() == out.size() && d_image.size() == out.size() && d_bias.shape(0) == out.shape(4), "gradients do not fit the image");
  nb::gil_scoped_release release;
  znn::table().transfer_backward(t, d_out.data(), out.data(), d_image.data(), d_bias.data());
}

void dropout(const Image& image, const Array<const int64_t, 1>& entries, uint64_t all_entries, uint64_t all_channels,
             uint64_t first_channel, uint64_t key, double rate, Array<float, 5> out) {
  require(image.size() > 0, "an image needs at least one voxel, batch entry and channel");
  require(entries.shape(0) == image.shape(0) && out.size() == image.size(), "entries or output do not fit the image");
  require(rate >= 0 && rate < 1, "the rate must be at least 0 and below 1");
  const znn::Dropout d{size_of(image, 1).voxels(),    (int)image.shape(0), (int)image.shape(4), key, all_entries, all_channels,
                       first_channel,                 (uint32_t)(rate * 4294967296.0), (float)(1.0 / (1.0 - rate))};
  nb::gil_scoped_release release;
  znn::table().dropout(d, image.data(), entries.data(), out.data());
}

// ---- filters

template <typename Index>
using Argmax = Array<Index, 5>;

znn::Filter filter_of(znn::Size size, const Ints& window, const Ints& stride, bool pool, int batch, int channels, znn::Size out,
                      size_t group_batch) {
  const znn::Size w = size_of(window), s = size_of(stride), m = valid(size, w);
  require(positive(w) && positive(s) && positive(m), "the window must fit the image");
  const int parities = pool ? 1 : (int)s.voxels();
  const bool fits = pool ? same(out, {(m.z - 1) / s.z + 1, (m.y - 1) / s.y + 1, (m.x - 1) / s.x + 1})
                         : out.z * s.z == m.z && out.y * s.y == m.y && out.x * s.x == m.x;
  require(fits, "the filtered size must be a multiple of the stride, and the output that multiple");
  require(batch > 0 && channels > 0, "an image needs at least one voxel, batch entry and channel");
  require(group_batch > 0 && group_batch % batch == 0 && parities % (group_batch / batch) == 0, "groups must hold whole parities");
  return {size, w, s, out, batch, channels, parities, (int)(group_batch / batch)};
}

template <typename Index>
void filter_forward(const Image& image, const Ints& window, const Ints& stride, bool pool, const std::vector<Array<float, 5>>& out,
                    const std::vector<Argmax<Index>>& argmax) {
  require(!out.empty() && out.size() == argmax.size(), "filter_forward needs one argmax per output");
  const znn::Filter f = filter_of(size_of(image, 1), window, stride, pool, (int)image.shape(0), (int)image.shape(4),
                                  size_of(out[0], 1), out[0].shape(0));
  require((int)out.size() * f.parities_per_group == f.n_parities, "outputs for every parity are needed");
  require(f.window.voxels() <= (sizeof(Index) == 1 ? 256u : 65536u), "the window is too large for this argmax type");
  std::vector<float*> outputs;
  std::vector<void*> indices;
  for (size_t j = 0; j < out.size(); j++) {
    require(out[j].size() == out[0].size() && argmax[j].size() == out[0].size() && out[j].shape(4) == image.shape(4),
            "the argmax or output does not fit");
    outputs.push_back(out[j].data());
    indices.push_back(argmax[j].data());
  }
  nb::gil_scoped_release release;
  float* scratch = znn::pool::scratch(znn::table().filter_forward_scratch(f));
  znn::table().filter_forward(f, image.data(), outputs.data(), indices.data(), sizeof(Index), scratch);
}

template <typename Index>
void filter_backward(const std::vector<Image>& d_out, const std::vector<Argmax<const Index>>& argmax, const Ints& window,
                     const Ints& stride, bool pool, Array<float, 5> d_image) {
  require(!d_out.empty() && d_out.size() == argmax.size(), "filter_backward needs one argmax per gradient");
  const znn::Filter f = filter_of(size_of(d_image, 1), window, stride, pool, (int)d_image.shape(0), (int)d_image.shape(4),
                                  size_of(d_out[0], 1), d_out[0].shape(0));
  require((int)d_out.size() * f.parities_per_group == f.n_parities, "gradients of every parity are needed");
  std::vector<const float*> gradients;
  std::vector<const void*> indices;
  for (size_t j = 0; j < d_out.size(); j++) {
    require(d_out[j].size() == d_out[0].size() && argmax[j].size() == d_out[0].size() && d_out[j].shape(4) == d_image.shape(4),
            "gradients or argmax differ in size");
    gradients.push_back(d_out[j].data());
    indices.push_back(argmax[j].data());
  }
  nb::gil_scoped_release release;
  float* scratch = znn::pool::scratch(znn::table().filter_backward_scratch(f));
  znn::table().filter_backward(f, gradients.data(), indices.data(), sizeof(Index), d_image.data(), scratch);
}

// ---- losses

// The blocks of one batch group, and their gradients; entries: (fragment, 4), of example, z, y and x. Returns the sum.
double loss(const std::vector<Image>& blocks, const std::vector<Array<float, 5>>& d_blocks, int kind,
            const Array<const int, 2>& entries, const Ints& sparsity, const std::optional<Array<const float, 5>>& target,
            const std::optional<Array<const int32_t, 4>>& classes, const std::optional<Array<const float, 5>>& weight, double scale, double margin) {
  require(kind >= 0 && kind <= znn::SQUARE_SQUARE, "unknown loss");
  require(!blocks.empty() && blocks.size() == d_blocks.size(), "a loss needs one gradient per block");
  require(kind == znn::SOFTMAX ? classes.has_value() : target.has_value(), "a loss needs targets; softmax needs classes");
  znn::Loss a{};
  a.kind = (znn::LossKind)kind;
  a.size = size_of(blocks[0], 1);
  a.sparsity = size_of(sparsity);
  a.batch = (int)blocks[0].shape(0);
  std::vector<znn::Block> parts = blocks_of(blocks, 4);
  std::vector<float*> gradients;
  for (size_t j = 0; j < blocks.size(); j++) {
    require(same(size_of(blocks[j], 1), a.size) && (int)blocks[j].shape(0) == a.batch, "blocks differ in size or batch");
    require(blocks[j].size() > 0, "an image needs at least one voxel, batch entry and channel");
    require(d_blocks[j].size() == blocks[j].size(), "a gradient does not fit its block");
    a.channels += parts[j].channels;
    gradients.push_back(d_blocks[j].data());
  }
  const bool softmax = kind == znn::SOFTMAX;
  const int n_examples = (int)(softmax ? classes->shape(0) : target->shape(0));
  a.target_size = softmax ? size_of(*classes, 1) : size_of(*target, 2);
  require(softmax || (int)target->shape(1) == a.channels, "the target's channels must be those of the blocks");
  require((int)entries.shape(0) == a.batch && entries.shape(1) == 4, "one row of four numbers per entry");
  for (int e = 0; e < a.batch; e++) {
    const int* p = entries.data() + 4 * e;
    require(p[0] >= 0 && p[0] < n_examples && p[1] >= 0 && p[2] >= 0 && p[3] >= 0, "an entry lies outside the target");
  }
  for (size_t j = 0; softmax && j < classes->size(); j++)
    require(classes->data()[j] >= 0 && classes->data()[j] < a.channels, "a class lies outside the channels");
  if (weight) {
    require((int)weight->shape(0) == n_examples && same(size_of(*weight, 2), a.target_size), "weight and target differ in size");
    a.weight_channels = (int)weight->shape(1);
    require(a.weight_channels == 1 || (!softmax && a.weight_channels == a.channels), "weights have one channel, or the target's");
    a.weight = weight->data();
  }
  a.n_blocks = (int)parts.size();
  a.entries = entries.data();
  a.blocks = parts.data();
  a.d_blocks = gradients.data();
  a.target = softmax ? nullptr : target->data();
  a.classes = softmax ? classes->data() : nullptr;
  a.scale = scale;
  a.margin = margin;
  nb::gil_scoped_release release;
  return znn::table().loss(a, znn::pool::scratch(znn::table().loss_scratch(a)));
}

}  // namespace

void bind_elementwise(nb::module_& m) {
  m.def("transfer_forward", &transfer_forward, "image"_a, "bias"_a, "function"_a, "a"_a, "b"_a, "out"_a);
  m.def("transfer_backward", &transfer_backward, "d_out"_a, "out"_a, "function"_a, "a"_a, "b"_a, "d_image"_a, "d_bias"_a);
  m.def("dropout", &dropout, "image"_a, "entries"_a, "all_entries"_a, "all_channels"_a, "first_channel"_a, "key"_a, "rate"_a, "out"_a);
  m.def("loss", &loss, "blocks"_a, "d_blocks"_a, "kind"_a, "entries"_a, "sparsity"_a, "target"_a.none(), "classes"_a.none(),
        "weight"_a.none(), "scale"_a, "margin"_a);
  m.def("filter_forward_uint8", &filter_forward<uint8_t>, "image"_a, "window"_a, "stride"_a, "pool"_a, "out"_a, "argmax"_a);
  m.def("filter_forward_uint16", &filter_forward<uint16_t>, "image"_a, "window"_a, "stride"_a, "pool"_a, "out"_a, "argmax"_a);
  m.def("filter_backward_uint8", &filter_backward<uint8_t>, "d_out"_a, "argmax"_a, "window"_a, "stride"_a, "pool"_a, "d_image"_a);
  m.def("filter_backward_uint16", &filter_backward<uint16_t>, "d_out"_a, "argmax"_a, "window"_a, "stride"_a, "pool"_a, "d_image"_a);
}
