"""What a pod gets: its image, resources, secrets and folders to write in. May import flytekit, never torch."""

# importing this package registers Flyte's type for configs and filters flytekit's log
from tasks.runtime import config_type as config_type
from tasks.runtime import quiet_logs as quiet_logs
