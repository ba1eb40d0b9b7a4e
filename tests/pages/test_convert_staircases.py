"""What a profile's latency tables add to the page of a conversion."""

from __future__ import annotations

from dataclasses import replace

import pytest
from page_contents import Tags, convert_page, plain_manifest

from tofe_edge.budget.latency_model import shape_of
from tofe_edge.cli.convert_page import with_staircases
from tofe_edge.cli.pages.convert import ConvertPage, render
from tofe_edge.model.backbones import Backbone, create_host
from tofe_edge.model.checkpoint import Checkpoint
from tofe_edge.profiles import DeviceProfile, load_profile
from tofe_edge.profiles.latency import Anchor, LatencyTable


@pytest.fixture
def backbone(tiny_checkpoint: Checkpoint) -> Backbone:
    return create_host(tiny_checkpoint.backbone_name, tiny_checkpoint.overrides).spec


@pytest.fixture
def table(backbone: Backbone) -> LatencyTable:
    points = ((2, 0.1), (9, 0.4), (17, 0.9))
    return LatencyTable(
        backbone=backbone.name, shape=shape_of(backbone), precision="fp32", threads=4, provenance="measured", source="a test",
        stem=0.5, selection=0.1, block=points, tail=points, approximator=points, dense=5.0, tofe=(Anchor((8, 4, 2), 3.0),),
    )  # fmt: skip


@pytest.fixture
def page(tiny_checkpoint: Checkpoint) -> ConvertPage:
    return replace(convert_page(plain_manifest(tiny_checkpoint)), block_ms={}, fitted_ms={})


def board(*tables: LatencyTable) -> DeviceProfile:
    return replace(load_profile("jetson_orin"), latency=tables)


def test_every_table_of_the_net_is_a_staircase(page: ConvertPage, backbone: Backbone, table: LatencyTable) -> None:
    found = with_staircases(page, backbone, board(table, replace(table, precision="int8")))
    assert set(found.block_ms) == set(found.fitted_ms) == {"fp32", "int8"}
    assert found.block_ms["fp32"] == table.block
    assert [count for count, _ in found.fitted_ms["fp32"]] == list(range(1, 18))
    assert dict(found.fitted_ms["fp32"])[9] == pytest.approx(0.4)
    assert "3 token counts in fp32; 3 token counts in int8" in Tags(render(found)).text


def test_tables_of_other_nets_and_sizes_say_nothing(page: ConvertPage, backbone: Backbone, table: LatencyTable) -> None:
    assert with_staircases(page, backbone, board(replace(table, backbone="another"))) == page
    assert with_staircases(page, backbone, board()) == with_staircases(page, backbone, None) == page
    larger = replace(page, manifest=replace(page.manifest, patch_tokens=25))
    assert with_staircases(larger, backbone, board(table)) == larger
