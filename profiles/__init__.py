"""Device profiles: one YAML file per device, read into frozen dataclasses. Imports only the project's errors."""

from tofe_edge.profiles.budget import EFFICIENCY, FRAME_RATE_HZ, FRAME_SHARE, big_core_int8_gops, derive_budget_gmacs
from tofe_edge.profiles.document import ProfileError
from tofe_edge.profiles.latency import Alignment, Anchor, LatencyTable, NetShape, Step
from tofe_edge.profiles.loader import (
    check_layout,
    is_path,
    load_all,
    load_profile,
    profile_names,
    read_profile,
    with_tables,
)
from tofe_edge.profiles.schema import (
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
    "Alignment",
    "Anchor",
    "Cpu",
    "CpuCluster",
    "DeviceProfile",
    "LatencyTable",
    "Memory",
    "NetShape",
    "Peaks",
    "ProfileBudget",
    "ProfileDefaults",
    "ProfileError",
    "Quantity",
    "Step",
    "big_core_int8_gops",
    "check_layout",
    "derive_budget_gmacs",
    "is_path",
    "load_all",
    "load_profile",
    "profile_names",
    "read_profile",
    "with_tables",
]
