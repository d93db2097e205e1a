// Bindings of convolutions: direct, by spectra, and the transforms of tiles.
#include <nanobind/stl/optional.h>

#include <optional>
#include <string>

#include "bindings.hpp"
#include "winograd_tiles.hpp"

namespace {

enum class By { DIRECT, WINOGRAD };

void require_squares(By by, znn::Size kernel) {
  using namespace znn::ZNN_ISA;
  require(by == By::DIRECT || (kernel.y == kernel.x && kernel.y >= FEWEST_TAPS && kernel.y <= MOST_TAPS),
          "Winograd's algorithm is for kernels with as many taps along y as along x, 2 to 5");
}

// What both ways and passes share. before, after: zeros thought around the image of the forward pass.
void taps_product(By by, znn::DirectForward& a, const std::vector<Image>& images, const std::vector<Kernel>& kernels, const Ints& before,
                    const Ints& after, Array<float, 5>& out) {
  require(!images.empty() && images.size() == kernels.size(), "direct convolution needs one kernel per image");
  std::vector<znn::Block> blocks = blocks_of(images, 4);
  const int inner = a.turned ? 4 : 3, outer = a.turned ? 3 : 4;  // the kernels' channels of the images, of the output
  a.size = size_of(images[0], 1);
  a.kernel = size_of(kernels[0]);
  a.batch = (int)images[0].shape(0);
  a.out_channels = (int)out.shape(4);
  require(positive(a.size) && positive(a.kernel), "images and kernels must have at least one voxel");
  require(a.batch > 0 && a.out_channels > 0, "batch and channels must not be empty");
  for (size_t j = 0; j < images.size(); j++) {
    require(same(size_of(images[j], 1), a.size) && (int)images[j].shape(0) == a.batch, "images differ in size or batch");
    require(same(size_of(kernels[j]), a.kernel) && (int)kernels[j].shape(inner) == blocks[j].channels && (int)kernels[j].shape(outer) == a.out_channels,
            "a kernel does not fit its image or the output");
    require(blocks[j].channels > 0, "batch and channels must not be empty");
    blocks[j].kernel = kernels[j].data();
  }
  const int taps[3] = {a.kernel.z, a.kernel.y, a.kernel.x};
  for (int axis = 0; axis < 3; axis++)
    require(before[axis] >= 0 && after[axis] >= 0 && before[axis] < taps[axis] && after[axis] < taps[axis],
            "the padding must be at least 0 and smaller than the kernel");
  a.pad = size_of(before);
  a.after = size_of(after);
  if (a.turned) {  // what was added is left out of the full product
    a.pad = {a.kernel.z - 1 - before[0], a.kernel.y - 1 - before[1], a.kernel.x - 1 - before[2]};
    a.after = {a.kernel.z - 1 - after[0], a.kernel.y - 1 - after[1], a.kernel.x - 1 - after[2]};
  }
  const znn::Size m = valid({a.size.z + a.pad.z + a.after.z, a.size.y + a.pad.y + a.after.y, a.size.x + a.pad.x + a.after.x}, a.kernel);
  require(positive(m) && same(size_of(out, 1), m) && (int)out.shape(0) == a.batch,
          "the output's size must be image + padding - kernel + 1, at least 1");
  a.n_blocks = (int)blocks.size();
  a.blocks = blocks.data();
  a.out = out.data();
  require_squares(by, a.kernel);
  const znn::Table& t = znn::table();
  nb::gil_scoped_release release;
  a.scratch = znn::pool::scratch((by == By::DIRECT ? t.direct_forward_scratch : t.winograd_forward_scratch)(a));
  (by == By::DIRECT ? t.direct_forward : t.winograd_forward)(a);
}

// function: -1 stores the sums as they are; otherwise it is applied to each sum with its bias.
template <By by>
void forward(const std::vector<Image>& images, const std::vector<Kernel>& kernels, Array<float, 5> out,
                    std::optional<Array<const float, 1>> bias, int function, float a, float b, const Ints& before, const Ints& after) {
  znn::DirectForward f{};
  f.transfer = function >= 0;
  if (f.transfer) {
    require(function <= znn::SOFTPLUS, "no such transfer function");
    require(!bias || bias->shape(0) == out.shape(4), "the bias does not fit the output");
    f.bias = bias ? bias->data() : nullptr;
    f.function = (znn::Function)function;
    f.a = a;
    f.b = b;
  }
  taps_product(by, f, images, kernels, before, after, out);
}

template <By by>
void backward(const std::vector<Image>& d_outputs, const std::vector<Kernel>& kernels, Array<float, 5> d_image,
                     const Ints& before, const Ints& after) {
  znn::DirectForward a{};
  a.turned = true;
  taps_product(by, a, d_outputs, kernels, before, after, d_image);
}

template <By by>
void gradient(const Image& image, const Image& d_out, Array<float, 5> d_kernel) {
  const znn::Size size = size_of(image, 1), kernel = size_of(d_kernel);
  require(positive(valid(size, kernel)) && same(size_of(d_out, 1), valid(size, kernel)) && d_out.shape(0) == image.shape(0),
          "the output gradient's size must be image - kernel + 1, at least 1");
  require(d_kernel.shape(3) == image.shape(4) && d_kernel.shape(4) == d_out.shape(4), "the kernel's channels do not fit");
  require(positive(kernel) && image.size() > 0 && d_out.size() > 0, "batch and channels must not be empty");
  znn::DirectGradient a{size, kernel, (int)image.shape(0), (int)image.shape(4), (int)d_out.shape(4), image.data(), d_out.data(),
                        d_kernel.data(), nullptr};
  require_squares(by, kernel);
  const znn::Table& t = znn::table();
  nb::gil_scoped_release release;
  a.scratch = znn::pool::scratch((by == By::DIRECT ? t.direct_gradient_scratch : t.winograd_gradient_scratch)(a));
  (by == By::DIRECT ? t.direct_gradient : t.winograd_gradient)(a);
}

znn::Twiddles twiddles_of(const std::vector<Twiddle>& t, znn::Size n, znn::Size k) {
  require(t.size() == 3, "three tables of twiddles, one per axis");
  const int sizes[3] = {n.z, n.y, n.x}, taps[3] = {k.z, k.y, k.x};
  for (int j = 0; j < 3; j++) {
    require((int)t[j].shape(0) == sizes[j] / 2 + 1, "twiddles do not fit the transform");
    require((int)t[j].shape(1) == taps[j] + 2, "twiddles do not fit the kernel");
  }
  return {t[0].data(), t[1].data(), t[2].data()};
}

void require_some(int batch, int in_channels, int out_channels) {
  require(batch > 0 && in_channels > 0 && out_channels > 0, "spectra need at least one entry and one channel");
}

znn::SpectralProduct product_of(const std::vector<Spectrum>& images, const Ints& transform, const Array<float, 6>& out,
                                std::vector<znn::Block>& blocks) {
  require(!images.empty(), "a spectral product needs an image");
  blocks = blocks_of(images, 5);
  const znn::Size n = size_of(transform);
  for (const Spectrum& x : images)
    require(same(frequencies_of(x), half(n)) && x.shape(2) == out.shape(2) && x.shape(4) == 2, "spectra differ in size or batch");
  require(same(frequencies_of(out), half(n)) && out.shape(4) == 2, "the output's size must be the transform's");
  znn::SpectralProduct a{};
  a.transform = n;
  a.batch = (int)out.shape(2);
  a.n_blocks = (int)blocks.size();
  a.out_channels = (int)out.shape(5);
  for (const znn::Block& block : blocks) require_some(a.batch, block.channels, a.out_channels);
  a.blocks = blocks.data();
  a.out = out.data();
  return a;
}

void run(znn::SpectralProduct& a) {
  nb::gil_scoped_release release;
  a.scratch = znn::pool::scratch(znn::table().spectral_product_scratch(a));
  znn::table().spectral_product(a);
}

// backward: the product with the kernel itself and its channels swapped, instead of its conjugate.
void spectral_product(const std::vector<Spectrum>& images, const std::vector<Kernel>& kernels, const Ints& transform,
                      const std::vector<Twiddle>& twiddles, bool backward, Array<float, 6> out) {
  std::vector<znn::Block> blocks;
  znn::SpectralProduct a = product_of(images, transform, out, blocks);
  require(kernels.size() == images.size(), "spectral_product needs one kernel per image");
  a.kernel = size_of(kernels[0]);
  for (size_t j = 0; j < kernels.size(); j++) {
    require(same(size_of(kernels[j]), a.kernel), "kernels differ in size");
    require((int)kernels[j].shape(backward ? 4 : 3) == blocks[j].channels && (int)kernels[j].shape(backward ? 3 : 4) == a.out_channels,
            "a kernel does not fit its image or the output");
    blocks[j].kernel = kernels[j].data();
  }
  require(a.kernel.z <= a.transform.z && a.kernel.y <= a.transform.y && a.kernel.x <= a.transform.x,
          "the transform must be at least as large as the kernel");
  a.twiddles = twiddles_of(twiddles, a.transform, a.kernel);
  a.conjugate = !backward;
  a.transpose = backward;
  run(a);
}

// The same with stored spectra of the kernels, (fz, fy, fx, 2, in, out).
void stored_product(const std::vector<Spectrum>& images, const std::vector<Spectrum>& kernels, const Ints& transform,
                    bool backward, Array<float, 6> out) {
  std::vector<znn::Block> blocks;
  znn::SpectralProduct a = product_of(images, transform, out, blocks);
  require(kernels.size() == images.size(), "stored_product needs one kernel per image");
  for (size_t j = 0; j < kernels.size(); j++) {
    require(same(size_of(kernels[j]), half(a.transform)) && kernels[j].shape(3) == 2, "a kernel's spectrum has another size");
    require((int)kernels[j].shape(backward ? 5 : 4) == blocks[j].channels && (int)kernels[j].shape(backward ? 4 : 5) == a.out_channels,
            "a kernel does not fit its image or the output");
    blocks[j].kernel = kernels[j].data();
  }
  a.kernel = {1, 1, 1};
  a.stored = true;
  a.conjugate = !backward;
  a.transpose = backward;
  run(a);
}

znn::SpectralGradient gradient_of(const Spectrum& image, const Spectrum& d_out, const Ints& transform) {
  const znn::Size n = size_of(transform);
  require(same(frequencies_of(image), half(n)) && same(frequencies_of(d_out), half(n)) && image.shape(4) == 2 && d_out.shape(4) == 2,
          "the spectra's sizes must be the transform's");
  require(image.shape(2) == d_out.shape(2), "spectra differ in batch");
  znn::SpectralGradient a{};
  a.transform = n;
  a.batch = (int)image.shape(2);
  a.in_channels = (int)image.shape(5);
  a.out_channels = (int)d_out.shape(5);
  require_some(a.batch, a.in_channels, a.out_channels);
  a.image = image.data();
  a.d_out = d_out.data();
  return a;
}

void run(znn::SpectralGradient& a) {
  nb::gil_scoped_release release;
  a.scratch = znn::pool::scratch(znn::table().spectral_gradient_scratch(a));
  znn::table().spectral_gradient(a);
}

void spectral_gradient(const Spectrum& image, const Spectrum& d_out, const Ints& transform, const std::vector<Twiddle>& twiddles,
                       int share, int n_shares, Array<float, 5> d_kernel) {
  znn::SpectralGradient a = gradient_of(image, d_out, transform);
  require(share >= 0 && share < n_shares, "there is no such share");
  a.share = share;
  a.n_shares = n_shares;
  a.kernel = size_of(d_kernel);
  require((int)d_kernel.shape(3) == a.in_channels && (int)d_kernel.shape(4) == a.out_channels, "the kernel's channels do not fit");
  a.twiddles = twiddles_of(twiddles, a.transform, a.kernel);
  a.d_kernel = d_kernel.data();
  run(a);
}

void stored_gradient(const Spectrum& image, const Spectrum& d_out, const Ints& transform, Array<float, 6> d_kernel) {
  znn::SpectralGradient a = gradient_of(image, d_out, transform);
  require(same(size_of(d_kernel), half(a.transform)) && d_kernel.shape(3) == 2 && (int)d_kernel.shape(4) == a.in_channels &&
              (int)d_kernel.shape(5) == a.out_channels,
          "the kernel gradient's shape does not fit");
  a.kernel = {1, 1, 1};
  a.stored = true;
  a.d_kernel = d_kernel.data();
  run(a);
}

// ---- tiles. Here the last two axes of images and spectra count as one axis of lanes.

using Lanes = Array<const float, 4>;  // (z, y, x, lane)

void gather_tile(const Lanes& image, const Ints& origin, const Ints& filled, size_t first, size_t count, Array<float, 4> tile) {
  require(first + count <= image.shape(3) && count <= tile.shape(3), "lanes outside the image or tile");
  for (int j = 0; j < 3; j++) require(filled[j] >= 0 && filled[j] <= (int)tile.shape(j), "voxels outside the tile");
  const znn::TileCopy t{size_of(image), size_of(tile), size_of(filled), {origin[0], origin[1], origin[2]},
                        image.shape(3), first,         count,           tile.shape(3)};
  nb::gil_scoped_release release;
  znn::table().gather_tile(t, image.data(), tile.data());
}

void scatter_tile(const Lanes& tile, const Ints& skip, const Ints& count_zyx, float scale, bool add, const Ints& origin, size_t first,
                  size_t count, Array<float, 4> image) {
  require(first + count <= image.shape(3) && count <= tile.shape(3), "lanes outside the image or tile");
  for (int j = 0; j < 3; j++)
    require(origin[j] >= 0 && skip[j] >= 0 && skip[j] + count_zyx[j] <= (int)tile.shape(j), "voxels outside the image or tile");
  const znn::TileCopy t{size_of(image), size_of(tile), size_of(tile), {origin[0], origin[1], origin[2]},
                        image.shape(3), first,         count,         tile.shape(3)};
  nb::gil_scoped_release release;
  znn::table().scatter_tile(t, tile.data(), image.data(), skip.data(), count_zyx.data(), scale, add);
}

// ---- transforms of tiles in one call

// axes: per axis exp(-2 pi i p k / n) of shape (parts, points, 2), n = parts * points. spectrum: (fz, fy, tile * batch, fx, 2, channel).
template <typename I, typename S>
znn::TileTransform transform_of(const I& image, const std::vector<Split>& axes, const Array<const int32_t, 2>& origins, const S& spectrum) {
  require(axes.size() == 3, "three axes, one table each");
  require(origins.shape(1) == 3 && origins.shape(0) > 0 && image.size() > 0, "origins must be (tile, 3), and the image not empty");
  znn::TileTransform t{};
  int n[3];
  for (int j = 0; j < 3; j++) {
    t.axes[j] = {(int)axes[j].shape(0), (int)axes[j].shape(1), axes[j].data()};
    require(t.axes[j].parts >= 1 && t.axes[j].points >= 1 && t.axes[j].parts <= 16 && t.axes[j].points <= 16 && axes[j].shape(2) == 2,
            "a line is transformed as up to 16 parts of up to 16 points");
    n[j] = t.axes[j].parts * t.axes[j].points;
  }
  t.image_size = size_of(image, 1);
  t.origins = origins.data();
  t.n_tiles = (int)origins.shape(0);
  t.entries = (int)image.shape(0);
  t.channels = (int)image.shape(4);
  t.filled = {n[0], n[1], n[2]};
  t.function = znn::LINEAR;
  t.a = 1.0f;
  require(spectrum.shape(2) == origins.shape(0) * image.shape(0) && same(frequencies_of(spectrum), half(t.filled)) &&
              spectrum.shape(4) == 2 && spectrum.shape(5) == image.shape(4),
          "the spectrum must be (z, y, tiles * batch, x / 2 + 1, 2, channels)");
  return t;
}

// The spectra of tiles of which `filled` voxels are taken from the image, those outside of it being zero.
void tile_forward(const Image& image, const std::vector<Split>& axes, const Ints& filled, const Array<const int32_t, 2>& origins,
                  Array<float, 6> spectrum) {
  znn::TileTransform t = transform_of(image, axes, origins, spectrum);
  for (int j = 0; j < 3; j++) require(filled[j] > 0 && filled[j] <= t.axes[j].parts * t.axes[j].points, "voxels outside the tile");
  t.filled = size_of(filled);
  nb::gil_scoped_release release;
  t.scratch = znn::pool::scratch(znn::table().tile_transform_scratch(t));
  znn::table().tile_forward(t, image.data(), spectrum.data());
}

// The first `taken` voxels of every tile, times scale, plus bias, through the function; those of its first `overlap` voxels that lie in
// the tile before it are added to it instead.
void tile_inverse(const Spectrum& spectrum, const std::vector<Split>& axes, const Ints& taken, const Ints& overlap,
                  const Array<const int32_t, 2>& origins, float scale, const std::optional<Array<const float, 1>>& bias, int function,
                  float a, float b, Array<float, 5> image) {
  znn::TileTransform t = transform_of(image, axes, origins, spectrum);
  require(function >= 0 && function <= znn::SOFTPLUS, "unknown transfer function");
  for (int j = 0; j < 3; j++) {
    require(taken[j] > 0 && taken[j] <= t.axes[j].parts * t.axes[j].points && overlap[j] >= 0, "voxels outside the tile");
    for (int tile = 0; tile < t.n_tiles; tile++)
      require(origins(tile, j) >= 0 && origins(tile, j) < (int)image.shape(j + 1), "a tile begins outside the image");
  }
  t.filled = size_of(taken);
  t.overlap = size_of(overlap);
  t.scale = scale;
  t.function = (znn::Function)function;
  t.a = a;
  t.b = b;
  require(!bias || bias->shape(0) == image.shape(4), "the bias must have one value per channel");
  nb::gil_scoped_release release;
  t.scratch = znn::pool::scratch(znn::table().tile_transform_scratch(t));
  znn::table().tile_inverse(t, spectrum.data(), bias ? bias->data() : nullptr, image.data());
}

// tile: complex (fz, fy, fx, lane) given as its float view (fz, fy, fx, 2 * lane).
void split_complex(const Lanes& tile, size_t first, size_t count, Array<float, 5> spectrum) {
  require(same(size_of(tile), size_of(spectrum)) && spectrum.shape(3) == 2, "tile and spectrum differ in size");
  require(first + count <= spectrum.shape(4) && 2 * count <= tile.shape(3), "lanes outside the spectrum or tile");
  nb::gil_scoped_release release;
  znn::table().split_complex(tile.data(), tile.shape(3) / 2, size_of(tile).voxels(), spectrum.data(), spectrum.shape(4), first, count);
}

void join_complex(const Array<const float, 5>& spectrum, size_t first, size_t count, Array<float, 4> tile) {
  require(same(size_of(tile), size_of(spectrum)) && spectrum.shape(3) == 2, "tile and spectrum differ in size");
  require(first + count <= spectrum.shape(4) && 2 * count <= tile.shape(3), "lanes outside the spectrum or tile");
  nb::gil_scoped_release release;
  znn::table().join_complex(spectrum.data(), spectrum.shape(4), first, count, size_of(tile).voxels(), tile.data(), tile.shape(3) / 2);
}

// Products of Winograd's algorithm for y by x outputs of k by k taps.
int64_t winograd_products(int y, int x, int k) {
  using namespace znn::ZNN_ISA;
  require(y > 0 && x > 0 && k >= FEWEST_TAPS && k <= MOST_TAPS, "outputs are at least 1, taps 2 to 5");
  return products_of(tile_for(y, x, k), y, x, k);
}

template <By by>
void bind_taps(nb::module_& m, const std::string& name) {
  m.def((name + "_forward").c_str(), &forward<by>, "images"_a, "kernels"_a, "out"_a, "bias"_a = nb::none(), "function"_a = -1,
        "a"_a = 0.0f, "b"_a = 0.0f, "before"_a = Ints{}, "after"_a = Ints{});
  m.def((name + "_backward").c_str(), &backward<by>, "d_outputs"_a, "kernels"_a, "d_image"_a, "before"_a = Ints{}, "after"_a = Ints{});
  m.def((name + "_gradient").c_str(), &gradient<by>, "image"_a, "d_out"_a, "d_kernel"_a);
}

}  // namespace

