"""Texts of knobs arrive in verl's config as they are, whatever Hydra and OmegaConf would make of them."""

import os

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from common.preflight.resolved import hydra_list, hydra_quote

HARD = st.text(st.sampled_from("ab \\'\"${}[]=,:#\n\t中0e.-"), min_size=1)


def arrives(override: str):
    """The value of an override in a composed config, interpolations resolved."""
    value = OverridesParser.create().parse_overrides([f"key={override}"])[0].value()
    return OmegaConf.to_container(OmegaConf.create({"key": value}), resolve=True)["key"]


@given(HARD)
def test_any_text_arrives_as_it_is(text):
    assert arrives(hydra_quote(text)) == text


@pytest.mark.parametrize(
    "text",
    ["${oc.env:SECRET_KEY}", "\\${oc.env:SECRET_KEY}", "a'${oc.env:SECRET_KEY}", "null", "True", "1", "1e-3", "1_000"]
    + ["inf", "-nan", "C:\\models\\x", "models\\", "it's", "${"],
)
def test_texts_that_mean_something_else_to_hydra(text, monkeypatch):
    monkeypatch.setenv("SECRET_KEY", "secret")
    assert os.environ["SECRET_KEY"] == "secret"  # what an interpolation would bring in
    assert arrives(hydra_quote(text)) == text
    assert arrives(hydra_list([text, "b"])) == [text, "b"]
