"""``python -m cnf``: starts the node's own part, and then the rest, whose modules alone take a second to load."""

import logging
import sys

from cnf.agent import node
from cnf.agent import settings as agent_settings
from cnf.attach import errors as attach_errors
from cnf.netlink import errors as netlink_errors
from cnf.vip import errors as vip_errors
from fleetboard.runtime import environment, logs, process

log = logging.getLogger(__name__)


def main() -> int:
    """Run until stopped; return the exit status."""
    logs.configure("cnf")
    # Before anything else: the kernel drops signals that a container's process 1 has no handler for.
    with process.Crew(grace_s=agent_settings.GRACE_S) as crew:
        try:
            settings = agent_settings.read()
            logs.configure("cnf", settings.log_level)
            local_node = node.LocalNode(settings)
            local_node.restore()
        except (
            environment.SettingRefusedError,
            attach_errors.AttachError,
            netlink_errors.NetlinkError,
            vip_errors.VipError,
            OSError,  # a state folder that can't be written
        ) as err:
            log.error("%s", err)
            return 1
        crew.start(local_node.threads())
        # Imported here: pods are served while this loads.
        from cnf.agent import agent

        return agent.run(settings, local_node, crew)


if __name__ == "__main__":
    # CNI calls take turns with threads that decode the API's objects: the default of 5 ms is longer than a whole ADD.
    sys.setswitchinterval(0.0005)
    sys.exit(main())
