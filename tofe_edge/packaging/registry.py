"""The platforms that can be packaged for."""

from __future__ import annotations

from tofe_edge.packaging.android import ANDROID
from tofe_edge.packaging.apple import APPLE
from tofe_edge.packaging.linux import LINUX
from tofe_edge.packaging.platform import Platform

PLATFORMS: dict[str, Platform] = {platform.name: platform for platform in (ANDROID, APPLE, LINUX)}
