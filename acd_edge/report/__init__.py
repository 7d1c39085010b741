"""A report as a table for people at a terminal, and as one HTML page to look at."""

from acd_edge.report.page import check_page, page, write_page
from acd_edge.report.table import table

__all__ = ["check_page", "page", "table", "write_page"]
