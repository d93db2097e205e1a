// Winograd convolution, forward and input gradient: transform a chunk of the image, multiply frequency by frequency,
// transform back. All in one call and one thread; the transformed kernels and the chunk stay in the second cache.
#include "activation.hpp"
#include "direct_pack.hpp"
#include "winograd.hpp"

namespace znn::ZNN_ISA {

constexpr size_t CHUNK_FLOATS = 1 << 16;

struct Job {
  const DirectForward& a;
  Tiles t;
  bool may_fold;
  size_t lanes;        // of a row of the transformed image
  float* transformed;  // kernels, part by part: (point, tap along z, group of inputs, width)
  float* chunk;        // (point, slice, tile, lane)
  float* products;     // (point, row, width)
};

static size_t groups_of_blocks(const DirectForward& a, int fold) {
  size_t n = 0;
  for (int block = 0; block < a.n_blocks; block++) n += groups_of(a.blocks[block].channels, fold);
  return n;
}

// ---- kernels

// From (block, tap, group, width), where taps count z, y, x.
static void transform_kernels(const Job& job, const Part& part, const float* packed, float* to) {
  const DirectForward& a = job.a;
  const size_t width = part.width(), all = groups_of_blocks(a, part.fold), point_step = a.kernel.z * all * width;
  size_t before = 0;
  for (int block = 0; block < a.n_blocks; block++) {
    const size_t groups = groups_of(a.blocks[block].channels, part.fold), square = (size_t)a.kernel.y * a.kernel.x;
    for (int dz = 0; dz < a.kernel.z; dz++, packed += square * groups * width)
      with_square(job.t, [&](auto s) {
        float* first = to + (dz * all + before) * width;
        for (size_t j = 0; j < groups * width; j += LANES)
          tap_square<s.ny, s.nx, s.k, s.k>([&](int y, int x) { return load(packed + j + (y * s.k + x) * groups * width); },
                                           first + j, point_step);
      });
    before += groups;
  }
}

// ---- products of one frequency

struct Product {
  const DirectForward& a;
  size_t lanes, slice_step;  // floats from row to row, and from slice to slice
  const float* kernel;       // (tap along z, group, width)
};

template <int R, int V, int FOLD>
static void rows_product(const Product& p, const float* image, float* to) {
  vf sum[R][V];
  const float* x[R];
  for (int r = 0; r < R; r++) {
    x[r] = image + r * p.lanes;
    for (int v = 0; v < V; v++) sum[r][v] = (vf){};
  }
  const float* w = p.kernel;
  for (int dz = 0; dz < p.a.kernel.z; dz++) {
    size_t first = dz * p.slice_step;
    for (int block = 0; block < p.a.n_blocks; block++) {
      const size_t channels = p.a.blocks[block].channels;
      for (size_t at = first, end = first + channels; at < end; at += FOLD, w += V * LANES) {
        keep_as_index(at);
        vf weight[V];
        for (int v = 0; v < V; v++) weight[v] = load(w + v * LANES);
#pragma GCC unroll 12
        for (int r = 0; r < R; r++) {
          const vf value = spread<FOLD>(x[r] + at);
          for (int v = 0; v < V; v++) sum[r][v] += value * weight[v];
        }
      }
      first += lanes_for(channels);
    }
  }
  for (int r = 0; r < R; r++)
    for (int v = 0; v < V; v++) store(to + (r * V + v) * LANES, sum[r][v]);
}

using Kernel = void (*)(const Product&, const float*, float*);

template <int V, int FOLD, int R = rows_for(V)>
static Kernel pick(int rows) {
  if constexpr (R > 1)
    if (rows < R) return pick<V, FOLD, R - 1>(rows);
  return rows_product<R, V, FOLD>;
}

static Kernel kernel_for(const Part& part, int rows) {
  if (part.fold == 2) return pick<1, 2>(rows);
  if (part.vectors == 1) return pick<1, 1>(rows);
  if (part.vectors == 2) return pick<2, 1>(rows);
  return pick<MAX_VECTORS, 1>(rows);
}

// Rows are taken in pieces of nearly the same size.
static void multiply(const Job& job, const Part& part, const float* kernels, int tiles, int slices) {
  const size_t rows = (size_t)tiles * slices, rows_in = (size_t)tiles * (slices + job.a.kernel.z - 1);
  const size_t each = (size_t)job.a.kernel.z * groups_of_blocks(job.a, part.fold) * part.width();
  const int pieces = ceil_div((int)rows, rows_for(part.vectors));
  for (size_t point = 0; point < job.t.points(); point++) {
    const Product product = {job.a, job.lanes, tiles * job.lanes, kernels + point * each};
    const float* image = job.chunk + point * point_step_for(rows_in * job.lanes);
    float* to = job.products + point * point_step_for(rows * part.width());
    int left = (int)rows;
    for (int piece = pieces; left > 0; piece--) {
      const int now = ceil_div(left, piece);
      kernel_for(part, now)(product, image, to);
      image += now * job.lanes;
      to += now * part.width();
      left -= now;
    }
  }
}

// ---- images

static void transform_images(const Job& job, int first, int tiles, int z, int slices) {
  const DirectForward& a = job.a;
  const size_t rows = (size_t)tiles * slices, point_step = point_step_for(rows * job.lanes);
  float* lane = job.chunk;
  for (int block = 0; block < a.n_blocks; block++) {
    const size_t channels = a.blocks[block].channels, slice_floats = (size_t)a.size.y * a.size.x * channels;
    const float* data = a.blocks[block].data;
    const Source source = {data, data + a.batch * a.size.z * slice_floats, a.size, channels, (int)channels};
    const auto corner = [&](int tile, int s) -> Corner {
      const Place place = place_of(job.t, first + tile);
      const ptrdiff_t slice = (ptrdiff_t)place.entry * a.size.z + z + s - a.pad.z;
      return {data + slice * (ptrdiff_t)slice_floats, place.y - a.pad.y, place.x - a.pad.x};
    };
    Corner at = corner(0, 0);
    for (int tile = 0; tile < tiles; tile++)
      for (int s = 0; s < slices; s++) {
        const Corner next = s + 1 < slices ? corner(tile, s + 1) : corner(tile + 1, 0);
        float* to = lane + ((size_t)s * tiles + tile) * job.lanes;
        const int iz = z + s - a.pad.z;
        if (iz < 0 || iz >= a.size.z)
          for (size_t point = 0; point < job.t.points(); point++) fill_zero(to + point * point_step, source.channels);
        else
          with_square(job.t, [&](auto q) { transform_row<q.ny, q.nx>(source, at, next, to, point_step); });
        at = next;
      }
    lane += lanes_for(source.channels);
  }
}

// The sums of one line of a tile's outputs become values: n voxels, each `width` wide.
template <typename Change>
ZNN_INLINE void finish_with(const Part& part, const float* bias, const float* sums, int n, size_t step, float* to,
                            const Change& change) {
  for (int x = 0; x < n; x++, to += step)
    for (int v = 0; v < part.vectors; v++, sums += LANES) {
      const vf sum = part.fold == 2 ? add_pairs(load(sums)) : load(sums);
      store_first(to + v * LANES, change(sum, bias + v * LANES), min_of(LANES, part.count - v * LANES));
    }
}

static __attribute__((noinline)) void finish_line(const DirectForward& a, const Part& part, const float* bias,
                                                  const float* sums, int n, float* to) {
  const size_t step = a.out_channels;
  if (!a.transfer) return finish_with(part, bias, sums, n, step, to, [](vf sum, const float*) { return sum; });
  with_function(a.function, [&](auto chosen) {
    finish_with(part, bias, sums, n, step, to, [&](vf sum, const float* b) {
      return activate<decltype(chosen)::function>(sum + load(b), a.a, a.b);
    });
  });
}

static void transform_back(const Job& job, const Part& part, const float* bias, int first, int tiles, int z, int slices) {
  const DirectForward& a = job.a;
  const Tiles& t = job.t;
  const size_t width = part.width(), point_step = point_step_for((size_t)tiles * slices * width);
  float sums[MOST_OUTPUTS * MAX_VECTORS * LANES];
  for (int s = 0; s < slices; s++)
    for (int tile = 0; tile < tiles; tile++) {
      const Place place = place_of(t, first + tile);
      const float* from = job.products + ((size_t)s * tiles + tile) * width;
      with_square(t, [&](auto q) {
        for (size_t v = 0; v < width; v += LANES)
          output_square<q.ny, q.nx, q.my, q.mx>(from + v, point_step, sums + v, width);
      });
      const int lines = min_of(t.my, t.out.y - place.y), n = min_of(t.mx, t.out.x - place.x);
      const size_t line = ((size_t)place.entry * t.out.z + z + s) * t.out.y + place.y;
      for (int y = 0; y < lines; y++) {
        float* to = a.out + ((line + y) * t.out.x + place.x) * a.out_channels + part.first;
        finish_line(a, part, bias, sums + y * t.mx * width, n, to);
      }
    }
}

// ---- the whole

static Size output_of(const DirectForward& a) {
  return {a.size.z + a.pad.z + a.after.z - a.kernel.z + 1, a.size.y + a.pad.y + a.after.y - a.kernel.y + 1,
          a.size.x + a.pad.x + a.after.x - a.kernel.x + 1};
}

static Job job_of(const DirectForward& a) {
  bool even = true;
  size_t lanes = 0;
  for (int block = 0; block < a.n_blocks; block++) {
    even = even && a.blocks[block].channels % 2 == 0;
    lanes += lanes_for(a.blocks[block].channels);
  }
  return {a, tiles_of(output_of(a), a.kernel, a.batch, lanes, CHUNK_FLOATS), even, lanes, nullptr, nullptr, nullptr};
}

static size_t kernel_floats(const Job& job, const Part& part) {
  return (size_t)job.a.kernel.z * groups_of_blocks(job.a, part.fold) * part.width();
}

template <typename Body>
static void for_parts(const Job& job, Body body) {
  for (int first = 0; first < job.a.out_channels;) {
    const Part part = part_at(first, job.a.out_channels, job.may_fold);
    body(part);
    first += part.count;
  }
}

size_t winograd_forward_scratch(const DirectForward& a) {
  const Job job = job_of(a);
  size_t kernels = 0, packed = 0;
  for_parts(job, [&](const Part& part) {
    const size_t each = kernel_floats(job, part), all = each * a.kernel.y * a.kernel.x;
    kernels += job.t.points() * each + part.width();
    if (all > packed) packed = all;
  });
  const size_t chunk = job.t.points() * (point_step_for(job.t.rows_in() * job.lanes) + point_step_for(job.t.rows() * WIDEST));
  return kernels + (packed > chunk ? packed : chunk);
}

void winograd_forward(const DirectForward& a) {
  Job job = job_of(a);
  job.transformed = a.scratch;
  float* end = job.transformed;
  for_parts(job, [&](const Part& part) { end += job.t.points() * kernel_floats(job, part) + part.width(); });
  float* to = job.transformed;
  for_parts(job, [&](const Part& part) {
    fill_zero(to, part.width());  // the bias
    if (a.bias) copy(to, a.bias + part.first, part.count);
    pack(a, part, end);
    transform_kernels(job, part, end, to + part.width());
    to += job.t.points() * kernel_floats(job, part) + part.width();
  });
  job.chunk = end;
  job.products = end + job.t.points() * point_step_for(job.t.rows_in() * job.lanes);
  for (int first = 0; first < job.t.all; first += job.t.tiles)
    for (int z = 0; z < job.t.out.z; z += job.t.slices) {
      const int tiles = min_of(job.t.tiles, job.t.all - first), slices = min_of(job.t.slices, job.t.out.z - z);
      transform_images(job, first, tiles, z, slices + a.kernel.z - 1);
      const float* kernels = job.transformed;
      for_parts(job, [&](const Part& part) {
        multiply(job, part, kernels + part.width(), tiles, slices);
        transform_back(job, part, kernels, first, tiles, z, slices);
        kernels += job.t.points() * kernel_floats(job, part) + part.width();
      });
    }
}

}  // namespace znn::ZNN_ISA
