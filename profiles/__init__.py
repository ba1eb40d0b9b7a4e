"""Device profiles: one YAML file a device, read into frozen dataclasses. Imports nothing else of this project."""

from profiles.budget import EFFICIENCY, FRAME_RATE_HZ, FRAME_SHARE, big_core_int8_gops, derive_budget_gmacs
from profiles.errors import ProfileError
from profiles.loader import load_all, load_profile, profile_names
from profiles.schema import (
    Accelerator,
    Cpu,
    CpuCluster,
    DeviceProfile,
    Memory,
    Peaks,
    ProfileBudget,
    ProfileDefaults,
    Quantity,
)

__all__ = [
    "EFFICIENCY",
    "FRAME_RATE_HZ",
    "FRAME_SHARE",
    "Accelerator",
    "Cpu",
    "CpuCluster",
    "DeviceProfile",
    "Memory",
    "Peaks",
    "ProfileBudget",
    "ProfileDefaults",
    "ProfileError",
    "Quantity",
    "big_core_int8_gops",
    "derive_budget_gmacs",
    "load_all",
    "load_profile",
    "profile_names",
]
