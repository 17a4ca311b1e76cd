"""`tuner templates`: the bundled data templates."""

from __future__ import annotations

from dataclasses import asdict

from tuner.cli.bundled import show_text
from tuner.cli.options import Json, console, group

app = group("Show bundled data templates.")


@app.command("list")
def list_all(json: Json = False) -> None:
    """List the bundled data templates with their purpose."""
    from tuner.data.template import list_templates

    where, found = console(json), list_templates()
    where.event("templates", items=[asdict(template) for template in found])
    rows = [(each.name, ", ".join(each.columns), each.description) for each in found]
    where.table(("template", "columns", "what it is"), rows)


@app.command("show")
def show(name: str, json: Json = False) -> None:
    """Show the text of a data template."""
    show_text("data_templates", name, console(json))
