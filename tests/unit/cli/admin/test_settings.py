"""What the admin process is started with."""

import json
from dataclasses import asdict

from voicerelay.cli.admin.settings import AdminSettings


def test_settings_survive_the_command_line() -> None:
    settings = AdminSettings("/run/x", "::1", 9090, 5, 6, "debug")

    assert AdminSettings.from_json(json.dumps(asdict(settings))) == settings
