"""What a pod gets beside its image: resources, secrets, uploads, elastic processes, live Decks. Of the rooms in tasks/,
only this one imports flytekit outside of a `task.py`.

Importing it registers Flyte's type for configs and filters flytekit's log; every task imports some module of it.
"""

from tasks.runtime import config_type as config_type
from tasks.runtime import quiet_logs as quiet_logs
