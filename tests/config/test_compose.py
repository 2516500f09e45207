"""Every config.yaml and every knob composes against the installed verl; no key is in two places."""

import dataclasses
import re
from pathlib import Path

import pytest
import yaml
from omegaconf import DictConfig, OmegaConf

from common.preflight.compose import ConfigError, after_options, compose_command
from tests.conftest import ALGORITHMS, ROOT, command_in

HARDWARE = {"sft": "sft", "grpo": "rl", "ppo": "rl", "gspo": "rl", "dpo": "sft"}


@pytest.fixture(autouse=True)
def run_dir(monkeypatch, tmp_path):
    monkeypatch.setenv("RUN_DIR", str(tmp_path))


@pytest.fixture
def command(train, plain_command):
    def build(algorithm, *arguments, **knobs):
        if not arguments and not knobs:
            return plain_command(algorithm)
        done = train(algorithm, *arguments, DRY_RUN=1, **knobs)
        assert done.returncode == 0, done.stderr
        return command_in(done.stdout)

    return build


def dotted(node: dict, prefix: str = "") -> set[str]:
    keys = set()
    for key, value in node.items():
        keys |= dotted(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}"}
    return keys


def yaml_keys(path: Path) -> set[str]:
    """Keys of one file."""
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    return dotted({key: value for key, value in content.items() if key not in ("hydra", "defaults", "knobs")})


def kit_files(algorithm: str) -> list[Path]:
    """The kit's own files that make up an algorithm's config: config.yaml and what it names in its defaults."""
    config = ROOT / algorithm / "config.yaml"
    named = [entry for entry in yaml.safe_load(config.read_text())["defaults"] if isinstance(entry, str)]
    folders = (config.parent, ROOT / "common" / "config" / HARDWARE[algorithm])
    found = [folder / f"{name}.yaml" for name in named for folder in folders]
    # dpo_trainer.yaml is the schema that dpo/trainer.py adds to verl's, not values of the kit
    return [config, *(path for path in found if path.is_file() and path.name != "dpo_trainer.yaml")]


def kit_keys(algorithm: str) -> set[str]:
    return set().union(*(yaml_keys(path) for path in kit_files(algorithm)))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_config_yaml_is_the_algorithm_and_nothing_else(algorithm):
    files = kit_files(algorithm)
    assert ROOT / "common" / "config" / HARDWARE[algorithm] / "kit.yaml" in files
    lines = [line for line in files[0].read_text().splitlines() if line.strip() and not line.startswith("#")]
    settings = [line for line in lines[lines.index("  - _self_") + 1 :]]
    assert len(lines) <= 22 and len(settings) <= 15, settings


@pytest.mark.parametrize("family", sorted(set(HARDWARE.values())))
def test_no_setting_is_in_two_algorithms_of_a_family(family):
    """What two have in common belongs to their kit.yaml, or group.yaml; and what is there is not said again."""
    members = [name for name, of in HARDWARE.items() if of == family]
    shared = [ROOT / "common" / "config" / family / "kit.yaml", *(ROOT / name / "config.yaml" for name in members)]
    assert len(members) > 1
    settings = [values(path) for path in shared]
    for number, one in enumerate(settings):
        for two in settings[number + 1 :]:
            assert not set(one.items()) & set(two.items())


def values(path: Path) -> dict[str, str]:
    """Dotted key -> value as text, of one file."""
    content = OmegaConf.create(yaml.safe_load(path.read_text(encoding="utf-8")))
    plain = OmegaConf.to_container(content, resolve=False)

    def at(key: str) -> str:
        node = plain
        for part in key.split("."):
            node = node[part]
        return str(node)

    return {key: at(key) for key in yaml_keys(path)}


