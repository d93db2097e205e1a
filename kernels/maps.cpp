// What looks at several maps at a voxel: softmax over the channels of a node, and the largest of several images.
#include "activation.hpp"
#include "filter.hpp"
#include "simd.hpp"
#include "table.hpp"
#include "width.hpp"

namespace znn::ZNN_ISA {

// ---- softmax: some voxels at once, turned so that a vector holds one channel of several voxels

constexpr int VOXELS = 2 * LANES;

static void turn(const float* rows, int channels, int voxels, float* columns) {
  with_width(channels, [=](auto width) {
    for (int j = 0; j < voxels; j++)
      for (size_t c = 0; c < width; c++) columns[c * VOXELS + j] = rows[j * width + c];
  });
}
static void turn_back(const float* columns, int channels, int voxels, float* rows) {
  with_width(channels, [=](auto width) {
    for (int j = 0; j < voxels; j++)
      for (size_t c = 0; c < width; c++) rows[j * width + c] = columns[c * VOXELS + j];
  });
}

// Brings `voxels` voxels of all blocks from `first` on into columns, and back.
static void gather(const Softmax& s, const float* const* blocks, size_t first, int voxels, float* columns) {
  for (int b = 0; b < s.n_blocks; columns += VOXELS * s.channels[b++])
    turn(blocks[b] + first * s.channels[b], s.channels[b], voxels, columns);
}
static void scatter(const Softmax& s, const float* columns, size_t first, int voxels, float* const* blocks) {
  for (int b = 0; b < s.n_blocks; columns += VOXELS * s.channels[b++])
    turn_back(columns, s.channels[b], voxels, blocks[b] + first * s.channels[b]);
}

size_t softmax_scratch(const Softmax& s) { return 2 * VOXELS * (size_t)s.all_channels; }

void softmax_forward(const Softmax& s, const float* const* images, float* const* out, float* scratch) {
  fill_zero(scratch, VOXELS * (size_t)s.all_channels);
  float* const end = scratch + VOXELS * s.all_channels;
  for (size_t first = 0; first < s.voxels; first += VOXELS) {
    const int voxels = s.voxels - first < (size_t)VOXELS ? (int)(s.voxels - first) : VOXELS;
    gather(s, images, first, voxels, scratch);
    for (int j = 0; j < VOXELS; j += LANES) {
      vf highest = load(scratch + j), total = {};
      for (float* p = scratch + j; p < end; p += VOXELS) {
        const vf v = load(p);
        highest = (v > highest) | (v != v) ? v : highest;
      }
      for (float* p = scratch + j; p < end; p += VOXELS) {
        const vf e = exp_negative(load(p) - highest);
        total += e;
        store(p, e);
      }
      const vf reciprocal = 1.0f / total;
      for (float* p = scratch + j; p < end; p += VOXELS) store(p, load(p) * reciprocal);
    }
    scatter(s, scratch, first, voxels, out);
  }
}

void softmax_backward(const Softmax& s, const float* const* d_out, const float* const* out, float* const* d_images,
                      float* scratch) {
  float *const end = scratch + VOXELS * s.all_channels, *const outputs = end;
  fill_zero(scratch, 2 * VOXELS * (size_t)s.all_channels);
  for (size_t first = 0; first < s.voxels; first += VOXELS) {
    const int voxels = s.voxels - first < (size_t)VOXELS ? (int)(s.voxels - first) : VOXELS;
    gather(s, d_out, first, voxels, scratch);
    gather(s, out, first, voxels, outputs);
    for (int j = 0; j < VOXELS; j += LANES) {
      vf inner = {};
      for (float *p = scratch + j, *y = outputs + j; p < end; p += VOXELS, y += VOXELS) inner += load(p) * load(y);
      for (float *p = scratch + j, *y = outputs + j; p < end; p += VOXELS, y += VOXELS)
        store(p, (load(p) - inner) * load(y));
    }
    scatter(s, scratch, first, voxels, d_images);
  }
}

// ---- the largest of several images

void largest(size_t n, const float* const* images, int n_images, float* out, uint8_t* argmax) {
  for (size_t q = 0; q < n; q += LANES) {
    const int left = n - q < (size_t)LANES ? (int)(n - q) : LANES;
    vf best = load_first(images[0] + q, left);
    vi where = {};
    for (int k = 1; k < n_images; k++) {
      const vf v = load_first(images[k] + q, left);
      const vi take = (v > best) | ((v != v) & (best == best));  // the first that is not a number stays
      best = take ? v : best;
      where = take ? (vi){} + k : where;
    }
    store_first(out + q, best, left);
    store_index(argmax + q, where, left);
  }
}

void largest_backward(size_t n, const float* d_out, const uint8_t* argmax, int n_images, float* const* d_images) {
  for (size_t q = 0; q < n; q += LANES) {
    const int left = n - q < (size_t)LANES ? (int)(n - q) : LANES;
    const vf d = load_first(d_out + q, left);
    const vi where = load_index(argmax + q, left);
    for (int k = 0; k < n_images; k++) store_first(d_images[k] + q, where == (vi){} + k ? d : (vf){}, left);
  }
}

}  // namespace znn::ZNN_ISA
