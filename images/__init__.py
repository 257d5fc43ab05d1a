"""What a pod is given: image, resources, secrets, and where it may write. May import flytekit, never torch."""
