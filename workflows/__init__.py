"""Workflows: they only wire tasks."""

from configs.load import check_config_argument

check_config_argument()
