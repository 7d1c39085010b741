"""Where results go: lines on the terminal, JSON, pictures, videos, raw maps."""

from acd_edge.runtime.sinks.files import FileSink, check_folder, planned_files
from acd_edge.runtime.sinks.lines import Record, json_line, text_line
from acd_edge.runtime.sinks.worker import Worker

__all__ = ["FileSink", "Record", "Worker", "check_folder", "json_line", "planned_files", "text_line"]
