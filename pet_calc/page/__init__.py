"""One page about a run that people look at, and figures of it for papers."""

from pet_calc.page.build import PAGE_NAME, write_page

__all__ = ["PAGE_NAME", "write_page"]
