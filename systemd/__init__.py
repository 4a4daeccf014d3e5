"""The units as templates; `voicerelay systemd` fills them for a configuration."""

from pathlib import Path
from string import Template

FOLDER = Path(__file__).parent


def template(name: str) -> Template:
    """One of the files beside this one, with ${…} to be filled."""
    return Template((FOLDER / name).read_text())