void bind_convolution(nb::module_& m) {
  bind_taps<By::DIRECT>(m, "direct");
  bind_taps<By::WINOGRAD>(m, "winograd");
  m.def("winograd_products", &winograd_products, "y"_a, "x"_a, "k"_a);
  m.def("spectral_product", &spectral_product, "images"_a, "kernels"_a, "transform"_a, "twiddles"_a, "backward"_a, "out"_a);
  m.def("stored_product", &stored_product, "images"_a, "kernels"_a, "transform"_a, "backward"_a, "out"_a);
  m.def("spectral_gradient", &spectral_gradient, "image"_a, "d_out"_a, "transform"_a, "twiddles"_a, "share"_a, "n_shares"_a,
        "d_kernel"_a);
  m.def("stored_gradient", &stored_gradient, "image"_a, "d_out"_a, "transform"_a, "d_kernel"_a);
  m.def("gather_tile", &gather_tile, "image"_a, "origin"_a, "filled"_a, "first"_a, "count"_a, "tile"_a);
  m.def("scatter_tile", &scatter_tile, "tile"_a, "skip"_a, "size"_a, "scale"_a, "add"_a, "origin"_a, "first"_a, "count"_a, "image"_a);
  m.def("tile_forward", &tile_forward, "image"_a, "axes"_a, "filled"_a, "origins"_a, "spectrum"_a);
  m.def("tile_inverse", &tile_inverse, "spectrum"_a, "axes"_a, "taken"_a, "overlap"_a, "origins"_a, "scale"_a, "bias"_a.none(),
        "function"_a, "a"_a, "b"_a, "image"_a);
  m.def("split_complex", &split_complex, "tile"_a, "first"_a, "count"_a, "spectrum"_a);
  m.def("join_complex", &join_complex, "spectrum"_a, "first"_a, "count"_a, "tile"_a);
}
