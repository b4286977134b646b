"""A training run: its log, and its product, which loads, acts and aligns."""

import dataclasses
import json
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
import torch

from vla_align_ros.bench.collect import collect_experience
from vla_align_ros.bench.evaluate import finished
from vla_align_ros.bench.reach2.bench import BENCH
from vla_align_ros.bench.reach2.embodiment import unshifted
from vla_align_ros.bench.reach2.source import Reach2Source, open_sources
from vla_align_ros.experience.builder import without_held
from vla_align_ros.experience.source import Source, Sources
from vla_align_ros.policy import Policy, load_policy
from vla_align_ros.training.export import export
from vla_align_ros.training.feed import make_shard
from vla_align_ros.training.gathered import Gathered
from vla_align_ros.training.objective import AlignmentObjective
from vla_align_ros.training.recipe import Recipe, RecipeError, TrainingError, VisionRecipe, load_recipe
from vla_align_ros.training.train import Trainee, train
from vla_align_ros.types import Experience

pytestmark = pytest.mark.slow

RECIPE = Path(__file__).parents[2] / "config" / "train" / "tiny.yaml"
CPU = torch.device("cpu")


class AtRandom(Reach2Source):
    """Arms that move freely whatever an untrained policy says; as much of their experience as a limit needs."""

    def experiences(
        self,
        robots: Sequence[int],
        policy: Policy,
        tokens: torch.Tensor,
        seed: int,
        count: int,
        exploration_fraction: float = 1.0,
    ) -> list[list[Experience]]:
        arms = [self.arms[robot] for robot in robots]
        made = collect_experience(policy, BENCH, arms, tokens, min(count, 56), seed, 1.0)
        return [without_held(mine, policy.config.robot) for mine in made]


class Held(Reach2Source):
    """Arms that never move freely."""

    def experiences(
        self,
        robots: Sequence[int],
        policy: Policy,
        tokens: torch.Tensor,
        seed: int,
        count: int,
        exploration_fraction: float = 0.5,
    ) -> list[list[Experience]]:
        return [[] for _ in robots]


def of_arms(kind: type[Reach2Source], source: Source) -> Reach2Source:
    assert isinstance(source, Reach2Source)
    return kind(source.arms, source.name, source.labels)


SOURCES = Sources(*(of_arms(AtRandom, source) for source in open_sources(0, robots=4, validation_robots=1)))


@pytest.fixture(scope="module")
def small() -> Recipe:
    return dataclasses.replace(
        load_recipe(RECIPE),
        vision=VisionRecipe(steps=3, batch_size=8, frames=64),
        samples=6 * 8,
        batch_size=8,
        shard_samples=16,
        bank_robots=3,
    )


@pytest.fixture(scope="module")
def trained(small: Recipe, tmp_path_factory: pytest.TempPathFactory) -> tuple[Trainee, Path]:
    """One run, and its folder."""
    run = tmp_path_factory.mktemp("run")
    return train(RECIPE, small, SOURCES, run, lambda line: None, CPU), run


