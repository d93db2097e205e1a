// Winograd kernel gradient: the sums over all tiles of products of transformed images and transformed output gradients,
// frequency by frequency, are transformed back once in the end. A chunk's images are transformed once for all parts.
#include "winograd.hpp"

namespace znn::ZNN_ISA {

constexpr int FEW = 4;  // groups of inputs, below which they are not folded
constexpr size_t CHUNK_FLOATS = 1 << 19;  // the sums are read and written once for each chunk
constexpr int CHUNKS_TOGETHER = 8;  // whose sums are added to the total: long sums in float would lose digits

struct Job {
  const DirectGradient& a;
  Tiles t;
  size_t lanes;     // of a row of the transformed image
  float* chunk;     // (point, slice, tile, lane)
  float* d_chunk;   // (point, slice, tile, width)
  Part part;
  int groups;       // of `fold` inputs
  float* sums;      // of the part: (point, tap along z, group, width)
};

// ---- products of one frequency

struct Product {
  size_t rows, lanes;  // floats from row to row of the image
  const float *image, *d_out;
  bool anew;  // nothing is in the sums yet
};

// The sums of P groups of inputs, next to each other.
template <int P, int V, int FOLD>
static void groups_product(const Product& p, float* to) {
  vf sum[P][V];
  for (int j = 0; j < P; j++)
    for (int v = 0; v < V; v++) sum[j][v] = p.anew ? (vf){} : load(to + (j * V + v) * LANES);
  const float *x = p.image, *d = p.d_out;
  for (size_t row = 0; row < p.rows; row++, x += p.lanes, d += V * LANES) {
    vf g[V];
    for (int v = 0; v < V; v++) g[v] = load(d + v * LANES);
#pragma GCC unroll 12
    for (int j = 0; j < P; j++) {
      const vf value = spread<FOLD>(x + j * FOLD);
      for (int v = 0; v < V; v++) sum[j][v] += value * g[v];
    }
  }
  for (int j = 0; j < P; j++)
    for (int v = 0; v < V; v++) store(to + (j * V + v) * LANES, sum[j][v]);
}

using Kernel = void (*)(const Product&, float*);

template <int V, int FOLD, int P = rows_for(V)>
static Kernel pick(int groups) {
  if constexpr (P > 1)
    if (groups < P) return pick<V, FOLD, P - 1>(groups);
  return groups_product<P, V, FOLD>;
}

static Kernel kernel_for(const Part& part, int groups) {
  if (part.fold == 2) return pick<1, 2>(groups);
  if (part.vectors == 1) return pick<1, 1>(groups);
  if (part.vectors == 2) return pick<2, 1>(groups);
  return pick<MAX_VECTORS, 1>(groups);
}

static void multiply(const Job& job, int tiles, int slices, bool anew) {
  const size_t width = job.part.width(), rows = (size_t)tiles * slices;
  const size_t rows_in = (size_t)tiles * (slices + job.a.kernel.z - 1);
  float* to = job.sums;
  for (size_t point = 0; point < job.t.points(); point++)
    for (int dz = 0; dz < job.a.kernel.z; dz++) {
      const float* image = job.chunk + point * point_step_for(rows_in * job.lanes) + dz * tiles * job.lanes;
      Product product = {rows, job.lanes, image, job.d_chunk + point * point_step_for(rows * width), anew};
      int left = job.groups;
      for (int piece = ceil_div(left, rows_for(job.part.vectors)); left > 0; piece--) {
        const int now = ceil_div(left, piece);
        kernel_for(job.part, now)(product, to);
        product.image += now * job.part.fold;
        to += now * width;
        left -= now;
      }
    }
}

// ---- transforms

// Each value of the first half in two neighbouring lanes.
ZNN_INLINE vf twice(vf v) {
#if defined(__AVX512F__)
  return __builtin_shufflevector(v, v, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
#elif defined(__AVX2__)
  return __builtin_shufflevector(v, v, 0, 0, 1, 1, 2, 2, 3, 3);
#else
  return __builtin_shufflevector(v, v, 0, 0, 1, 1);
#endif
}

static void transform_images(const Job& job, int first, int tiles, int z, int slices) {
  const DirectGradient& a = job.a;
  const size_t rows = (size_t)tiles * slices, point_step = point_step_for(rows * job.lanes);
  const size_t channels = a.in_channels, all = a.batch * a.size.voxels() * channels;
  const Source source = {a.image, a.image + all, a.size, channels, a.in_channels};
  const auto corner = [&](int tile, int s) -> Corner {
    const Place place = place_of(job.t, first + tile);
    const size_t slice = (size_t)place.entry * a.size.z + z + s;
    return {a.image + slice * a.size.y * a.size.x * channels, place.y, place.x};
  };
  Corner at = corner(0, 0);
  for (int tile = 0; tile < tiles; tile++)
    for (int s = 0; s < slices; s++) {
      const Corner next = s + 1 < slices ? corner(tile, s + 1) : corner(tile + 1, 0);
      float* to = job.chunk + ((size_t)s * tiles + tile) * job.lanes;
      with_square(job.t, [&](auto q) { transform_row<q.ny, q.nx>(source, at, next, to, point_step); });
      at = next;
    }
}

static void transform_gradients(const Job& job, int first, int tiles, int z, int slices) {
  const DirectGradient& a = job.a;
  const Size m = job.t.out;
  const size_t width = job.part.width(), point_step = point_step_for((size_t)tiles * slices * width);
  const float* end = a.d_out + (size_t)a.batch * m.voxels() * a.out_channels;
  const Source source = {a.d_out, end, m, (size_t)a.out_channels, job.part.first + job.part.count};
  const auto corner = [&](int tile, int s) -> Corner {
    const Place place = place_of(job.t, first + tile);
    const size_t slice = (size_t)place.entry * m.z + z + s;
    return {a.d_out + slice * m.y * m.x * a.out_channels, place.y, place.x};
  };
  Corner at = corner(0, 0);
  for (int tile = 0; tile < tiles; tile++)
    for (int s = 0; s < slices; s++) {
      const Corner next = s + 1 < slices ? corner(tile, s + 1) : corner(tile + 1, 0);
      float* to = job.d_chunk + ((size_t)s * tiles + tile) * width;
      with_square(job.t, [&](auto q) {
        for (size_t c = 0; c < width; c += LANES) {
          const int channel = job.part.first + (int)c;
          ask_for<q.my, q.mx>(source, next, channel);
          with_lanes<q.my, q.mx>(source, at.slice, at.y, at.x, channel, [&](const auto& get) ZNN_INLINE_HERE {
            if (job.part.fold == 2)
              tap_square<q.ny, q.nx, q.my, q.mx>([&](int y, int x) { return twice(get(y, x)); }, to + c, point_step);
            else
              tap_square<q.ny, q.nx, q.my, q.mx>(get, to + c, point_step);
          });
        }
      });
      at = next;
    }
}

// One line of sums for a tap: to the kernel gradient, from lanes that may be folded.
static void store_tap(const Job& job, size_t tap, int group, const float* from) {
  const Part& part = job.part;
  for (int f = 0; f < part.fold; f++) {
    float* to = job.a.d_kernel + (tap * job.a.in_channels + group * part.fold + f) * job.a.out_channels + part.first;
    if (part.fold == 1)
      copy(to, from, part.count);
    else
      for (int o = 0; o < part.count; o++) to[o] = from[o * part.fold + f];
  }
}

static void transform_back(const Job& job) {
  const Size k = job.a.kernel;
  const size_t width = job.part.width(), point_step = (size_t)k.z * job.groups * width;
  float taps[MOST_TAPS * MOST_TAPS * MAX_VECTORS * LANES];
  const float* from = job.sums;
  for (int dz = 0; dz < k.z; dz++)
    for (int group = 0; group < job.groups; group++, from += width) {
      with_square(job.t, [&](auto q) {
        for (size_t c = 0; c < width; c += LANES)
          output_square<q.ny, q.nx, q.k, q.k>(from + c, point_step, taps + c, width);
      });
      for (int j = 0; j < k.y * k.x; j++) store_tap(job, (size_t)dz * k.y * k.x + j, group, taps + j * width);
    }
}

// ---- the whole

static size_t n_sums(const Job& job) { return job.t.points() * job.a.kernel.z * job.groups * job.part.width(); }

// Calls body with the job of each part, whose sums are one after another; returns where they end.
template <typename Body>
static float* for_parts(Job job, float* sums, Body body) {
  const bool may_fold = job.a.in_channels % 2 == 0 && job.a.in_channels >= 2 * FEW;
  for (int first = 0; first < job.a.out_channels; first += job.part.count) {
    job.part = part_at(first, job.a.out_channels, may_fold);
    job.groups = job.a.in_channels / job.part.fold;
    job.sums = sums;
    body(job);
    sums += n_sums(job);
  }
  return sums;
}

static void add(float* total, const float* sums, size_t n) {
  for (size_t j = 0; j < n; j += LANES) store(total + j, load(total + j) + load(sums + j));
}

// The sums join the total, or become it, which needs no copy.
static void put_by(float*& sums, float*& total, size_t n, bool first) {
  if (!first) return add(total, sums, n);
  float* const free = total;
  total = sums;
  sums = free;
}

static Tiles division(const DirectGradient& a) {
  const Size m = {a.size.z - a.kernel.z + 1, a.size.y - a.kernel.y + 1, a.size.x - a.kernel.x + 1};
  return tiles_of(m, a.kernel, a.batch, lanes_for(a.in_channels) + WIDEST, CHUNK_FLOATS);
}

static size_t most_sums(const DirectGradient& a, const Tiles& t) {
  return t.points() * a.kernel.z * a.in_channels * lanes_for(a.out_channels);
}

size_t winograd_gradient_scratch(const DirectGradient& a) {
  const Tiles t = division(a);
  const size_t both = point_step_for(t.rows_in() * lanes_for(a.in_channels)) + point_step_for(t.rows() * WIDEST);
  return 2 * most_sums(a, t) + t.points() * both;
}

void winograd_gradient(const DirectGradient& a) {
  const Tiles t = division(a);
  float *sums = a.scratch, *total = sums + most_sums(a, t), *chunk = total + most_sums(a, t);
  const size_t lanes = lanes_for(a.in_channels);
  const Job job = {a, t, lanes, chunk, chunk + t.points() * point_step_for(t.rows_in() * lanes), {}, 0, nullptr};
  int chunks = 0;
  size_t n = 0;  // sums
  for (int tile = 0; tile < t.all; tile += t.tiles)
    for (int z = 0; z < t.out.z; z += t.slices, chunks++) {
      const int tiles = min_of(t.tiles, t.all - tile), slices = min_of(t.slices, t.out.z - z);
      const bool anew = chunks % CHUNKS_TOGETHER == 0;
      if (anew && chunks > 0) put_by(sums, total, n, chunks == CHUNKS_TOGETHER);
      transform_images(job, tile, tiles, z, slices + a.kernel.z - 1);
      const float* end = for_parts(job, sums, [&](const Job& part) {
        transform_gradients(part, tile, tiles, z, slices);
        multiply(part, tiles, slices, anew);
      });
      n = end - sums;
    }
  if (chunks > CHUNKS_TOGETHER) add(sums, total, n);
  for_parts(job, sums, transform_back);
}

}  // namespace znn::ZNN_ISA
