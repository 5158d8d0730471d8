"""Settings of every layer of tests."""

import hypothesis

# A loaded machine is slow and not wrong: no example is judged by the clock.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")
