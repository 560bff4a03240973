// The fast kernels for every machine: vectors of four floats.
// The plain headers are compiled for the target of the whole build: other files share their code.
#include "kernels/cpu/dispatch.h"
#include "kernels/philox.h"

#define WROUGHT_ISA portable
#define WROUGHT_VECTOR_BYTES 16
#define WROUGHT_BF16 0

#include "kernels/cpu/table.h"
