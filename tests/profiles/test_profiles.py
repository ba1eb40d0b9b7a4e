"""Shipped profiles, the budget rule, and reading a user's own file."""

import math
import subprocess
import sys
from pathlib import Path

import pytest

from tofe_edge.profiles import (
    DeviceProfile,
    ProfileError,
    Quantity,
    big_core_int8_gops,
    derive_budget_gmacs,
    load_all,
    load_profile,
    profile_names,
)

SHIPPED = [
    "galaxy_s22", "galaxy_s23", "galaxy_s24", "generic_x86", "intel_n100", "iphone_14", "iphone_15", "iphone_16",
    "iphone_16_pro", "iphone_se_3", "jetson_orin", "jetson_orin_nano", "jetson_orin_nx", "m1", "m2", "m3", "m4", "pixel_7",
    "pixel_8", "pixel_9", "raspberry_pi_5", "rock_5b", "steam_deck",
]  # fmt: skip
CORE_ML_DEVICES = {
    "iphone_14", "iphone_15", "iphone_16", "iphone_16_pro", "iphone_se_3", "m1", "m2", "m3", "m4",
}  # fmt: skip
SMALLEST_CHECKPOINT_GMACS = 0.63
VALID = (Path(__file__).parent / "my_board.yaml").read_text(encoding="utf-8")
DOCUMENT = (Path(__file__).parents[2] / "docs" / "profiles.md").read_text(encoding="utf-8")


def quantities(value: object) -> list[Quantity]:
    """All quantities inside a dataclass, found by walking it."""
    if isinstance(value, Quantity):
        return [value]
    if isinstance(value, tuple):
        return [found for item in value for found in quantities(item)]
    if hasattr(value, "__dataclass_fields__"):
        return [found for item in vars(value).values() for found in quantities(item)]
    return []


def test_all_devices_are_shipped() -> None:
    assert profile_names() == SHIPPED
    assert [profile.name for profile in load_all()] == SHIPPED


@pytest.fixture(params=SHIPPED)
def shipped(request: pytest.FixtureRequest) -> DeviceProfile:
    return load_profile(request.param)


def test_every_number_names_its_source(shipped: DeviceProfile) -> None:
    found = quantities(shipped)
    assert len(found) >= 7
    for quantity in found:
        assert math.isfinite(quantity.value)
        assert quantity.value > 0
        assert len(quantity.source) >= 10
        assert "http" not in quantity.source


def test_budget_is_what_the_rule_gives(shipped: DeviceProfile) -> None:
    int8_gops = big_core_int8_gops(shipped.cpu.clusters, shipped.defaults.threads)
    assert shipped.budget.gmacs.value == round(derive_budget_gmacs(int8_gops), 2)
    assert shipped.budget.gmacs.provenance == "derived"


def test_budget_admits_a_shipped_checkpoint(shipped: DeviceProfile) -> None:
    assert shipped.budget.gmacs.value > SMALLEST_CHECKPOINT_GMACS + 0.02


def test_cpu_int8_peak_is_the_sum_over_big_cores(shipped: DeviceProfile) -> None:
    big_cores = sum(cluster.cores for cluster in shipped.cpu.clusters if cluster.kind == "big")
    expected = big_core_int8_gops(shipped.cpu.clusters, big_cores)
    assert shipped.peaks.cpu_int8_gops.value == pytest.approx(expected, abs=0.01)


def test_peaks_follow_the_instruction_set(shipped: DeviceProfile) -> None:
    peaks = shipped.peaks
    fp16_gain, int8_gain = (2, 4) if "dotprod" in shipped.cpu.isa else (1, 4 if "vnni" in shipped.cpu.isa else 2)
    assert peaks.cpu_fp16_gops.value == pytest.approx(fp16_gain * peaks.cpu_fp32_gops.value, abs=0.05)
    assert peaks.cpu_int8_gops.value == pytest.approx(int8_gain * peaks.cpu_fp32_gops.value, abs=0.05)


def test_defaults(shipped: DeviceProfile) -> None:
    core_ml = shipped.name in CORE_ML_DEVICES
    assert shipped.defaults.target == ("coreml" if core_ml else "executorch")
    assert shipped.defaults.backend == ("coreml" if core_ml else "xnnpack")
    assert shipped.defaults.precision == "int8"


def test_rule_by_hand() -> None:
    # 600 GOPS at 0.2 are 60 GMACs a second; 0.4 of 1/30 s of them are 0.8.
    assert derive_budget_gmacs(600.0) == pytest.approx(0.8)


def test_rule_uses_the_fastest_big_cores() -> None:
    clusters = load_profile("pixel_8").cpu.clusters
    assert big_core_int8_gops(clusters, 1) == pytest.approx(2.91 * 128)
    assert big_core_int8_gops(clusters, 3) == pytest.approx(2.91 * 128 + 2 * 2.37 * 64)


@pytest.mark.parametrize("threads", [-1, 0, 6])
def test_rule_refuses_threads_without_a_big_core(threads: int) -> None:
    with pytest.raises(ValueError, match="use 1 to 5"):
        big_core_int8_gops(load_profile("pixel_8").cpu.clusters, threads)


@pytest.mark.parametrize("suffix", [".yaml", ".yml", ".txt"])
def test_own_file_by_path(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"any{suffix}"
    path.write_text(VALID)
    profile = load_profile(str(path))
    assert profile.name == "my_board"
    assert profile.budget.gmacs == Quantity(0.82, "derived", "the rule")
    assert profile.peaks.accelerators == ()


def test_windows_text_is_read(tmp_path: Path) -> None:
    path = tmp_path / "board.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + VALID.replace("\n", "\r\n").encode())
    assert load_profile(str(path)).name == "my_board"


def test_profiles_are_frozen() -> None:
    with pytest.raises(AttributeError):
        load_profile("m1").name = "other"  # type: ignore[misc]


def test_documented_example_is_valid_and_its_error_is_real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    example = DOCUMENT.split("```yaml\n")[1].split("```")[0]
    path = Path("my_board.yaml")
    path.write_text(example)
    assert load_profile("my_board.yaml").name == "my_board"
    path.write_text(example.replace("value: 0.82, provenance: derived", "value: 0.82, provenance: guess"))
    with pytest.raises(ProfileError) as caught:
        load_profile("my_board.yaml")
    assert f"    {caught.value}\n" in DOCUMENT


def test_needs_no_torch_and_no_numpy() -> None:
    code = "import sys, tofe_edge.profiles as p; p.load_all(); print(*sorted({m.split('.')[0] for m in sys.modules}))"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not {"torch", "numpy", "PIL"} & set(output.split())


def test_a_board_has_a_gpu_beside_its_cpu() -> None:
    engines = {profile.name: profile.engines for profile in load_all() if profile.engines}
    assert set(engines) == {"jetson_orin", "jetson_orin_nano", "jetson_orin_nx"}
    assert {(one.name, one.target, one.precision) for found in engines.values() for one in found} == {
        ("gpu", "onnx", "fp16")
    }
