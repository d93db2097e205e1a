// Losses and their gradients, straight from the blocks a node is kept in. Arithmetic and sums in double precision, one
// vector after the other, always in the same order. Exponential and logarithm are our own fits, within 1e-11.
#include "simd.hpp"
#include "table.hpp"

namespace znn::ZNN_ISA {

constexpr int DOUBLES = LANES / 2;
typedef double vd __attribute__((vector_size(LANES * 4)));
typedef uint64_t vl __attribute__((vector_size(LANES * 4)));
typedef float vh __attribute__((vector_size(LANES * 2)));

ZNN_INLINE vd all(double value) { return (vd){} + value; }
ZNN_INLINE vd load_doubles(const float* p) {
  vh half;
  __builtin_memcpy(&half, p, sizeof(half));
  return __builtin_convertvector(half, vd);
}
ZNN_INLINE void store_doubles(float* p, vd v) {
  const vh half = __builtin_convertvector(v, vh);
  __builtin_memcpy(p, &half, sizeof(half));
}
ZNN_INLINE double sum_of(vd v) {
  double sum = 0.0;
  for (int j = 0; j < DOUBLES; j++) sum += v[j];
  return sum;
}

// exp(v) for v <= 0: v = n ln 2 + r, |r| <= 0.35.
ZNN_INLINE vd exp_negative(vd v) {
  v = v < -708.0 ? all(-708.0) : v;
  const vd shifted = v * 1.4426950408889634 + 6755399441055744.0;  // 1.5 * 2^52: the sum is rounded to an integer
  const vd n = shifted - 6755399441055744.0;
  const vd r = v - n * 0.6931471805599453;
  vd q = 2.4887770721946595e-05 * r + 1.990936933616175e-04;
  q = q * r + 1.3888796080154457e-03;
  q = q * r + 8.333281078326697e-03;
  q = q * r + 4.1666667056357035e-02;
  q = q * r + 1.6666666787295087e-01;
  q = q * r + 4.9999999999515954e-01;
  return (q * (r * r) + r + 1.0) * (vd)(((vl)shifted + 1023) << 52);
}
// log((1 + s) / (1 - s)) for s from 0 to 1/3.
ZNN_INLINE vd log_ratio(vd s) {
  const vd z = s * s;
  vd q = 1.0896198064210748e-01 * z + 8.573924922458737e-02;
  q = q * z + 1.1150750165959779e-01;
  q = q * z + 1.4284198039487692e-01;
  q = q * z + 2.0000026500349102e-01;
  q = q * z + 3.333333317956288e-01;
  return 2.0 * (s + s * (z * q));
}
// log(v) for v >= 1.
ZNN_INLINE vd log_of(vd v) {
  const vl bits = (vl)v;
  const vd mantissa = (vd)((bits & 0x000fffffffffffffu) | 0x3ff0000000000000u);
  const vd exponent = (vd)((bits >> 52) | 0x4330000000000000u) - (4503599627370496.0 + 1023.0);  // 2^52 + bits - 2^52
  const vd log = exponent * 0.6931471805599453 + log_ratio((mantissa - 1.0) / (mantissa + 1.0));
  return v != v ? v : log;
}

// Some values of a block, in its order, beside their targets. What was added by rounding up is all zero.
struct Values {
  static constexpr int MOST = 512;
  int n = 0;
  bool any_outside = false;
  float prediction[MOST], target[MOST], weight[MOST];
  bool outside[MOST];

