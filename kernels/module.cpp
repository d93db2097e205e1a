// The bindings: check shapes, take views, release the GIL, call the table. No arithmetic here. Convolutions are bound in
// convolution.cpp, what happens between them in elementwise.cpp, sampling.cpp and node.cpp, updates in learning.cpp, warped
// samples in warping.cpp.
#include <nanobind/stl/string.h>

#include <string>

#include "bindings.hpp"

namespace {

struct Memory {
  void* data;
  size_t bytes;
};

template <typename T>
nb::ndarray<nb::numpy, T> make(const std::vector<size_t>& shape) {
  size_t bytes = sizeof(T);
  for (size_t n : shape) bytes *= n;
  auto* memory = new Memory{znn::pool::take(bytes), bytes};
  nb::capsule owner(memory, [](void* p) noexcept {
    auto* m = static_cast<Memory*>(p);
    znn::pool::give(m->data, m->bytes);
    delete m;
  });
  return nb::ndarray<nb::numpy, T>(memory->data, shape.size(), shape.data(), owner);
}

// ---- what the machine can do

double fma_peak(size_t rounds) {
  nb::gil_scoped_release release;
  return znn::table().fma_peak(rounds, znn::pool::scratch(znn::PEAK_SUMS));
}

}  // namespace

NB_MODULE(_kernels, m) {
  m.doc() = "The inner loops. Use them through znn_dask.ops, which has the documentation.";
  m.def("isa", [] { return std::string(znn::table().name); });
  m.def("fma_peak", &fma_peak, "rounds"_a);
  m.def("lanes", [] { return znn::table().lanes; });
  m.def("empty", &make<float>, "shape"_a);
  m.def("empty_uint8", &make<uint8_t>, "shape"_a);
  m.def("empty_uint16", &make<uint16_t>, "shape"_a);
  m.def("trim", &znn::pool::trim);
  m.def(
      "pool_counts",
      [] {
        const znn::pool::Counts c = znn::pool::counts();
        return nb::make_tuple(c.bytes_from_system, c.bytes_in_use, c.n_from_system, c.bytes_scratch, c.bytes_peak);
      },
      nb::sig("def pool_counts() -> tuple[int, int, int, int, int]"));
  m.def("reset_peak", &znn::pool::reset_peak);
  bind_convolution(m);
  bind_elementwise(m);
  bind_learning(m);
  bind_sampling(m);
  bind_node(m);
  bind_warping(m);
}
