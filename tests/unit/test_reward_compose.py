"""Rewards made of rewards: the sum is the sum, the route is the route, verl can load all of them."""

import pytest

from common import reward_functions
from common.reward_functions import by_data_source, combine
from common.rewards.compose import REWARDS, ROUTES
from gspo.reward_func import compute_score

WEIGHTS = {"gsm8k": 1.0, "soft_overlong": 0.2}
PARAMS = {"soft_overlong": {"max_length": 100, "buffer": 20}}


def test_combine_is_the_weighted_sum():
    """Right (1.0) and 90 characters long (-0.5): 1.0 x 1.0 + 0.2 x -0.5 = 0.9."""
    answer = "x" * 82 + " #### 18"
    assert len(answer) == 90
    result = combine("any", answer, "18", weights=WEIGHTS, params=PARAMS)
    assert result == {"score": pytest.approx(0.9), "gsm8k": 1.0, "soft_overlong": -0.5, "acc": 1.0}
    result = combine("any", answer, "19", weights=WEIGHTS, params=PARAMS)
    assert result == {"score": pytest.approx(-0.1), "gsm8k": 0.0, "soft_overlong": -0.5, "acc": 0.0}


def test_combine_takes_what_hydra_hands_over():
    from omegaconf import OmegaConf

    kwargs = dict(OmegaConf.create({"weights": WEIGHTS, "params": PARAMS}))  # as verl's get_custom_reward_fn does
    assert combine("any", "#### 18", "18", **kwargs)["score"] == 1.0


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({}, "weights=None"),
        ({"weights": {"gsm9k": 1.0}}, "'gsm9k' is not a reward"),
        ({"weights": {"gsm8k": "much"}}, "gsm8k='much'"),
        ({"weights": WEIGHTS, "params": {"math": {}}}, "params: math"),
        ({"weights": WEIGHTS, "params": {"soft_overlong": {"max_lenght": 1}}}, "max_lenght=1"),
        ({"weights": WEIGHTS, "max_length": 1}, "max_length=1"),
    ],
)
def test_combine_names_what_is_wrong(parameters, words):
    with pytest.raises(ValueError, match=words):
        combine("any", "#### 18", "18", **parameters)


@pytest.mark.parametrize(
    ("source", "answer", "truth"),
    [
        ("openai/gsm8k", "#### 18", "18"),
        ("DigitalLearningGmbH/MATH-lighteval", r"\boxed{18}", "18"),
        ("HuggingFaceH4/MATH-500", r"\boxed{18}", "18"),
        ("aime2024", r"\boxed{18}", "18"),
        ("cais/mmlu", "The answer is (B).", "B"),
        ("searchR1_nq", "<answer>The Paris</answer>", ["paris"]),
    ],
)
def test_each_source_has_its_reward_and_all_the_same_keys(source, answer, truth):
    assert by_data_source(source, answer, truth) == {"score": 1.0, "acc": 1.0, "format": 1.0}
    assert by_data_source(source, "", truth) == {"score": 0.0, "acc": 0.0, "format": 0.0}


def test_a_route_of_ones_own_comes_first():
    assert by_data_source("my/set", "#### 18", "18", routes={"my/*": "gsm8k"})["score"] == 1.0
    assert by_data_source("openai/gsm8k", "18", "18", routes={"openai/gsm8k": "exact_match"})["score"] == 1.0
    result = by_data_source("my/set", "18", "18", routes={"my/*": "gsm8k"}, params={"gsm8k": {"flexible": True}})
    assert result["score"] == 1.0
    shaped = by_data_source("my/set", "x", "18", routes={"my/*": "linear_length"})
    assert set(shaped) == {"score", "acc", "format"}


def test_unknown_source_names_the_known_ones():
    with pytest.raises(ValueError, match=r"data_source='train'.*openai/gsm8k.*routes="):
        by_data_source("train", "18", "18")
    with pytest.raises(ValueError, match="data_source=None"):
        by_data_source(None, "18", "18")


def test_every_route_leads_to_a_reward():
    assert set(ROUTES.values()) <= set(REWARDS)


# Its module names the source, or it is our own.
NO_SOURCE = {"combine", "exact_match", "linear_length", "code", "math", "gsm8k", "multiple_choice"}


def test_the_face_has_every_reward_and_verl_loads_it():
    from verl.utils.import_utils import load_extern_object

    assert {*REWARDS, "combine", "by_data_source"} == set(reward_functions.__all__)
    for name in reward_functions.__all__:
        loaded = load_extern_object(module_path=reward_functions.__file__, object_name=name)
        assert callable(loaded) and ("Source: " in loaded.__doc__ or name in NO_SOURCE), name


def test_gspo_example():
    """1.0 correct + 0.1 format + 0.1 x length; 1,750 characters are half way from 1,500 to 2,000."""
    assert compute_score("x", "#### 18", "18") == {"score": 1.1, "acc": 1.0, "format": 1.0, "length": 0.0}
    assert compute_score("x", "#### 19", "18")["score"] == pytest.approx(0.1)
    assert compute_score("x", "18", "18")["score"] == 0.0
    halfway = compute_score("x", "x" * 1742 + " #### 18", "18")
    assert halfway == {"score": pytest.approx(1.05), "acc": 1.0, "format": 1.0, "length": -0.5}
    worst_right = compute_score("x", "x" * 5000 + " #### 18", "18")["score"]
    assert worst_right > compute_score("x", "#### 19", "18")["score"]
    assert compute_score("x", None, "18") == {"score": 0.0, "acc": 0.0, "format": 0.0, "length": 0.0}
