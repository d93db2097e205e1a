// Spectral convolution. The kernel is transformed on the fly, one frequency row at a time (a pruned DFT: k
// multiply-adds per entry and axis), multiplied with all input channels in registers, and forgotten. The gradient
// is the mirror image: outer products over the batch, contracted at once to the taps.
#include "simd.hpp"
#include "table.hpp"

namespace znn::ZNN_ISA {

static size_t padded(int channels) { return (size_t)ceil_div(channels, LANES) * LANES; }
static int half(int n) { return n / 2 + 1; }
static size_t n_frequencies(Size transform) { return (size_t)transform.z * transform.y * half(transform.x); }

// out = sum_j factor[j] * in_j over complex planes of m entries; factor is (k, 2), sign flips its imaginary part.
template <bool Real>
static void combine(int k, const float* factor, float sign, const float* re, const float* im, size_t stride, float* out_re,
                    float* out_im, size_t m) {
  for (size_t q = 0; q < m; q += LANES) {
    vf r = {}, i = {};
    for (int j = 0; j < k; j++) {
      const float c = factor[2 * j], s = sign * factor[2 * j + 1];
      const vf a = load(re + j * stride + q);
      r += c * a;
      i += s * a;
      if constexpr (!Real) {
        const vf b = load(im + j * stride + q);
        r -= s * b;
        i += c * b;
      }
    }
    store(out_re + q, r);
    store(out_im + q, i);
  }
}

constexpr int MAX_VECTORS = REGISTERS == 32 ? 3 : 2;
constexpr int batch_for(int vectors) {
  return REGISTERS == 32 ? (vectors == 3 ? 4 : vectors == 2 ? 6 : 8) : (vectors == 2 ? 2 : 4);
}

// The product at one frequency: out[b, o] = sum over blocks and i of x[b, i] * w[i, o], all complex.
struct Frequency {
  const SpectralProduct* a;
  size_t index;          // of the frequency
  const float *re, *im;  // kernel spectrum, (all in, padded out)
  size_t width;          // padded out channels
};

template <int B, int V>
static void multiply(const Frequency& f, int first_batch, int o) {
  const SpectralProduct& a = *f.a;
  vf re[B][V], im[B][V];
  for (int b = 0; b < B; b++)
    for (int v = 0; v < V; v++) re[b][v] = im[b][v] = (vf){};
  const float *wr = f.re + o, *wi = f.im + o;
  for (int block = 0; block < a.n_blocks; block++) {
    const size_t channels = a.blocks[block].channels, step = n_frequencies(a.transform) * 2 * channels;  // to the next entry
    const float *xr = a.blocks[block].data + first_batch * step + f.index * 2 * channels, *xi = xr + channels;
    for (size_t i = 0; i < channels; i++, wr += f.width, wi += f.width) {
      vf r[V], m[V];
      for (int v = 0; v < V; v++) r[v] = load(wr + v * LANES), m[v] = load(wi + v * LANES);
#pragma GCC unroll 8
      for (int b = 0; b < B; b++) {
        const float c = xr[b * step + i], s = xi[b * step + i];
        for (int v = 0; v < V; v++) {
          re[b][v] += c * r[v];
          im[b][v] += c * m[v];
          re[b][v] -= s * m[v];
          im[b][v] += s * r[v];
        }
      }
    }
  }
  const size_t step = n_frequencies(a.transform) * 2 * a.out_channels;
  float* y = a.out + first_batch * step + f.index * 2 * a.out_channels + o;
  for (int b = 0; b < B; b++, y += step)
    for (int v = 0; v < V; v++) {
      const int lanes = min_of(LANES, a.out_channels - o - v * LANES);
      store_first(y + v * LANES, re[b][v], lanes);
      store_first(y + a.out_channels + v * LANES, im[b][v], lanes);
    }
}

template <int V>
static void multiply_batch(const Frequency& f, int o) {
  constexpr int B = batch_for(V);
  int b = 0;
  for (; b + B <= f.a->batch; b += B) multiply<B, V>(f, b, o);
  for (; b + 2 <= f.a->batch; b += 2) multiply<2, V>(f, b, o);
  for (; b < f.a->batch; b++) multiply<1, V>(f, b, o);
}

static void multiply_all(const Frequency& f) {
  for (int o = 0; o < (int)f.width;) {
    const int left = ((int)f.width - o) / LANES;
    const int vectors = left == 4 && MAX_VECTORS == 3 ? 2 : min_of(left, MAX_VECTORS);
    if (vectors == 1) multiply_batch<1>(f, o);
    if (vectors == 2) multiply_batch<2>(f, o);
    if constexpr (MAX_VECTORS == 3)
      if (vectors == 3) multiply_batch<3>(f, o);
    o += vectors * LANES;
  }
}

static size_t total_channels(const SpectralProduct& a) {
  size_t n = 0;
  for (int block = 0; block < a.n_blocks; block++) n += a.blocks[block].channels;
  return n;
}

size_t spectral_product_scratch(const SpectralProduct& a) {
  const size_t m = total_channels(a) * padded(a.out_channels);
  if (a.stored) return 2 * m;
  return m * (a.kernel.voxels() + 2 * ((size_t)a.kernel.y * a.kernel.x + a.kernel.x + 1));
}

// Brings one tap (or one frequency plane) of every block together as (all in, padded out), transposed if need be.
static void pack(const SpectralProduct& a, size_t offset, float* to) {
  const size_t width = padded(a.out_channels), out = a.out_channels;
  for (int block = 0; block < a.n_blocks; block++) {
    const size_t channels = a.blocks[block].channels;
    const float* from = a.blocks[block].kernel + offset * channels * out;
    for (size_t i = 0; i < channels; i++, to += width) {
      if (a.transpose)
        for (size_t o = 0; o < out; o++) to[o] = from[o * channels + i];
      else
        copy(to, from + i * out, out);
      fill_zero(to + out, width - out);
    }
  }
}

static void product_stored(const SpectralProduct& a) {
  const size_t m = total_channels(a) * padded(a.out_channels);
  const size_t n = n_frequencies(a.transform);
  float *re = a.scratch, *im = re + m;
  for (size_t f = 0; f < n; f++) {
    pack(a, 2 * f, re);
    pack(a, 2 * f + 1, im);
    if (a.conjugate)
      for (size_t q = 0; q < m; q++) im[q] = -im[q];
    multiply_all({&a, f, re, im, padded(a.out_channels)});
  }
}

void spectral_product(const SpectralProduct& a) {
  if (a.stored) return product_stored(a);
  const size_t m = total_channels(a) * padded(a.out_channels);
  const size_t plane = (size_t)a.kernel.y * a.kernel.x * m, line = (size_t)a.kernel.x * m;
  float *taps = a.scratch, *z_re = taps + a.kernel.z * plane, *z_im = z_re + plane;
  float *y_re = z_im + plane, *y_im = y_re + line, *re = y_im + line, *im = re + m;
  for (size_t t = 0; t < a.kernel.voxels(); t++) pack(a, t, taps + t * m);
  const float sign = a.conjugate ? 1.0f : -1.0f;
  const Twiddles& e = a.twiddles;
  size_t index = 0;
  for (int fz = 0; fz < a.transform.z; fz++) {
    combine<true>(a.kernel.z, e.z + (size_t)fz * a.kernel.z * 2, sign, taps, nullptr, plane, z_re, z_im, plane);
    for (int fy = 0; fy < a.transform.y; fy++) {
      combine<false>(a.kernel.y, e.y + (size_t)fy * a.kernel.y * 2, sign, z_re, z_im, line, y_re, y_im, line);
      for (int fx = 0; fx < half(a.transform.x); fx++, index++) {
        combine<false>(a.kernel.x, e.x + (size_t)fx * a.kernel.x * 2, sign, y_re, y_im, m, re, im, m);
        multiply_all({&a, index, re, im, padded(a.out_channels)});
      }
    }
  }
}

// ---- kernel gradient: taps d of the inverse transform of sum_b X[b, i] * conj(D[b, o])

constexpr int ROWS = REGISTERS == 32 ? 4 : 2;

template <int R, int V>
ZNN_INLINE void outer(const float* xr, const float* xi, size_t step, const float* dr, const float* di, size_t d_step,
                      size_t width, int batch, float* gr, float* gi) {
  vf re[R][V], im[R][V];
  for (int i = 0; i < R; i++)
    for (int v = 0; v < V; v++) re[i][v] = im[i][v] = (vf){};
  for (int b = 0; b < batch; b++, xr += step, xi += step, dr += d_step, di += d_step) {
    vf r[V], m[V];
    for (int v = 0; v < V; v++) r[v] = load(dr + v * LANES), m[v] = load(di + v * LANES);
#pragma GCC unroll 8
    for (int i = 0; i < R; i++) {
      const float c = xr[i], s = xi[i];
      for (int v = 0; v < V; v++) {
        re[i][v] += c * r[v];
        im[i][v] += s * r[v];
        re[i][v] += s * m[v];
        im[i][v] -= c * m[v];
      }
    }
  }
  for (int i = 0; i < R; i++)
    for (int v = 0; v < V; v++) {
      store(gr + i * width + v * LANES, re[i][v]);
      store(gi + i * width + v * LANES, im[i][v]);
    }
}

template <int V>
static void outer_rows(const SpectralGradient& a, const float* xr, const float* dr, const float* di, size_t d_step, size_t width,
                       size_t o, float* gr, float* gi) {
  const size_t in = a.in_channels, step = n_frequencies(a.transform) * 2 * in;
  const float* xi = xr + in;
  size_t i = 0;
  for (; i + ROWS <= in; i += ROWS)
    outer<ROWS, V>(xr + i, xi + i, step, dr + o, di + o, d_step, width, a.batch, gr + i * width + o, gi + i * width + o);
  for (; i < in; i++)
    outer<1, V>(xr + i, xi + i, step, dr + o, di + o, d_step, width, a.batch, gr + i * width + o, gi + i * width + o);
}

// G[i, o] at one frequency; `rows` holds this frequency's output gradients with padded channels.
static void outer_all(const SpectralGradient& a, size_t f, float* rows, float* gr, float* gi) {
  const size_t width = padded(a.out_channels), out = a.out_channels;
  const float* x = a.image + f * 2 * a.in_channels;
  const float *dr = a.d_out + f * 2 * out, *di = dr + out;
  size_t d_step = n_frequencies(a.transform) * 2 * out;  // to the next entry
  if (width != out) {
    for (size_t b = 0; b < (size_t)a.batch; b++) {
      copy(rows + 2 * b * width, dr + b * d_step, out);
      copy(rows + (2 * b + 1) * width, di + b * d_step, out);
    }
    dr = rows;
    di = rows + width;
    d_step = 2 * width;
  }
  size_t o = 0;
  for (; o + 3 * LANES <= width && REGISTERS == 32; o += 3 * LANES)
    outer_rows<REGISTERS == 32 ? 3 : 2>(a, x, dr, di, d_step, width, o, gr, gi);
  for (; o + 2 * LANES <= width; o += 2 * LANES) outer_rows<2>(a, x, dr, di, d_step, width, o, gr, gi);
  for (; o < width; o += LANES) outer_rows<1>(a, x, dr, di, d_step, width, o, gr, gi);
}

// sum_j += weight * factor[j] * g over complex planes of m entries.
static void spread(int k, const float* factor, float weight, const float* g_re, const float* g_im, float* re, float* im,
                   size_t stride, size_t m) {
  for (int j = 0; j < k; j++) {
    const float c = weight * factor[2 * j], s = weight * factor[2 * j + 1];
    float *r = re + j * stride, *i = im + j * stride;
    for (size_t q = 0; q < m; q += LANES) {
      const vf a = load(g_re + q), b = load(g_im + q);
      store(r + q, load(r + q) + c * a - s * b);
      store(i + q, load(i + q) + s * a + c * b);
    }
  }
}

size_t spectral_gradient_scratch(const SpectralGradient& a) {
  const size_t width = padded(a.out_channels), m = a.in_channels * width;
  const size_t sums = a.stored ? 0 : m * (a.kernel.voxels() + 2 * ((size_t)a.kernel.y * a.kernel.x + a.kernel.x));
  return sums + 2 * m + 2 * a.batch * width;
}

static void gradient_stored(const SpectralGradient& a) {
  const size_t width = padded(a.out_channels), out = a.out_channels, in = a.in_channels, m = in * width;
  const size_t n = n_frequencies(a.transform);
  float *re = a.scratch, *im = re + m, *rows = im + m;
  fill_zero(rows, 2 * a.batch * width);
  for (size_t f = 0; f < n; f++) {
    outer_all(a, f, rows, re, im);
    for (size_t i = 0; i < 2 * in; i++) copy(a.d_kernel + (f * 2 * in + i) * out, re + i * width, out);
  }
}

void spectral_gradient(const SpectralGradient& a) {
  if (a.stored) return gradient_stored(a);
  const size_t width = padded(a.out_channels), m = a.in_channels * width;
  const size_t line = a.kernel.x * m, plane = a.kernel.y * line;
  float *taps = a.scratch, *z_re = taps + a.kernel.z * plane, *z_im = z_re + plane;
  float *y_re = z_im + plane, *y_im = y_re + line, *re = y_im + line, *im = re + m, *rows = im + m;
  const float scale = 1.0f / a.transform.voxels();
  const Twiddles& e = a.twiddles;
  size_t index = 0;
  fill_zero(taps, a.kernel.z * plane);
  fill_zero(rows, 2 * a.batch * width);
  for (int fz = 0; fz < a.transform.z; fz++) {
    fill_zero(z_re, 2 * plane);
    for (int fy = 0; fy < a.transform.y; fy++) {
      fill_zero(y_re, 2 * line);
      for (int fx = 0; fx < half(a.transform.x); fx++, index++) {
        outer_all(a, index, rows, re, im);
        // A frequency off the edges of the half spectrum stands for itself and its conjugate.
        const float twice = fx == 0 || 2 * fx == a.transform.x ? 1.0f : 2.0f;
        spread(a.kernel.x, e.x + (size_t)fx * a.kernel.x * 2, scale * twice, re, im, y_re, y_im, m, m);
      }
      spread(a.kernel.y, e.y + (size_t)fy * a.kernel.y * 2, 1.0f, y_re, y_im, z_re, z_im, line, line);
    }
    for (int j = 0; j < a.kernel.z; j++) {
      const float c = e.z[((size_t)fz * a.kernel.z + j) * 2], s = e.z[((size_t)fz * a.kernel.z + j) * 2 + 1];
      float* t = taps + j * plane;
      for (size_t q = 0; q < plane; q += LANES) store(t + q, load(t + q) + c * load(z_re + q) - s * load(z_im + q));
    }
  }
  for (size_t t = 0; t < a.kernel.voxels() * a.in_channels; t++)
    copy(a.d_kernel + t * a.out_channels, taps + t * width, a.out_channels);
}

}  // namespace znn::ZNN_ISA
