"""What the NVIDIA driver says: whether there is a GPU, which one is the first for CUDA, and its own version."""

from __future__ import annotations

import ctypes
import shutil
import subprocess


def no_gpu() -> str | None:
    """Why the driver offers no NVIDIA GPU, or None if it does."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "no NVIDIA driver is here (libcuda.so.1); install it, on a machine with an NVIDIA GPU"
    count = ctypes.c_int(0)
    code = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    return None if count.value else f"the NVIDIA driver finds no GPU (code {code}); check nvidia-smi"


def gpu_name() -> str:
    """Of the GPU that is the first for CUDA in this process, whatever CUDA_VISIBLE_DEVICES says and in whatever
    order; nvidia-smi counts differently."""
    driver = ctypes.CDLL("libcuda.so.1")
    device, name = ctypes.c_int(), ctypes.create_string_buffer(256)
    code = driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), 0)
    code = code or driver.cuDeviceGetName(name, len(name), device)
    return "NVIDIA GPU" if code else name.value.decode()


def driver_version() -> dict[str, str]:
    """`{"driver": version}`, by the driver's own tool; nothing without it."""
    if not shutil.which("nvidia-smi"):
        return {}
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "--id=0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    version = done.stdout.strip()
    return {"driver": version} if version and not done.returncode else {}
