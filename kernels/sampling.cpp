// Bindings of what chooses, moves or interpolates voxels map by map: borders, phases, pooling, upsampling.
#include "bindings.hpp"

namespace {

using Numbers = Array<const int32_t, 1>;

template <typename A>
void require_values(const A& image) {
  require(image.size() > 0, "an image needs at least one voxel, batch entry and channel");
}

// ---- voxels that are moved

// The numbers and places of parts along three axes; see znn::Rearrange.
template <typename Part, typename Whole>
znn::Rearrange rearrange_of(const std::vector<Numbers>& parts, const std::vector<Numbers>& places, const std::vector<Part>& images,
                            const Whole& whole) {
  require(parts.size() == 3 && places.size() == 3 && !images.empty(), "parts and places are needed along three axes, and an image");
  znn::Rearrange r{size_of(whole, 1), size_of(images[0], 1), (int)whole.shape(0), (int)whole.shape(4), {}, {}};
  int last = 0;
  for (int axis = 0; axis < 3; axis++) {
    const int n = (int)whole.shape(axis + 1), n_part = (int)images[0].shape(axis + 1);
    require((int)parts[axis].shape(0) == n && (int)places[axis].shape(0) == n, "a part and a place are needed for every voxel of an axis");
    r.parts[axis] = parts[axis].data();
    r.places[axis] = places[axis].data();
    int most = 0;
    for (int v = 0; v < n; v++) {
      require(r.places[axis][v] >= -1 && r.places[axis][v] < n_part && r.parts[axis][v] >= 0, "a place lies outside its part");
      most = r.places[axis][v] >= 0 && r.parts[axis][v] > most ? r.parts[axis][v] : most;
    }
    last += most;
  }
  require(last < (int)images.size(), "there are fewer parts than their numbers say");
  for (const Part& image : images) {
    require(same(size_of(image, 1), r.part_size), "the parts differ in size");
    require(image.shape(0) == whole.shape(0) && image.shape(4) == whole.shape(4), "parts and whole differ in batch or channels");
  }
  require_values(whole);
  return r;
}

void take(const std::vector<Image>& images, const std::vector<Numbers>& parts, const std::vector<Numbers>& places, Array<float, 5> out) {
  const znn::Rearrange r = rearrange_of(parts, places, images, out);
  std::vector<const float*> data;
  for (const Image& image : images) data.push_back(image.data());
  nb::gil_scoped_release release;
  znn::table().take(r, data.data(), out.data(), znn::pool::scratch(znn::table().rearrange_scratch(r)));
}

void put(const Image& image, const std::vector<Numbers>& parts, const std::vector<Numbers>& places,
         const std::vector<Array<float, 5>>& out) {
  const znn::Rearrange r = rearrange_of(parts, places, out, image);
  std::vector<float*> data;
  for (const Array<float, 5>& part : out) data.push_back(part.data());
  nb::gil_scoped_release release;
  znn::table().put(r, image.data(), data.data(), znn::pool::scratch(znn::table().rearrange_scratch(r)));
}

void fold(const Image& d_out, const Ints& before, const std::vector<Numbers>& starts, const std::vector<Numbers>& sources,
          Array<float, 5> d_image) {
  require(starts.size() == 3 && sources.size() == 3, "starts and sources are needed along three axes");
  require_values(d_image);
  require(d_out.shape(0) == d_image.shape(0) && d_out.shape(4) == d_image.shape(4), "gradients differ in batch or channels");
  znn::Fold f{size_of(d_image, 1), size_of(d_out, 1), size_of(before), (int)d_image.shape(0), (int)d_image.shape(4), {}, {}};
  for (int axis = 0; axis < 3; axis++) {
    const int n = (int)d_image.shape(axis + 1), n_padded = (int)d_out.shape(axis + 1);
    require(before[axis] >= 0 && before[axis] + n <= n_padded, "the image does not fit into the padded one");
    require((int)starts[axis].shape(0) == n + 1 && (int)sources[axis].shape(0) == n_padded, "starts or sources do not fit the image");
    f.starts[axis] = starts[axis].data();
    f.sources[axis] = sources[axis].data();
    for (int v = 0; v < n; v++) {
      const int first = f.starts[axis][v], stop = f.starts[axis][v + 1];
      bool own = false;
      require(0 <= first && first < stop && stop <= n_padded, "every voxel needs a source, and the sources an order");
      for (int k = first; k < stop; k++) {
        require(f.sources[axis][k] >= 0 && f.sources[axis][k] < n_padded, "a source lies outside the padded image");
        own = own || f.sources[axis][k] == before[axis] + v;
      }
      require(own, "every voxel is its own source");
    }
  }
  nb::gil_scoped_release release;
  znn::table().fold(f, d_out.data(), d_image.data(), znn::pool::scratch(znn::table().fold_scratch(f)));
}

// ---- larger and smaller images

template <typename A, typename B>
znn::Resample resample_of(const A& image, const B& larger, const Ints& factor, float scale) {
  const znn::Size n = size_of(image, 1), f = size_of(factor), m = size_of(larger, 1);
  require(positive(f) && m.z == n.z * f.z && m.y == n.y * f.y && m.x == n.x * f.x, "the larger size must be the smaller times the factor");
  require(image.shape(0) == larger.shape(0) && image.shape(4) == larger.shape(4), "images differ in batch or channels");
  require_values(image);
  return {n, f, (int)image.shape(0), (int)image.shape(4), scale};
}

void window_sum(const Image& image, const Ints& window, float scale, Array<float, 5> out) {
  const znn::Resample r = resample_of(out, image, window, scale);
  nb::gil_scoped_release release;
  znn::table().window_sum(r, image.data(), out.data(), znn::pool::scratch(znn::table().window_sum_scratch(r)));
}

void repeat(const Image& image, const Ints& factor, float scale, Array<float, 5> out) {
  const znn::Resample r = resample_of(image, out, factor, scale);
  nb::gil_scoped_release release;
  znn::table().repeat(r, image.data(), out.data());
}

void interpolate(const Image& image, const Ints& factor, Array<float, 5> out) {
  const znn::Resample r = resample_of(image, out, factor, 1.0f);
  nb::gil_scoped_release release;
  znn::table().interpolate(r, image.data(), out.data(), znn::pool::scratch(znn::table().interpolate_scratch(r)));
}

void interpolate_backward(const Image& d_out, const Ints& factor, Array<float, 5> d_image) {
  const znn::Resample r = resample_of(d_image, d_out, factor, 1.0f);
  nb::gil_scoped_release release;
  float* scratch = znn::pool::scratch(znn::table().interpolate_backward_scratch(r));
  znn::table().interpolate_backward(r, d_out.data(), d_image.data(), scratch);
}

}  // namespace

void bind_sampling(nb::module_& m) {
  m.def("take", &take, "images"_a, "parts"_a, "places"_a, "out"_a);
  m.def("put", &put, "image"_a, "parts"_a, "places"_a, "out"_a);
  m.def("fold", &fold, "d_out"_a, "before"_a, "starts"_a, "sources"_a, "d_image"_a);
  m.def("window_sum", &window_sum, "image"_a, "window"_a, "scale"_a, "out"_a);
  m.def("repeat", &repeat, "image"_a, "factor"_a, "scale"_a, "out"_a);
  m.def("interpolate", &interpolate, "image"_a, "factor"_a, "out"_a);
  m.def("interpolate_backward", &interpolate_backward, "d_out"_a, "factor"_a, "d_image"_a);
}