  Values() {
    for (int j = 0; j < MOST; j++) weight[j] = 1.0f;  // unless there are others
  }
};

static double square(const Values& v, double scale, float* d_prediction) {
  vd sum = {};
  for (int j = 0; j < v.n; j += DOUBLES) {
    const vd difference = load_doubles(v.prediction + j) - load_doubles(v.target + j);
    const vd weighted = load_doubles(v.weight + j) * difference;
    sum += weighted * difference;
    store_doubles(d_prediction + j, weighted * (2.0 * scale));
  }
  return sum_of(sum);
}

// As square, but what differs by no more than the margin costs nothing.
static double square_square(const Values& v, double scale, double margin, float* d_prediction) {
  vd sum = {};
  for (int j = 0; j < v.n; j += DOUBLES) {
    const vd difference = load_doubles(v.prediction + j) - load_doubles(v.target + j);
    const vd counted = difference < 0.0 ? (difference < -margin ? difference : (vd){}) : (difference <= margin ? (vd){} : difference);
    const vd weighted = load_doubles(v.weight + j) * counted;
    sum += weighted * counted;
    store_doubles(d_prediction + j, weighted * (2.0 * scale));
  }
  return sum_of(sum);
}

// log(1 + exp(p)) - t p and 1 / (1 + exp(-p)) - t, written so that nothing overflows.
static double logistic(const Values& v, double scale, float* d_prediction) {
  vd sum = {};
  for (int j = 0; j < v.n; j += DOUBLES) {
    const vd p = load_doubles(v.prediction + j), t = load_doubles(v.target + j), w = load_doubles(v.weight + j);
    const vd decay = exp_negative(p > 0.0 ? -p : p);
    const vd log1p = log_ratio(decay / (decay + 2.0));
    sum += w * ((p < 0.0 ? (vd){} : p) + log1p - t * p);
    store_doubles(d_prediction + j, w * scale * ((p >= 0.0 ? all(1.0) : decay) / (decay + 1.0) - t));
  }
  return sum_of(sum);
}

static double of_kind(const Loss& a, const Values& v, float* d_prediction) {
  if (a.kind == SQUARE) return square(v, a.scale, d_prediction);
  if (a.kind == SQUARE_SQUARE) return square_square(v, a.scale, a.margin, d_prediction);
  return logistic(v, a.scale, d_prediction);
}

static double evaluate(const Loss& a, Values& v, const float* prediction, float* d_prediction) {
  float d[Values::MOST];
  copy(v.prediction, prediction, v.n);
  for (int j = 0; v.any_outside && j < v.n; j++)
    if (v.outside[j]) v.prediction[j] = v.target[j] = v.weight[j] = 0.0f;
  const int whole = ceil_div(v.n, DOUBLES) * DOUBLES;
  for (int j = v.n; j < whole; j++) v.prediction[j] = v.target[j] = v.weight[j] = 0.0f;
  const double sum = of_kind(a, v, d);
  copy(d_prediction, d, v.n);
  for (int j = 0; j < whole && (v.any_outside || v.n < whole); j++) v.weight[j] = 1.0f;
  v.n = 0;
  v.any_outside = false;
  return sum;
}

// The voxels of the blocks in their order, with the place of their targets in an example.
struct Cursor {
  const Loss& a;
  int entry = 0, z = 0, y = 0, x = 0;

