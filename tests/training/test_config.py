# SPDX-License-Identifier: Apache-2.0
"""Recipes: every shipped one is valid, and whatever is not is refused by name."""

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusers_show1.learning.options import ConfigError
from diffusers_show1.training.catalogue import recipes, tasks
from diffusers_show1.training.config import (
    build,
    differences,
    load_config,
    parse_yaml,
    read_recipe,
    to_dict,
    to_yaml,
)

from .small import recipe, write_recipe


STAGES = ("base", "interpolation", "superres", "refine")
SHIPPED = sorted(recipes())


def test_a_recipe_of_every_size_for_every_stage():
    assert {f"{size}-{stage}" for size in ("tiny", "show1") for stage in STAGES} <= set(SHIPPED)
    assert {read_recipe(path)["stage"] for path in recipes().values()} == set(tasks())


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_recipes_are_valid_and_survive_being_written(name):
    config = load_config(read_recipe(recipes()[name])["stage"], name)
    assert build(parse_yaml(to_yaml(config), "again")) == config
    assert differences(config, config) == []


def test_whoever_bends_outlines_says_where_guidance_ends():
    """What the network learns pays only with guidance off at weak noise."""
    names = [
        name for name in SHIPPED if any(turn.get("bend") for turn in read_recipe(recipes()[name]).get("turns", []))
    ]
    assert names == ["tiny-base-straight", "tiny-interpolation-straight", "tiny-superres-straight"]
    assert all("guidance_interval" in recipes()[name].read_text() for name in names)
    assert load_config("base", names[0]).validation.options["guidance_interval"] == [0.0, 0.5]


def test_published_numbers_of_the_paper():
    base, refine = (load_config(stage, f"show1-{stage}") for stage in ("base", "refine"))
    assert (base.data.frames, base.data.height, base.data.width) == (8, 40, 64)
    assert base.run.steps == 100_000
    assert (refine.data.height, refine.data.width, refine.objective.max_timestep) == (320, 576, 900)


def test_numbers_as_people_write_them():
    config = build(recipe(optimizer={"learning_rate": "1e-4"}, data={"fps": 8}))  # YAML reads 1e-4 as a text
    assert config.optimizer.learning_rate == 1e-4
    assert config.data.fps == 8.0


def test_overrides(tmp_path):
    path = write_recipe(tmp_path)
    config = load_config(
        "base", path, ["run.steps=7", "model.config.block_out_channels=[64]", "validation.options.eta=0.5"]
    )
    assert config.run.steps == 7
    assert config.model.config["block_out_channels"] == [64]
    assert config.model.config["norm_num_groups"] == 4
    assert config.validation.options == {"eta": 0.5}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("run.steps=0", "`run.steps` must be a whole number of at least 1, got 0"),
        ("run.steps=2.5", "`run.steps` must be a whole number of at least 1, got 2.5"),
        ("run.steps=true", "`run.steps` must be a whole number of at least 1, got True"),
        ("run.stepz=3", "`run.stepz` must be one of the keys of run: steps, batch_size"),
        ("rnu.steps=3", "`rnu` must be one of the keys of the recipe: stage, data"),
        ("run=3", "`run` must be a section with keys steps"),
        ("run.precision=half", "`run.precision` must be one of fp32, bf16, fp16, got 'half'"),
        ("run.accumulation=3", "`run.accumulation` must be a divisor of run.batch_size (4), got 3"),
        ("run.trackers=tensorboard", "`run.trackers` must be a list, got 'tensorboard'"),
        ("run.trackers=[mlflow]", "`run.trackers[0]` must be one of tensorboard, wandb, got 'mlflow'"),
        ("optimizer.learning_rate=.nan", "`optimizer.learning_rate` must be a number above 0, got nan"),
        ("optimizer.learning_rate=0", "`optimizer.learning_rate` must be a number above 0, got 0"),
        ("objective.image_share=1", "`objective.image_share` must be a number of at least 0 and at most 0.9, got 1"),
        ("objective.dropout=1", "`objective.dropout` must be true or false, got 1"),
        ("objective.max_augmentation=1", "`objective.max_augmentation` must be one of the keys of objective"),
        ("data.kind=files", "`data.path` must be given, unless data.kind is world, got None"),
        ("data.path=clips", "`data.path` must be null for world, got 'clips'"),
        ("model.start=previous", "`model.path` must be given for model.start previous, got None"),
        ("model.config={}", "`model.config` must be the network's config"),
        ("model.components=null", "`model.components` must be a text, got None"),
        (
            "stage=lora",
            "`stage` must be one of base, interpolation, superres, refine, image, autoencoder, text, got 'lora'",
        ),
        ("stage=refine", "`STAGE` must be refine"),
        ("steps", "`--set` must be key=value, such as run.steps=100, got 'steps'"),
        ("run..steps=1", "`--set` must be key=value"),
        ("stage.x=1", "`--set` must name a key of a recipe"),
        ("run.steps=[", "`--set run.steps` must be YAML"),
    ],
)
def test_one_error_that_names_the_key(tmp_path, override, message):
    with pytest.raises(ConfigError) as caught:
        load_config("base", write_recipe(tmp_path), [override])
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_what_a_stage_cannot_do():
    for stage, sections, key in [
        ("interpolation", {}, "data.frames"),  # the small recipe has two
        ("interpolation", {"data": {"frames": 5}, "objective": {"image_share": 0.5}}, "objective.image_share"),
        ("superres", {"data": {"height": 18}}, "objective.factor"),
        ("refine", {"validation": {"prompts": ["a red circle"]}}, "validation.prompts"),
    ]:
        with pytest.raises(ConfigError, match=key):
            build(recipe(stage, **sections))


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        (3, "`turns` must be a list, got 3"),
        ([3], "`turns[0]` must be a section with keys steps, times, stills, crop, bend, objective, got 3"),
        ([{"bent": 1}], "`turns[0].bent` must be one of the keys of turns[0]: steps"),
        ([{}, {"bend": -1}], "`turns[1].bend` must be a number of at least 0 and at most 4, got -1"),
        ([{"objective": {"power": 1}}], "`turns[0].objective.power` must be one of the keys of turns[0].objective: "),
        (
            [{"objective": {"max_timestep": 0}}],
            "`turns[0].objective.max_timestep` must be a whole number of at least 1",
        ),
        ([{"objective": 3}], "`turns[0].objective` must be a mapping of names, got 3"),
        ([{"crop": [8, 8]}], "`turns[0].crop` must be empty for base, got [8, 8]"),
        ([{"crop": [8]}], "`turns[0].crop` must be height and width of a part of the frames, got (8,)"),
    ],
)
def test_turns_are_read_as_strictly(turns, message):
    with pytest.raises(ConfigError) as caught:
        build(recipe() | {"turns": turns})
    assert str(caught.value).startswith(message)


