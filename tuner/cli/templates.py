"""`tuner templates`: the bundled data templates."""

from __future__ import annotations

from tuner.cli.bundled import show_text
from tuner.cli.options import Json, console, group

app = group("Show bundled data templates.")


@app.command("list")
def list_all(json: Json = False) -> None:
    """List the bundled data templates with their purpose."""
    from tuner.data.templates.template import all_templates

    where, found = console(json), all_templates()
    items = [
        {"name": each.name, "description": each.description, "columns": each.columns.names}
        for each in found
    ]
    where.event("templates", items=items)
    rows = [(each.name, ", ".join(each.columns.names), each.description) for each in found]
    where.table(("template", "columns", "what it is"), rows)


@app.command("show")
def show(name: str, json: Json = False) -> None:
    """Show the text of a data template."""
    show_text("data_templates", name, console(json))
