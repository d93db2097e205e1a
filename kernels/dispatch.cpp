// Chooses the best instruction set this machine has, once.
#include <cstdlib>
#include <cstring>

#include "table.hpp"

namespace znn {

#ifdef ZNN_X86
namespace isa_v2 { extern const Table TABLE; }
namespace isa_v3 { extern const Table TABLE; }
namespace isa_v4 { extern const Table TABLE; }

static bool has_v3() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
}
static bool has_v4() {
  return has_v3() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

static const Table& choose() {
  __builtin_cpu_init();
  const char* wanted = std::getenv("ZNN_DASK_ISA");
  const bool any = wanted == nullptr || *wanted == 0;
  // A wish for more than the machine has is met with the best it has.
  if (has_v4() && (any || !std::strcmp(wanted, "v4"))) return isa_v4::TABLE;
  if (has_v3() && (any || std::strcmp(wanted, "v2"))) return isa_v3::TABLE;
  return isa_v2::TABLE;
}
#else
namespace isa_plain { extern const Table TABLE; }
static const Table& choose() { return isa_plain::TABLE; }
#endif

const Table& table() {
  static const Table& chosen = choose();
  return chosen;
}

}  // namespace znn
