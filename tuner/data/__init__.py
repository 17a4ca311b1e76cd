"""The data of a recipe: files to rows, rows through a template to tokens, with a report."""

from tuner.data.example import Example
from tuner.data.prepared import EvalRow, Prepared, Preview
from tuner.data.sft import prepare, preview
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
