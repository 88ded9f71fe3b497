"""What the NVIDIA driver says: whether there is a GPU, which one is the first for CUDA, that one's state, and its own
version.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from contextlib import suppress
from uuid import UUID

SMI = "nvidia-smi"
NUMBERS = {  # of a GPU's state: by the name in a record, the field of nvidia-smi
    "gpu_clock_mhz": "clocks.sm",
    "gpu_memory_clock_mhz": "clocks.mem",
    "gpu_temperature_c": "temperature.gpu",
    "gpu_power_w": "power.draw",
}
STATE = "pstate"  # P0, the fastest, to P15
REASONS = ("clocks_event_reasons.active", "clocks_throttle_reasons.active")  # the second by older drivers
SLOWED_BY = {  # bits of the reasons (NVML's nvmlClocksEventReasons); idle and clocks that somebody set are none
    0x04: "power cap",
    0x08: "hardware slowdown",
    0x20: "heat (software)",
    0x40: "heat (hardware)",
    0x80: "power brake",
}


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
    version = _queried(["driver_version"], "0")
    return {"driver": version} if version else {}


def gpu_uuid() -> str | None:
    """Of the GPU that is the first for CUDA in this process, as nvidia-smi writes it; None without one."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    device, uuid = ctypes.c_int(), (ctypes.c_ubyte * 16)()
    code = driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), 0)
    code = code or driver.cuDeviceGetUuid(uuid, device)
    return None if code else f"GPU-{UUID(bytes=bytes(uuid))}"


def gpu_state() -> dict[str, float | str]:
    """The state of that GPU at this moment, as `state_of` says; nothing where nvidia-smi is not or does not tell."""
    gpu = gpu_uuid()
    for reasons in REASONS if gpu else ():
        if told := _queried([*NUMBERS.values(), STATE, reasons], gpu):
            return state_of(told)
    return {}


def state_of(line: str) -> dict[str, float | str]:
    """What a line of nvidia-smi says, `--format=csv,noheader,nounits` of the fields that `gpu_state` asks for:

    gpu_clock_mhz, gpu_memory_clock_mhz    of the multiprocessors and of the memory
    gpu_temperature_c, gpu_power_w         °C, and watts that are drawn
    gpu_state                              P0, the fastest, to P15
    gpu_slowed_by                          what holds the clock down, in words

    What the GPU does not tell, such as `[N/A]`, is absent, and so is `gpu_slowed_by` where nothing slows it.
    """
    *numbers, state, reasons = (one.strip() for one in line.split(","))
    found: dict[str, float | str] = {}
    for name, told in zip(NUMBERS, numbers, strict=True):
        with suppress(ValueError):
            found[name] = float(told)
    if state.startswith("P"):
        found["gpu_state"] = state
    with suppress(ValueError):
        bits = int(reasons, 16)
        if slowed_by := ", ".join(word for bit, word in SLOWED_BY.items() if bits & bit):
            found["gpu_slowed_by"] = slowed_by
    return found


def _queried(fields: list[str], gpu: str) -> str:
    """What nvidia-smi says of a GPU, one line; empty where it is not here, or does not know a field."""
    if not shutil.which(SMI):
        return ""
    command = [SMI, f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits", f"--id={gpu}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return "" if done.returncode else done.stdout.strip()
