// The fast kernels for every machine: vectors of four floats.
// What is in the plain headers keeps the target of the whole build: it is shared with files that are not this one.
#include "kernels/cpu/dispatch.h"
#include "kernels/philox.h"

#define WROUGHT_ISA portable
#define WROUGHT_VECTOR_BYTES 16
#define WROUGHT_BF16 0

#include "kernels/cpu/table.h"