@pytest.fixture(scope="module")
def exported(small: Recipe, trained: tuple[Trainee, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The zoo folder that came of it."""
    folder = tmp_path_factory.mktemp("zoo") / "model"
    export(trained[0], small, trained[1], folder, lambda line: None)
    return folder


def test_every_step_is_logged_with_losses_norms_and_rates(trained: tuple[Trainee, Path]) -> None:
    steps = [item for item in map(json.loads, (trained[1] / "log.jsonl").open()) if item["stage"] == "policy"]
    assert [item["step"] for item in steps] == list(range(6))
    wanted = {"action_loss", "perception_loss", "dynamics_loss", "inverse_dynamics_loss", "total_loss"}
    assert wanted | {"e_token_norm", "e_token_grad_norm", "e_token_learning_rate"} <= steps[0].keys()


def test_the_features_eye_is_made_without_labels_where_the_recipe_says_so(small: Recipe, tmp_path: Path) -> None:
    without = dataclasses.replace(small, vision=dataclasses.replace(small.vision, self_supervised=True))
    train(RECIPE, without, SOURCES, tmp_path, lambda line: None, CPU)
    logged = [line for line in map(json.loads, (tmp_path / "log.jsonl").open()) if line["stage"] == "features"]
    assert "distillation_loss" in logged[0]
    assert "presence_loss" not in logged[0]


def test_what_is_exported_loads_and_acts(trained: tuple[Trainee, Path], exported: Path) -> None:
    policy = load_policy(exported, "cpu")
    assert policy.token is not None
    assert torch.equal(policy.token, trained[0].model.peft_prefix_token.detach() + policy.alignment.bank[0])
    assert torch.equal(policy.alignment.bank, trained[0].bank.offsets().detach()[:3])
    distances = finished(policy, BENCH, unshifted(2), policy.token.expand(2, -1, -1), seed=1).distance_m()
    assert np.isfinite(distances).all()
    assert {limit.robots for limit in policy.alignment.stats.limits.values()} == {1}


def test_robots_that_never_move_freely_end_an_export_with_a_sentence(
    small: Recipe, trained: tuple[Trainee, Path], tmp_path: Path
) -> None:
    never = of_arms(Held, SOURCES.training)
    trainee = dataclasses.replace(trained[0], sources=SOURCES._replace(validation=never))
    with pytest.raises(TrainingError, match="none of 4 validation robots moved freely often enough"):
        export(trainee, small, trained[1], tmp_path / "target", lambda line: None)
    assert not (tmp_path / "target").exists()


def test_the_alignment_expert_learns_at_last_from_what_robots_do_with_any_token(
    trained: tuple[Trainee, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    given, asked = list[torch.Tensor](), list[int]()

    def experiences(
        self: Reach2Source,
        robots: Sequence[int],
        policy: Policy,
        tokens: torch.Tensor,
        seed: int,
        count: int,
        exploration_fraction: float = 0.5,
    ) -> list[list[Experience]]:
        given.extend(tokens)
        asked.extend(robots)
        return of_source(self, robots, policy, tokens, seed, count, exploration_fraction)

    of_source = AtRandom.experiences
    monkeypatch.setattr(AtRandom, "experiences", experiences)
    gathered = Gathered(trained[0], seed=3)
    bank, e_0 = trained[0].bank.offsets().detach(), trained[0].model.peft_prefix_token.detach()
    shard = gathered.shard(5, 400)
    assert len(shard.observations) == len(shard.row) == 400
    runs = [robot for robot, _ in groupby(shard.row.tolist())]
    assert runs == [robot for robot, _ in groupby(asked)][: len(runs)]
    of_robot = [
        next(row for row in range(len(bank)) if torch.equal(e_0 + bank[row], token)) for token in given
    ]  # each is one of the bank's
    assert {own == row for own, row in zip(asked, of_robot, strict=True)} == {True, False}
    assert torch.equal(gathered.shard(5, 400).experience.features, shard.experience.features)


def test_tasks_count_alike_at_last_whatever_they_counted_beside_the_actions(
    small: Recipe, trained: tuple[Trainee, Path]
) -> None:
    trainee = trained[0]
    batch = make_shard(trainee, small, 0, 8).batch(torch.arange(8))

    def asked(**lambdas: float) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        recipe = dataclasses.replace(small, **lambdas)
        loss, parts = AlignmentObjective(trainee.model, trainee.bank, recipe)(batch, 1)
        return loss.detach(), parts

    loss, parts = asked(lambda_perc=0.1, lambda_dyn=3.0)
    assert torch.allclose(loss, sum(parts.values()))
    assert asked(lambda_dyn=0.0)[1].keys() == {"perception_loss", "inverse_dynamics_loss"}


def test_robots_without_experience_end_the_last_stage_with_a_sentence(trained: tuple[Trainee, Path]) -> None:
    never = dataclasses.replace(trained[0], sources=SOURCES._replace(training=of_arms(Held, SOURCES.training)))
    with pytest.raises(TrainingError, match="none of 4 robots has experience that the alignment expert"):
        Gathered(never, seed=0).shard(0, 8)


@pytest.mark.parametrize(
    ("text", "named"), [("model: x\nsample: 3\n", "sample"), ("model: x\nseed: often\n", "seed"), ("- 1\n", "recipe")]
)
def test_a_wrong_recipe_is_refused_by_name(tmp_path: Path, text: str, named: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=named):
        load_recipe(path)