def test_what_makes_each_rl_algorithm(command):
    """Figures of the papers, and of the READMEs, whichever file says them."""
    for algorithm, (loss, estimator) in {
        "grpo": ("token-mean", "grpo"),
        "gspo": ("seq-mean-token-mean", "grpo"),
        "ppo": ("token-mean", "gae"),
    }.items():
        config = compose_command(command(algorithm))
        actor = config.actor_rollout_ref.actor
        assert (actor.loss_agg_mode, config.algorithm.adv_estimator) == (loss, estimator)
        assert (actor.kl_loss_type, actor.entropy_coeff) == ("low_var_kl", 0)
        assert config.algorithm.use_kl_in_reward == (algorithm == "ppo")
        assert actor.strategy == actor.fsdp_config.strategy == "fsdp2"
    assert config.critic.strategy == config.critic.fsdp.strategy == "fsdp2"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_knob_reaches_the_config(command, algorithm):
    built = command(algorithm)
    composed = compose_command(built)
    for override in after_options(built):
        key, value = override.split("=", 1)
        if key in ("+hardware", "+variants"):
            continue
        node = OmegaConf.select(composed, key.lstrip("+"), throw_on_missing=True)
        expected = yaml.safe_load(value)
        if isinstance(node, float):
            expected = float(expected)
        assert (OmegaConf.to_container(node) if OmegaConf.is_config(node) else node) == expected, key


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_no_key_is_in_the_yaml_and_in_the_script(command, algorithm):
    in_script = {o.split("=", 1)[0].lstrip("+") for o in after_options(command(algorithm))}
    files = kit_files(algorithm)
    in_yaml = kit_keys(algorithm)
    said_twice = sum(len(yaml_keys(path)) for path in files) - len(in_yaml)
    assert said_twice == {"gspo": 1}.get(algorithm, 0)  # gspo's loss_agg_mode takes the place of the kit's
    assert in_script & in_yaml == set()
    for device in ("cpu", "cuda"):
        overlay = ROOT / "common" / "config" / HARDWARE[algorithm] / "hardware" / f"{device}.yaml"
        assert yaml_keys(overlay) & (in_script | in_yaml) == set()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_yaml_key_is_in_verls_schema(algorithm, device):
    """Compose verl's own config alone and look each of our keys up in it."""
    base = {"sft": "sft_trainer_engine", "dpo": "sft_trainer_engine"}.get(algorithm, "ppo_trainer")
    from hydra import compose, initialize_config_dir
    from verl.workers.config import RolloutConfig

    from common.preflight.compose import _verl_config_dir

    with initialize_config_dir(config_dir=str(_verl_config_dir()), version_base=None):
        verl = compose(config_name=base)
    in_dataclass = {f".rollout.{field.name}" for field in dataclasses.fields(RolloutConfig)}  # more than in its yaml
    overlay = ROOT / "common" / "config" / HARDWARE[algorithm] / "hardware" / f"{device}.yaml"
    # open dictionaries of verl, whose keys are passed on to Ray and to the sampler
    open_nodes = ("ray_kwargs.ray_init.", "trainer.v1.sampler.sampler_kwargs.")
    for key in kit_keys(algorithm) | yaml_keys(overlay):
        if not key.startswith(open_nodes):
            known = _has(verl, key) or key.endswith(tuple(in_dataclass))
            assert known, f"{key} is not in verl's {base}, nor a field of its RolloutConfig"


VARIANTS = sorted((ROOT / "grpo" / "variants").glob("*.yaml"))
# what verl reads without having it in its schema (experimental/reward_loop/reward_manager/dapo.py:35)
NOT_IN_SCHEMA = ("reward.reward_kwargs.",)


@pytest.mark.parametrize("path", VARIANTS, ids=lambda path: path.stem)
def test_a_variant_composes_and_sets_no_key_of_the_script(command, path):
    built = command("grpo", VARIANT=path.stem)
    composed = compose_command(built)
    overlay = yaml.safe_load(path.read_text(encoding="utf-8"))
    in_script = {o.split("=", 1)[0].lstrip("+") for o in after_options(built)}
    keys = yaml_keys(path)
    assert not keys & in_script
    plain = compose_command(command("grpo"))
    for key in keys:
        node = OmegaConf.select(composed, key)
        expected = OmegaConf.select(OmegaConf.create(overlay), key, throw_on_resolution_failure=False)
        assert node is not None and (expected is None or node == expected), key
        assert key.startswith(NOT_IN_SCHEMA) or _has(plain, key), key
    assert composed.algorithm.adv_estimator == overlay["knobs"]["ADV_ESTIMATOR"]
    assert composed.actor_rollout_ref.actor.policy_loss.loss_mode == overlay["knobs"]["POLICY_LOSS"]
    assert composed.actor_rollout_ref.actor.clip_ratio_high == overlay["knobs"]["CLIP_RATIO_HIGH"]
    assert composed.actor_rollout_ref.actor.use_kl_loss == (overlay["knobs"]["KL_LOSS_COEF"] > 0)


