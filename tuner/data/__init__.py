"""The data of a recipe: files to rows, rows through a template to tokens, with a report."""

from tuner.data.examples import Example
from tuner.data.prepare import EvalRow, Prepared, Preview, prepare, preview
from tuner.data.template import Template, TemplateInfo, list_templates, load_template

__all__ = [
    "EvalRow",
    "Example",
    "Prepared",
    "Preview",
    "Template",
    "TemplateInfo",
    "list_templates",
    "load_template",
    "prepare",
    "preview",
]
