"""A machine's clocks and sensors as Linux has them under ``/sys``, good ones and odd ones."""

from pathlib import Path

CLOCKS = {"cpu0": 1800000, "cpu1": 2400000}
TEMPERATURES = {"cpu-thermal": 48.312, "cpu-thermal thermal_zone1": -5.0, 'od"d?': 60.0}


def fake_sys(root: Path) -> Path:
    """The folder; what is read from it are ``CLOCKS`` and ``TEMPERATURES``."""
    cpu, thermal = root / "devices/system/cpu", root / "class/thermal"
    for core, khz in ((0, "1800000"), (1, "2400000"), (10, "")):
        (cpu / f"cpu{core}/cpufreq").mkdir(parents=True)
        (cpu / f"cpu{core}/cpufreq/scaling_cur_freq").write_text(f"{khz}\n")
    (cpu / "cpufreq").mkdir()
    (cpu / "cpuidle").mkdir()
    for zone, name, value in (
        ("thermal_zone0", "cpu-thermal\n", "48312"),
        ("thermal_zone1", "cpu-thermal\n", "-5000"),
        ("thermal_zone2", 'od"d\xff\n', "60000"),
        ("thermal_zone3", "gpu\n", "unknown"),
        ("cooling_device0", "fan\n", "1"),
    ):
        (thermal / zone).mkdir(parents=True)
        (thermal / zone / "type").write_text(name, encoding="latin-1")
        (thermal / zone / "temp").write_text(f"{value}\n")
    (root / "firmware/devicetree/base").mkdir(parents=True)
    (root / "firmware/devicetree/base/model").write_text("Board Five Rev 1.0\0")
    return root
