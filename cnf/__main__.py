"""``python -m cnf``: first the node's own part, then the rest, whose modules alone take a second to load."""

import logging
import sys

from cnf.agent import node, settings
from cnf.attach import errors as attach_errors
from cnf.netlink import errors as netlink_errors
from cnf.vip import errors as vip_errors
from fleetboard.runtime import environment, logs, process

log = logging.getLogger(__name__)


def main() -> int:
    """Run until stopped; return the exit status."""
    logs.configure("cnf")
    # First of all: the kernel drops signals that a container's process 1 has no handler for.
    with process.Crew(grace_s=settings.GRACE_S) as crew:
        try:
            options = settings.read()
            logs.configure("cnf", options.log_level)
            first = node.LocalNode(options)
            first.restore()
        except (
            environment.SettingRefusedError,
            attach_errors.AttachError,
            netlink_errors.NetlinkError,
            vip_errors.VipError,
            OSError,  # a state folder that can't be written
        ) as err:
            log.error("%s", err)  # noqa: TRY400 - the sentence says all
            return 1
        crew.start(first.threads())
        # Not above: pods are served while this loads.
        from cnf.agent import agent

        return agent.run(options, first, crew)


if __name__ == "__main__":
    # CNI calls take turns with threads that decode what the API says: the default of 5 ms is longer than a whole ADD.
    sys.setswitchinterval(0.0005)
    sys.exit(main())
