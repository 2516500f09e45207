"""Facts that several rooms use are written in one place."""

from types import SimpleNamespace

import common.reward_functions as face
from common.hf_engine.end_tokens import end_ids
from common.rewards.compose import FUNCTIONS, NEEDS_NO_TRUTH


def test_every_reward_of_the_table_is_on_the_face_under_its_name():
    assert set(face.__all__) == set(FUNCTIONS)
    assert all(getattr(face, name) is reward and reward.__name__ == name for name, reward in FUNCTIONS.items())


def test_only_rewards_of_form_do_without_a_ground_truth():
    assert NEEDS_NO_TRUTH == {"format_match", "soft_overlong", "linear_length", "repetition", "language"}


def test_an_answer_ends_at_the_tokens_of_the_config_and_of_the_tokenizer():
    assert end_ids(SimpleNamespace(eos_token_id=[1, 2]), SimpleNamespace(eos_token_id=3)) == {1, 2, 3}
    assert end_ids(SimpleNamespace(eos_token_id=None), SimpleNamespace(eos_token_id=3)) == {3}
