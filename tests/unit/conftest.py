"""How hard hypothesis tries: enough for each run of the gate, more by HYPOTHESIS_PROFILE=long."""

import os

from hypothesis import HealthCheck, settings

# No test asserts a time: a busy machine fails none.
settings.register_profile("base", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("gate", settings.get_profile("base"), max_examples=30)
settings.register_profile("long", settings.get_profile("base"), max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "gate"))
