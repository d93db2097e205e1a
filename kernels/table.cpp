// The table of this instruction set.
#include "table.hpp"

#include "simd.hpp"

namespace znn::ZNN_ISA {

size_t direct_forward_scratch(const DirectForward&);
void direct_forward(const DirectForward&);
size_t direct_gradient_scratch(const DirectGradient&);
void direct_gradient(const DirectGradient&);
size_t winograd_forward_scratch(const DirectForward&);
void winograd_forward(const DirectForward&);
size_t winograd_gradient_scratch(const DirectGradient&);
void winograd_gradient(const DirectGradient&);
size_t spectral_product_scratch(const SpectralProduct&);
void spectral_product(const SpectralProduct&);
size_t spectral_gradient_scratch(const SpectralGradient&);
void spectral_gradient(const SpectralGradient&);
void gather_tile(const TileCopy&, const float*, float*);
void scatter_tile(const TileCopy&, const float*, float*, const int*, const int*, float, bool);
size_t tile_transform_scratch(const TileTransform&);
void tile_forward(const TileTransform&, const float*, float*);
void tile_inverse(const TileTransform&, const float*, const float*, float*);
void split_complex(const float*, size_t, size_t, float*, size_t, size_t, size_t);
void join_complex(const float*, size_t, size_t, size_t, size_t, float*, size_t);
void transfer_forward(const Transfer&, const float*, const float*, float*);
void transfer_backward(const Transfer&, const float*, const float*, float*, double*);
size_t filter_forward_scratch(const Filter&);
void filter_forward(const Filter&, const float*, float* const*, void* const*, int, float*);
size_t filter_backward_scratch(const Filter&);
void filter_backward(const Filter&, const float* const*, const void* const*, int, float*, float*);
size_t loss_scratch(const Loss&);
double loss(const Loss&, float*);
void dropout(const Dropout&, const float*, const int64_t*, float*);
void sgd(const Sgd&, size_t, const float*, const float*, const float*, float*, float*);
void adam(const Adam&, size_t, const float*, const float*, const float*, const float*, float*, float*, float*);
double square_sum(size_t, const float*);
size_t rearrange_scratch(const Rearrange&);
void take(const Rearrange&, const float* const*, float*, float*);
void put(const Rearrange&, const float*, float* const*, float*);
size_t fold_scratch(const Fold&);
void fold(const Fold&, const float*, float*, float*);
size_t window_sum_scratch(const Resample&);
void window_sum(const Resample&, const float*, float*, float*);
void repeat(const Resample&, const float*, float*);
size_t interpolate_scratch(const Resample&);
void interpolate(const Resample&, const float*, float*, float*);
size_t interpolate_backward_scratch(const Resample&);
void interpolate_backward(const Resample&, const float*, float*, float*);
size_t moments_scratch(const Normalise&);
void moments(const Normalise&, const float*, double*, float*);
size_t gradient_moments_scratch(const Normalise&);
void gradient_moments(const Normalise&, const float*, const float*, const float*, double*, float*);
size_t normalise_scratch(const Normalise&);
void normalise_forward(const Normalise&, const float*, const float*, const float*, const float*, float*, float*);
void normalise_backward(const Normalise&, const float*, const float*, const float*, const float*, const float*, float*, float*);
size_t softmax_scratch(const Softmax&);
void softmax_forward(const Softmax&, const float* const*, float* const*, float*);
void softmax_backward(const Softmax&, const float* const*, const float* const*, float* const*, float*);
void largest(size_t, const float* const*, int, float*, uint8_t*);
void largest_backward(size_t, const float*, const uint8_t*, int, float* const*);
size_t places_scratch(const Motion&);
void places(const Motion&, float*, float*);
void interpolate_at(const Course&, const Window&, GreyType, const void*, const float*, float*, float*);
void nearest(const Course&, const Window&, const int*, const int*, int64_t*, uint8_t*, float*);
size_t smooth_scratch(const Smooth&);
void smooth(const Smooth&, float*, float*);
void grade(const Grade&, float*);
void standardise(size_t, GreyType, const void*, double, double, float*);
void add_noise(size_t, uint64_t, float, float*);
double fma_peak(size_t, float*);

#define ZNN_TEXT_OF(x) #x
#define ZNN_TEXT(x) ZNN_TEXT_OF(x)

extern const Table TABLE;
const Table TABLE = {
    ZNN_TEXT(ZNN_ISA),        LANES,
    direct_forward_scratch,   direct_forward,
    direct_gradient_scratch,  direct_gradient,
    winograd_forward_scratch, winograd_forward,
    winograd_gradient_scratch, winograd_gradient,
    spectral_product_scratch, spectral_product,
    spectral_gradient_scratch, spectral_gradient,
    gather_tile,              scatter_tile,
    tile_transform_scratch,   tile_forward,
    tile_inverse,
    split_complex,            join_complex,
    transfer_forward,         transfer_backward,
    filter_forward_scratch,   filter_forward,
    filter_backward_scratch,  filter_backward,
    loss_scratch,             loss,
    dropout,                  sgd,
    adam,                     square_sum,
    rearrange_scratch, take, put,
    fold_scratch, fold,
    window_sum_scratch, window_sum, repeat,
    interpolate_scratch, interpolate,
    interpolate_backward_scratch, interpolate_backward,
    moments_scratch, moments,
    gradient_moments_scratch, gradient_moments,
    normalise_scratch, normalise_forward, normalise_backward,
    softmax_scratch, softmax_forward, softmax_backward,
    largest, largest_backward,
    places_scratch, places, interpolate_at, nearest,
    smooth_scratch, smooth, grade, standardise, add_noise,
    fma_peak,
};

}  // namespace znn::ZNN_ISA