def test_dapo_is_whole(command):
    """Clip-higher, dynamic sampling, token-level loss, soft overlong penalty, no KL (arXiv 2503.14476)."""
    composed = compose_command(command("grpo", VARIANT="dapo", MAX_RESPONSE_LENGTH=40))
    actor, algorithm = composed.actor_rollout_ref.actor, composed.algorithm
    assert (actor.clip_ratio_low, actor.clip_ratio_high, actor.loss_agg_mode) == (0.2, 0.28, "token-mean")
    assert algorithm.filter_groups.enable and algorithm.filter_groups.metric == "acc"
    assert not actor.use_kl_loss and not algorithm.use_kl_in_reward
    assert composed.reward.reward_manager.name == "dapo"
    overlong = composed.reward.reward_kwargs
    assert (overlong.max_resp_len, overlong.overlong_buffer_cfg.len, overlong.overlong_buffer_cfg.enable) == (
        40,
        8,
        True,
    )


def test_mini_batch_of_an_on_policy_variant_is_the_batch(command):
    for variant in ("gpg", "opo"):
        built = command("grpo", VARIANT=variant, BATCH_SIZE=64)
        assert "actor_rollout_ref.actor.ppo_mini_batch_size=64" in built
    assert "actor_rollout_ref.actor.ppo_mini_batch_size=16" in command("grpo", BATCH_SIZE=64)


def _has(config: DictConfig, key: str) -> bool:
    node = config
    for part in key.split("."):
        if not isinstance(node, DictConfig) or part not in list(node.keys()):  # `in` is False for ???
            return False
        node = node._get_node(part)
    return True


def test_the_schema_test_notices_a_wrong_key():
    config = OmegaConf.create({"actor": {"optim": {"lr": 1}}})
    assert _has(config, "actor.optim.lr")
    assert not _has(config, "actor.optim.learning_rate") and not _has(config, "actor.optim.lr.x")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("actor_rollout_ref.rollout.nn=3", "did you mean actor_rollout_ref.rollout.n"),
        ("actor_rollout_ref.actor.ppo_minibatch_size=3", "did you mean actor_rollout_ref.actor.ppo_mini_batch_size"),
        ("nonsense.key=1", "nonsense"),
        ("trainer.save_freq=[1", "trainer.save_freq"),
    ],
)
def test_a_wrong_key_names_the_nearest(command, override, words):
    good = command("grpo")
    with pytest.raises(ConfigError, match=re.escape(words)):
        compose_command([*good, override])


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_both_devices_compose_with_the_same_algorithm(command, algorithm):
    """The same script, with +hardware=cuda in place of cpu, differs in nothing that belongs to the algorithm."""
    cpu = command(algorithm)
    cuda = ["+hardware=cuda" if part == "+hardware=cpu" else part for part in cpu]
    one, two = (OmegaConf.to_container(compose_command(c), resolve=False) for c in (cpu, cuda))
    for key in ("algorithm", "optim"):
        assert one.get(key) == two.get(key)
    if algorithm not in ("sft", "dpo"):
        ignored = {"use_torch_compile", "fsdp_config"}
        actor = [{k: v for k, v in c["actor_rollout_ref"]["actor"].items() if k not in ignored} for c in (one, two)]
        assert actor[0] == actor[1]


@pytest.mark.parametrize(
    ("arguments", "knobs", "words"),
    [
        (["trainer.project_name=${nope}"], {}, "'nope' not found"),
        (["actor_rollout_ref.rollout.max_num_batched_tokens=many"], {}, "must be a whole number"),
        ([], {"MAX_PROMPT_LENGTH": "long"}, "MAX_PROMPT_LENGTH=long: must be a whole number"),
    ],
)
def test_what_cannot_be_read_is_an_error_and_no_traceback(train, arguments, knobs, words):
    done = train("grpo", *arguments, DRY_RUN=1, PREFLIGHT="fast", **knobs)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert words in " ".join(done.stderr.split())
