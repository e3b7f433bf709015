// What nccl.h needs of the CUDA runtime's header to be read by a compiler that has no toolkit.
#pragma once
#include <stddef.h>
#include <stdint.h>
#define CUDART_VERSION 12000
typedef struct CUstream_st* cudaStream_t;
typedef struct CUevent_st* cudaEvent_t;