  bool done() const { return entry == a.batch; }
  const int* of_entry() const { return a.entries + 4 * entry; }  // example, z, y, x
  // -1 for what was added by rounding up.
  ptrdiff_t voxel() const {
    const int* e = of_entry();
    const int at_z = z * a.sparsity.z + e[1], at_y = y * a.sparsity.y + e[2], at_x = x * a.sparsity.x + e[3];
    if (at_z >= a.target_size.z || at_y >= a.target_size.y || at_x >= a.target_size.x) return -1;
    return ((ptrdiff_t)at_z * a.target_size.y + at_y) * a.target_size.x + at_x;
  }
  // The weight of a voxel and channel; the next channel's is weight_step() further on.
  const float* weight(ptrdiff_t voxel, int channel) const {
    const size_t at = (size_t)of_entry()[0] * a.weight_channels + (a.weight_channels > 1 ? channel : 0);
    return a.weight + at * a.target_size.voxels() + voxel;
  }
  size_t weight_step() const { return a.weight_channels > 1 ? a.target_size.voxels() : 0; }
  void next() {
    if (++x < a.size.x) return;
    x = 0;
    if (++y < a.size.y) return;
    y = 0;
    if (++z < a.size.z) return;
    z = 0;
    entry++;
  }
};

// Takes in the targets of `count` channels of a voxel, from `channel` of the node on.
static void gather(const Cursor& at, int channel, int count, Values& v) {
  const ptrdiff_t voxel = at.voxel();
  const size_t voxels = at.a.target_size.voxels(), first = v.n;
  v.n += count;
  for (int c = 0; c < count; c++) v.outside[first + c] = voxel < 0;
  if (voxel < 0) {
    v.any_outside = true;
    return;
  }
  const float* target = at.a.target + ((size_t)at.of_entry()[0] * at.a.channels + channel) * voxels + voxel;
  for (int c = 0; c < count; c++) v.target[first + c] = target[c * voxels];
  if (at.a.weight == nullptr) return;
  const float* weight = at.weight(voxel, channel);
  const size_t step = at.weight_step();
  for (int c = 0; c < count; c++) v.weight[first + c] = weight[c * step];
}

static double value_by_value(const Loss& a) {
  double sum = 0.0;
  Values v;
  for (int b = 0, first = 0; b < a.n_blocks; first += a.blocks[b++].channels) {
    const int channels = a.blocks[b].channels;
    const float* prediction = a.blocks[b].data;
    float* d_prediction = a.d_blocks[b];
    const auto flush = [&] {
      const int n = v.n;
      sum += evaluate(a, v, prediction, d_prediction);
      prediction += n;
      d_prediction += n;
    };
    for (Cursor at = {a}; !at.done(); at.next())
      for (int c = 0, count; c < channels; c += count) {
        count = min_of(channels - c, Values::MOST);
        if (v.n + count > Values::MOST) flush();
        gather(at, first + c, count, v);
      }
    flush();
  }
  return sum;
}

// Some voxels side by side: their channels' exponentials in `exponentials`, one vector per channel.
static double softmax_of(const Loss& a, int n, size_t first, const ptrdiff_t* target, const float* weights, vd* exponentials) {
  vd highest = all(-__builtin_inf()), total = {};
  vd* e = exponentials;
  for (int b = 0; b < a.n_blocks; b++)
    for (int c = 0; c < a.blocks[b].channels; c++, e++) {
      vd p = {};
      for (int j = 0; j < n; j++) p[j] = a.blocks[b].data[(first + j) * a.blocks[b].channels + c];
      highest = p > highest ? p : highest;
      highest = p != p ? p : highest;
      *e = p;
    }
  vd of_class = {}, w = {}, classes = all(-1.0);
  for (int j = 0; j < n; j++)
    if (target[j] >= 0) {
      classes[j] = a.classes[target[j]];
      w[j] = weights[j];
      of_class[j] = exponentials[a.classes[target[j]]][j] - highest[j];
    }
  for (e = exponentials; e < exponentials + a.channels; e++) total += *e = exp_negative(*e - highest);
  const vd loss = classes < 0.0 ? (vd){} : w * (log_of(total) - of_class);
  e = exponentials;
  double channel = 0.0;
  for (int b = 0; b < a.n_blocks; b++)
    for (int c = 0; c < a.blocks[b].channels; c++, e++, channel += 1.0) {
      const vd d = w * a.scale * (*e / total - (classes == channel ? all(1.0) : (vd){}));
      const vd counted = classes < 0.0 ? (vd){} : d;
      for (int j = 0; j < n; j++) a.d_blocks[b][(first + j) * a.blocks[b].channels + c] = (float)counted[j];
    }
  return sum_of(loss);
}

static double softmax(const Loss& a, float* scratch) {
  double sum = 0.0;
  ptrdiff_t targets[DOUBLES];
  float weights[DOUBLES];
  size_t first = 0;
  int n = 0;
  for (Cursor at = {a}; !at.done(); at.next()) {
    const ptrdiff_t voxel = at.voxel();
    targets[n] = voxel < 0 ? -1 : (ptrdiff_t)(at.of_entry()[0] * a.target_size.voxels()) + voxel;
    weights[n] = voxel < 0 || a.weight == nullptr ? 1.0f : *at.weight(voxel, 0);
    if (++n < DOUBLES) continue;
    sum += softmax_of(a, n, first, targets, weights, (vd*)scratch);
    first += n;
    n = 0;
  }
  if (n > 0) sum += softmax_of(a, n, first, targets, weights, (vd*)scratch);
  return sum;
}

size_t loss_scratch(const Loss& a) { return a.kind == SOFTMAX ? (size_t)a.channels * LANES : 0; }

double loss(const Loss& a, float* scratch) { return a.kind == SOFTMAX ? softmax(a, scratch) : value_by_value(a); }

}  // namespace znn::ZNN_ISA
