"""Workflows: they only wire tasks."""

from configs.load import check_config_argument
from configs.quick import check_quick_arguments

check_config_argument()
check_quick_arguments()