def test_batches_take_turns():
    turns = [{"steps": 2}, {"stills": True, "times": 3, "objective": {"timestep_power": "1e-1"}}]
    config = build(recipe() | {"turns": turns})
    assert [config.turn(step).times for step in range(7)] == [1, 1, 3, 1, 1, 3, 1]
    assert config.objective_of(config.turn(2)).timestep_power == 0.1
    assert config.objective_of(config.turn(3)) is config.objective
    with pytest.raises(ConfigError, match="`objective.image_share` must be 0 where turns are given"):
        build(recipe(objective={"image_share": 0.5}) | {"turns": turns})
    with pytest.raises(ConfigError, match="`turns` must be none for data.kind stream"):
        build(recipe(data={"kind": "stream", "path": "clips"}) | {"turns": turns})
    with pytest.raises(ConfigError, match=r"`turns\[0\].bend` must be 0 for data.kind files"):
        build(recipe(data={"kind": "files", "path": "clips"}) | {"turns": [{"bend": 0.5}]})


def test_a_recipe_may_name_its_family():
    assert build(recipe() | {"family": "show1"}).family == "show1"
    with pytest.raises(ConfigError, match="`family` must be one of show1, got 'show2'"):
        build(recipe() | {"family": "show2"})


def test_keys_that_are_missing_or_stand_twice(tmp_path):
    values = recipe()
    del values["run"]["steps"]
    with pytest.raises(ConfigError, match="`run.steps` must be given"):
        build(values)
    path = tmp_path / "twice.yaml"
    path.write_text("stage: base\nstage: refine\n")
    with pytest.raises(ConfigError, match="'stage' stands twice"):
        load_config("base", path)


def test_a_recipe_that_is_nowhere():
    with pytest.raises(ConfigError, match="one of show1-base, .*, tiny-superres, .*, got 'tiny-video'"):
        load_config("base", "tiny-video")


def test_differences_tell_what_changes_the_weights():
    old = build(recipe())
    assert differences(old, build(recipe(run={"keep": 5, "accumulation": 2, "log_every": 7}))) == []
    changed = differences(old, build(recipe(run={"steps": 9}, model={"config": {"in_channels": 7}})))
    assert "run.steps: 4 -> 9" in changed
    assert "model.config.in_channels: 3 -> 7" in changed
    assert "model.config.act_fn: 'gelu' -> None" in changed


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_value_at_any_key_is_taken_or_refused_by_name(data):
    whole = to_dict(build(recipe()))
    section = data.draw(st.sampled_from([key for key, held in whole.items() if isinstance(held, dict)]))
    key = data.draw(st.sampled_from(sorted(whole[section])))
    value = data.draw(values)
    config, told = None, "`"
    try:
        config = build({**whole, section: {**whole[section], key: value}})
    except ConfigError as error:
        told = str(error)
    assert told.startswith("`")
    assert config is None or build(to_dict(config)) == config


@settings(max_examples=50, deadline=None)
@given(text=st.text(max_size=60) | values.map(lambda value: yaml.safe_dump(value, allow_unicode=True)))
def test_any_text_is_read_or_refused(text):
    with pytest.raises(ConfigError):
        build(parse_yaml(text, "text"))
