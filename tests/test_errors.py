"""Which errors mean that memory ran out, and whose memory."""

import errno
import os

import pytest
import torch

from hallo3.errors import InputError, is_out_of_memory, is_out_of_ram

DEVICE = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    *map(
        RuntimeError,
        (
            "CUDA error: out of memory",
            "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
            "cuDNN error: CUDNN_STATUS_NOT_INITIALIZED",
            "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
            "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
            "GET was unable to find an engine to execute this computation",
            "HIP out of memory. Tried to allocate 2.00 GiB.",
            "MPS backend out of memory (MPS allocated: 1 GB)",
            "Invalid buffer size: 24.00 GiB",
            "UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY",
        ),
    ),
]
RAM = [
    MemoryError(),
    OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
    *map(
        RuntimeError,
        (
            "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: 12 bytes",
            "DefaultCPUAllocator: not enough memory: you tried to allocate 12 bytes.",
            "std::bad_alloc",
            "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED",
            "UR_RESULT_ERROR_OUT_OF_HOST_MEMORY",
            "The paging file is too small for this operation to complete",
        ),
    ),
]
OTHERS = [
    ValueError("of memory"),
    InputError("The run does not fit the memory.", found="out of memory.wav"),
    OSError(errno.ENOENT, "out of memory.wav"),
    RuntimeError("cuDNN error: CUDNN_STATUS_BAD_PARAM"),
    RuntimeError("CUDA error: device-side assert triggered"),
]


@pytest.mark.parametrize("error", DEVICE + RAM + OTHERS, ids=str)
def test_memory_that_ran_out_is_recognised(error: Exception) -> None:
    assert is_out_of_memory(error) == (error not in OTHERS)
    if error not in OTHERS:
        assert is_out_of_ram(error) == (error in RAM)
