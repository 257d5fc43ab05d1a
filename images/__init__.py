"""What a pod is given: image, resources, secrets, and where it may write. May import flytekit, never torch."""

# a run's config is of this type wherever a task or workflow is loaded
from tasks.runtime import config_type as config_type
from tasks.runtime import quiet_logs as quiet_logs
