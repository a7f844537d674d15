"""What happens on hosts: operations from a JSON object to a JSON object, and the one way to call them.

    calls = hosts.reach(estate_host)
    calls.call("machine.status", {"machine": spec})

`reach` is imported from reaching.py, the operations are listed in operations.py.
"""

from secondsite.orchestration.hosts.reaching import Calls, reach

__all__ = ["Calls", "reach"]
