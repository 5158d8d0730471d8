"""Settings of every layer of tests."""

import os

import hypothesis

# A loaded machine is slow, not wrong: neither an example nor its generation has a deadline.
# CI judges each change by the same examples, as by hypothesis' own profile for it; elsewhere new ones are tried.
hypothesis.settings.register_profile(
    "untimed",
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
    derandomize=os.environ.get("CI") == "true",
)
hypothesis.settings.load_profile("untimed")
