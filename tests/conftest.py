"""Settings of every layer of tests."""

import hypothesis

# A loaded machine is slow and not wrong: no example is judged by the clock, nor is the making of examples.
hypothesis.settings.register_profile("untimed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("untimed")
