"""What a pod gets beside its image: resources, secrets, uploads, elastic processes, live Decks. The one room of `tasks/`,
besides the `task.py` files, that imports flytekit.

Importing it registers Flyte's type for configs and filters flytekit's log; every task imports some module of it.
"""

from tasks.runtime import config_type as config_type
from tasks.runtime import quiet_logs as quiet_logs
