"""Workflows: wiring only."""

from configs.load import check_config_argument

check_config_argument()
