"""The container images, one per role, and their locks. May import flytekit, never torch."""
