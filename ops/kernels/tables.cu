// Copies arrays that were sent in one block to tables of their own.
//
// instances: fill_tables
//
// The block begins with a header of SEGMENT numbers for each table: address, rows, columns and row
// stride of the table, then offset, rows and columns of the array, and what is written where the
// array has nothing.
#include "chain.cuh"

#define SEGMENT 8

extern "C" __global__ void fill_tables(const long long* __restrict__ block) {
    begin();
    const long long* segment = block + blockIdx.x * SEGMENT;
    long long* table = reinterpret_cast<long long*>(segment[0]);
    const long long rows = segment[1], columns = segment[2], stride = segment[3];
    const long long* source = block + segment[4];
    const long long source_rows = segment[5], source_columns = segment[6], filler = segment[7];
    const long long step = static_cast<long long>(gridDim.y) * blockDim.x;
    for (long long i = blockIdx.y * blockDim.x + threadIdx.x; i < rows * columns; i += step) {
        const long long row = i / columns, column = i % columns;
        const bool is_given = row < source_rows && column < source_columns;
        table[row * stride + column] =
            is_given ? source[row * source_columns + column] : filler;
    }
}
