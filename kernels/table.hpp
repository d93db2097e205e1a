// What every instruction set provides, as plain functions behind one table. No Python, no allocation, no threads.
// Arrays are C-contiguous float32. Image: (batch, z, y, x, channel). Spectrum: (fz, fy, batch, fx, 2, channel), the
// 2 being real and imaginary, fx halved. Kernel: (kz, ky, kx, in, out). Sizes are (z, y, x).
#pragma once
#include <cstddef>
#include <cstdint>

namespace znn {

struct Size {
  int z, y, x;
  size_t voxels() const { return (size_t)z * y * x; }
};

// One block of input channels: an image or spectrum, its channels, and the kernel block that belongs to it.
struct Block {
  const float* data;
  const float* kernel;
  int channels;
};

enum Function { LINEAR, RELU, TANH, LOGISTIC, SOFTSIGN, ELU, LEAKY_RELU, FORWARD_LOGISTIC, SOFTPLUS };

struct DirectForward {
  Size size;    // of the input image
  Size kernel;  // taps
  Size pad;     // zeros thought before the image
  Size after;   // and after it
  bool turned;  // kernels are (.., out, in) of this product, turned around: the input gradient
  int batch, n_blocks, out_channels;
  const Block* blocks;
  bool transfer;      // store the function of sum and bias instead of the sum
  const float* bias;  // null: zeros
  Function function;
  float a, b;
  float* out;
  float* scratch;
};

struct DirectGradient {
  Size size;
  Size kernel;
  int batch, in_channels, out_channels;
  const float* image;
  const float* d_out;
  float* d_kernel;
  float* scratch;
};

// Tables of a pruned transform, one per axis of n frequencies and k taps, of shape (n / 2 + 1, k + 2). In the row of
// frequency f, with angle = 2 pi f / n and taps counted from their centre (k - 1) / 2: cos(angle * tap) of the taps
// up to the centre, sin(angle * tap) of those after it, then cos and sin of angle * centre, the phase.
struct Twiddles {
  const float *z, *y, *x;
};

struct SpectralProduct {
  Size transform;  // real size of the transform
  Size kernel;
  int batch, n_blocks, out_channels;
  const Block* blocks;
  Twiddles twiddles;
  bool stored;     // kernels are spectra (fz, fy, fx, 2, in, out) instead of taps
  bool conjugate;  // multiply by the conjugate of the kernel's spectrum: correlation (forward)
  bool transpose;  // kernels are (.., out, in) of this product: the input gradient
  float* out;
  float* scratch;
};

struct SpectralGradient {
  Size transform;
  Size kernel;
  int batch, in_channels, out_channels;
  const float* image;
  const float* d_out;
  Twiddles twiddles;
  bool stored;      // give the gradient's spectrum (fz, fy, fx, 2, in, out) instead of its taps
  int share, n_shares;  // only the frequencies of this share, along the first axis that has several; shares add up
  float* d_kernel;  // taps (kz, ky, kx, in, out)
  float* scratch;
};

// A window of an image with `lanes` values per voxel, moved to or from a tile of `tile_lanes` values per voxel.
struct TileCopy {
  Size image_size, tile_size;
  Size filled;    // the part of the tile that gather_tile fills, from its first corner
  int origin[3];  // of the tile in the image; may be negative or reach past the end
  size_t image_lanes, first_lane, lanes, tile_lanes;
};

// One axis of a transform of parts * points: its twiddles exp(-2 pi i p k / n), shape (parts, points, 2).
struct Axis {
  int parts, points;
  const float* twiddles;
};

// All tiles of the images of a batch, (entry, z, y, x, channel), to or from their spectra,
// (fz, fy, tile * entries + entry, fx, 2, channel).
struct TileTransform {
  Axis axes[3];
  Size image_size;
  Size filled;         // the part of a tile that is taken from, or given to, the image
  Size overlap;        // back: first voxels of a tile that are added to the tile before it, along axes where there is one
  const int* origins;  // (n_tiles, 3): of the tiles in the image
  int n_tiles, entries, channels;
  float scale;  // back: of every value, before bias and function
  Function function;
  float a, b;
  float* scratch;
};

struct Filter {
  Size size, window, stride, out_size;  // out_size: of one fragment
  int batch, channels;
  int n_parities;          // 1 for max-pool, stride volume for max-filter
  int parities_per_group;  // each group's array is (parities_per_group * batch, z, y, x, channel)
};

struct Transfer {
  size_t rows;
  int channels;
  Function function;
  float a, b;
};

enum LossKind { SQUARE, LOGISTIC_LOSS, SOFTMAX, SQUARE_SQUARE };

// Blocks of one batch group. Targets and weights are (example, channel, z, y, x), cropped to target_size; the weights
// may have one channel for all. For SOFTMAX there are classes, (example, z, y, x), instead of targets.
struct Loss {
  LossKind kind;
  Size size, sparsity, target_size;  // size: of a fragment
  int batch, n_blocks, channels, weight_channels;  // channels: of all blocks
  const int* entries;                // example and first voxel (z, y, x) of each fragment
  const Block* blocks;
  float* const* d_blocks;
  const float *target, *weight;      // weight: null for none
  const int32_t* classes;
  double scale;                      // of the gradient
  double margin;                     // of SQUARE_SQUARE: what differs no more counts as equal
};

struct Dropout {
  size_t voxels;
  int batch, channels;
  uint64_t key, all_entries, all_channels, first_channel;
  uint32_t threshold;  // words below it drop the value
  float scale;         // of what is kept
};

// Of a gradient g, first multiplied by scale and then kept within -most and most.
struct Sgd {
  float rate, momentum, decay, scale, most;
  bool nesterov;
};

// step: rate over the moment's correction. root: the square root of the square's correction. shrink: of the parameter.
struct Adam {
  float step, shrink, root, epsilon, new_in_moment, beta2, new_in_square, decay, scale, most;
};

// Voxels of one image, the whole, that are those of others, the parts. Along each axis a voxel of the whole has a place
// in a part, or -1 where none has it; the number of its part is the sum of those of the three axes.
struct Rearrange {
  Size size, part_size;
  int batch, channels;
  const int *parts[3], *places[3];
};

// The gradient of an image that was padded with its own voxels. Along each axis voxel v of the image was repeated to
// sources[starts[v]] .. sources[starts[v + 1] - 1] of the padded one, of which before + v is its own.
struct Fold {
  Size size, padded, before;
  int batch, channels;
  const int *starts[3], *sources[3];
};

// An image of `size`, and one that is larger by `factor`.
struct Resample {
  Size size, factor;
  int batch, channels;
  float scale;  // of sums and repeated voxels
};

// A block of the channels of a node. Statistics and coefficients are (example, 2, all_channels), moments are
// (n_examples, 2, channels).
struct Normalise {
  size_t voxels;
  int batch, channels, first_channel, all_channels, n_examples;
  const int* examples;  // of every entry
};

// A node in blocks, of `voxels` voxels in all entries together.
struct Softmax {
  size_t voxels;
  int n_blocks, all_channels;
  const int* channels;
};

// Displacements of every map that are cubic splines, of coefficients (map, count) on a coarse grid.
struct Spline {
  const float* coefficients;
  Size count;
  const float *z, *y, *x;  // weights: (size.z, count.z), (size.y, count.y), (count.x, size.x)
};

// Where the voxels of a patch come from: along y and x, or with three maps also along z.
struct Motion {
  Size size;
  int maps;
  const float* affine;  // (map, 4): what z, y and x are multiplied with, and what is added
  int n_splines;
  const Spline* splines;
};

// The same with a displacement of whole voxels besides, section by section: (size.z, 3). Without a map along z, that is
// where the section comes from.
struct Course {
  Motion motion;
  const int* moved;
};

// An image (channel, z, y, x): the voxel that a course counts from, and which voxels may be seen, mirrored beyond. The
// image need not hold all of these, only those that are looked at.
struct Window {
  Size image;
  int channels;
  int at[3], low[3], high[3];
};

enum GreyType { GREY_UINT8, GREY_UINT16, GREY_FLOAT };

// Images (channel, z, y, x) that are convolved with Gaussians: across sections, and within each by a width of its own.
// They go on as in a mirror, the outermost voxel not repeated.
struct Smooth {
  Size size;
  int channels;
  double sigma_z;
  const double* sigmas;  // (z)
};

// Images (channel, z, y, x) whose values are raised to a power, the least of all as 0 and the greatest as 1, then
// multiplied and moved, section by section.
struct Grade {
  Size size;
  int channels;
  const float *power, *factor, *offset;  // (z)
};

constexpr size_t PEAK_SUMS = 24 * 16;

struct Table {
  const char* name;
  int lanes;
  size_t (*direct_forward_scratch)(const DirectForward&);
  void (*direct_forward)(const DirectForward&);
  size_t (*direct_gradient_scratch)(const DirectGradient&);
  void (*direct_gradient)(const DirectGradient&);
  size_t (*winograd_forward_scratch)(const DirectForward&);
  void (*winograd_forward)(const DirectForward&);
  size_t (*winograd_gradient_scratch)(const DirectGradient&);
  void (*winograd_gradient)(const DirectGradient&);
  size_t (*spectral_product_scratch)(const SpectralProduct&);
  void (*spectral_product)(const SpectralProduct&);
  size_t (*spectral_gradient_scratch)(const SpectralGradient&);
  void (*spectral_gradient)(const SpectralGradient&);
  void (*gather_tile)(const TileCopy&, const float* image, float* tile);
  void (*scatter_tile)(const TileCopy&, const float* tile, float* image, const int* skip, const int* count, float scale,
                       bool add);
  size_t (*tile_transform_scratch)(const TileTransform&);
  void (*tile_forward)(const TileTransform&, const float* image, float* spectrum);
  void (*tile_inverse)(const TileTransform&, const float* spectrum, const float* bias, float* image);
  void (*split_complex)(const float* tile, size_t tile_lanes, size_t n, float* spectrum, size_t lanes, size_t first,
                        size_t count);
  void (*join_complex)(const float* spectrum, size_t lanes, size_t first, size_t count, size_t n, float* tile,
                       size_t tile_lanes);
  void (*transfer_forward)(const Transfer&, const float* image, const float* bias, float* out);
  void (*transfer_backward)(const Transfer&, const float* d_out, const float* out, float* d_image, double* d_bias);
  size_t (*filter_forward_scratch)(const Filter&);
  void (*filter_forward)(const Filter&, const float* image, float* const* out, void* const* argmax, int argmax_bytes,
                         float* scratch);
  size_t (*filter_backward_scratch)(const Filter&);
  void (*filter_backward)(const Filter&, const float* const* d_out, const void* const* argmax, int argmax_bytes,
                          float* d_image, float* scratch);
  size_t (*loss_scratch)(const Loss&);
  double (*loss)(const Loss&, float* scratch);  // the sum over voxels; gradients into d_blocks
  void (*dropout)(const Dropout&, const float* image, const int64_t* entry, float* out);
  void (*sgd)(const Sgd&, size_t n, const float* parameter, const float* velocity, const float* gradient,
              float* new_parameter, float* new_velocity);
  void (*adam)(const Adam&, size_t n, const float* parameter, const float* moment, const float* square,
               const float* gradient, float* new_parameter, float* new_moment, float* new_square);
  double (*square_sum)(size_t n, const float* values);
  size_t (*rearrange_scratch)(const Rearrange&);
  void (*take)(const Rearrange&, const float* const* parts, float* whole, float* scratch);
  void (*put)(const Rearrange&, const float* whole, float* const* parts, float* scratch);
  size_t (*fold_scratch)(const Fold&);
  void (*fold)(const Fold&, const float* d_out, float* d_image, float* scratch);
  size_t (*window_sum_scratch)(const Resample&);
  void (*window_sum)(const Resample&, const float* larger, float* image, float* scratch);
  void (*repeat)(const Resample&, const float* image, float* larger);
  size_t (*interpolate_scratch)(const Resample&);
  void (*interpolate)(const Resample&, const float* image, float* larger, float* scratch);
  size_t (*interpolate_backward_scratch)(const Resample&);
  void (*interpolate_backward)(const Resample&, const float* d_larger, float* d_image, float* scratch);
  size_t (*moments_scratch)(const Normalise&);
  void (*moments)(const Normalise&, const float* image, double* sums, float* scratch);
  size_t (*gradient_moments_scratch)(const Normalise&);
  void (*gradient_moments)(const Normalise&, const float* d_out, const float* image, const float* statistics, double* sums,
                           float* scratch);
  size_t (*normalise_scratch)(const Normalise&);
  // Scale and shift may be null.
  void (*normalise_forward)(const Normalise&, const float* image, const float* statistics, const float* scale,
                            const float* shift, float* out, float* scratch);
  void (*normalise_backward)(const Normalise&, const float* d_out, const float* image, const float* statistics,
                             const float* coefficients, const float* scale, float* d_image, float* scratch);
  size_t (*softmax_scratch)(const Softmax&);
  void (*softmax_forward)(const Softmax&, const float* const* images, float* const* out, float* scratch);
  void (*softmax_backward)(const Softmax&, const float* const* d_out, const float* const* out, float* const* d_images,
                           float* scratch);
  void (*largest)(size_t n, const float* const* images, int n_images, float* out, uint8_t* argmax);
  void (*largest_backward)(size_t n, const float* d_out, const uint8_t* argmax, int n_images, float* const* d_images);
  size_t (*places_scratch)(const Motion&);
  void (*places)(const Motion&, float* field, float* scratch);
  // Levels are a factor and what is added, of every section: (2, channel, z).
  void (*interpolate_at)(const Course&, const Window&, GreyType, const void* image, const float* levels, float* out, float* scratch);
  // Voxels of the image, and whether a place lies in the box from low to high.
  void (*nearest)(const Course&, const Window&, const int* low, const int* high, int64_t* out, uint8_t* inside, float* scratch);
  size_t (*smooth_scratch)(const Smooth&);
  void (*smooth)(const Smooth&, float* values, float* scratch);
  void (*grade)(const Grade&, float* values);
  void (*standardise)(size_t n, GreyType, const void* values, double shift, double scale, float* out);
  void (*add_noise)(size_t n, uint64_t key, float sigma, float* values);
  double (*fma_peak)(size_t n, float* sums);  // n rounds; returns the operations; sums: PEAK_SUMS floats
};

const Table& table();  // of the best instruction set this machine has, or the one named by ZNN_DASK_ISA

}  // namespace znn
