"""How hard hypothesis tries: enough for each run of the gate, more by HYPOTHESIS_PROFILE=long."""

import os

from hypothesis import settings

settings.register_profile("gate", max_examples=40)
settings.register_profile("long", max_examples=1000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "gate"))
