"""The table of settings: it agrees with the configuration, and with itself."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from voicerelay.cli.config import Config
from voicerelay.cli.settings import BY_NAME, SETTINGS, Setting

OTHERWISE = {"http": {"http_host", "http_port"}, "cors-origin": {"cors_origins"}}


def test_settings_and_configuration_have_the_same_names() -> None:
    fields = {field.name for field in dataclasses.fields(Config)}

    meant = [OTHERWISE.get(setting.name, {setting.field}) for setting in SETTINGS]

    assert set().union(*meant) == fields
    assert len(BY_NAME) == len(SETTINGS)


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_a_default_is_one_that_may_be_given(setting: Setting) -> None:
    values: list[Any] = [value for value in (setting.default, setting.example) if value is not None]

    assert values
    for value in values:
        assert not setting.bounds or not setting.out_of_bounds(value)
        assert not setting.choices or value in setting.choices
        assert isinstance(value, str if setting.kind is Path else setting.kind)
    assert setting.help.endswith(".")


def test_names_follow_from_one() -> None:
    setting = BY_NAME["max-sessions"]

    assert setting.option == "--max-sessions"
    assert (setting.field, setting.variable) == ("max_sessions", "VOICERELAY_MAX_SESSIONS")
    assert BY_NAME["app"].option == "APP"
