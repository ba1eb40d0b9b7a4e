"""Recipes: shipped ones, files and ``--set``; and the options of earlier versions, which go on working."""

from pathlib import Path

import pytest

from tofe_edge.cli import main, parse
from tofe_edge.errors import InputError
from tofe_edge.training.recipe import KEYS, Recipe, read_recipe, shipped_recipes

TRAIN = ["train", "--data", "x", "--target-gmacs", "1", "--out", "x.safetensors"]


def test_shipped_recipes() -> None:
    assert shipped_recipes() == ["own_classes", "paper", "reduced"]
    assert read_recipe() == read_recipe("paper") == Recipe()
    reduced = read_recipe("reduced")
    assert (reduced.cls_weight, reduced.distillation_weight) == (0.0, 1.0), "it needs no labels"
    assert (read_recipe("own_classes").epochs, read_recipe("own_classes").fine_tune) == (3.0, None)


def test_settings_have_the_types_of_their_keys_and_come_before_the_file(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        "epochs: 3\nlearning_rate: 1e-3\nselect_before: 1,4,8\ncrops: 8\ndistillation_weight: 1\n"
    )
    settings = [
        "epochs=4",
        "batch_size=8",
        "logits_dir=some/where",
        "distillation_weight=1",
        "budget=per_batch",
        "select_before=",
        "epochs=5",
    ]
    recipe = read_recipe(str(tmp_path / "mine.yaml"), settings)
    assert recipe == Recipe(
        epochs=5.0,
        learning_rate=1e-3,
        batch_size=8,
        crops=8,
        logits_dir=Path("some/where"),
        distillation_weight=1.0,
        budget="per_batch",
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("epoch: 3", "mine.yaml: epoch: not a key of a recipe; did you mean 'epochs'?"),
        ("epochs: many", "mine.yaml: epochs: Input should be a valid number"),
        ("batch_size: 1.5", "mine.yaml: batch_size: Input should be a valid integer"),
        ("crops: true", "mine.yaml: crops: expected a number or a text, not true"),
        ("budget: per_day", "mine.yaml: budget: Input should be 'per_sample' or 'per_batch', not 'per_day'"),
        ("- epochs", "mine.yaml: expected a mapping of recipe keys"),
        ("a: [", "mine.yaml: is not YAML"),
    ],
)
def test_a_file_that_is_not_a_recipe_is_refused_with_file_and_key(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(InputError) as caught:
        read_recipe(str(tmp_path / "mine.yaml"))
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("name", "setting", "said"),
    [
        (None, "epochs", "--set epochs: expected key=value"),
        (None, "speed=3", "--set: speed: not a key of a recipe"),
        (None, "epochs=nan", "epochs must be a finite number"),
        (None, "epochs=0", "epochs must be greater than 0"),
        (None, "crops=-1", "crops must not be negative"),
        (None, "crop_scale=1.5", r"crop_scale must lie in (0, 1]"),
        (None, "seed=-1", "seed must lie in"),
        (None, "cutmix=1.1", "cutmix must lie in [0, 1]"),
        (None, "cutmix=0.5", "no label fits an image that cutmix mixed; set cls_weight to 0"),
        (None, "logits_dir=there", "logits_dir is where logits of crops are kept; say how many"),
        (None, "crops=2", "crops are for distillation"),
        (None, "ema=1", "ema must lie in [0, 1)"),
        (None, "parts=0", "parts must be at least 1"),
        (None, "start_share=2", "start_share must lie in [0, 1]"),
        (
            "nowhere",
            "epochs=1",
            "--recipe nowhere: cannot be read (No such file or directory); give own_classes or paper or reduced",
        ),
    ],
)
def test_values_that_make_no_sense_are_refused(name: str | None, setting: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        read_recipe(name, [setting])
    assert said in str(caught.value)


def test_an_option_of_earlier_versions_is_a_setting_with_a_hint(capsys: pytest.CaptureFixture[str]) -> None:
    old = ["--learning-rate", "1e-3", "--select-before", "1,4,8", "--set", "epochs=2", "--logits-dir", "there"]
    assert parse([*TRAIN, *old]).settings == [
        "learning_rate=1e-3", "select_before=1,4,8", "epochs=2", "logits_dir=there",
    ]  # fmt: skip
    assert main([*TRAIN, *old]) == 2
    hint, error = capsys.readouterr().err.splitlines()
    assert hint.endswith("write --set learning_rate=1e-3 --set select_before=1,4,8 --set logits_dir=there")
    assert "logits_dir is where logits of crops are kept" in error
    everything = [word for key in KEYS for word in (f"--{key.replace('_', '-')}", "1")]
    assert parse([*TRAIN, *everything]).settings == [f"{key}=1" for key in KEYS]


def test_help_shows_what_a_run_needs_and_lists_the_keys(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    words = capsys.readouterr().out
    assert words.count("\n  --") <= 16 and "--weight-decay" not in words and "weight_decay=0.05" in words
