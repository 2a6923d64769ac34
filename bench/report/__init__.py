"""What the bench tells people: a table on the console and a page, made from the document that is kept."""

from orioncache.bench.report.console import table
from orioncache.bench.report.html import page
from orioncache.bench.report.summary import spread

__all__ = ["page", "spread", "table"]
