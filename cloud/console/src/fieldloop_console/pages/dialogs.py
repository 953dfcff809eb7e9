"""Dialogs: a question, a line of text. They keep the focus inside and give it back at the end."""

from __future__ import annotations

from nicegui import ui


async def ask(title: str, words: str, yes: str, *, danger: bool = False) -> bool:
    """Ask a question; False where the answer is no, or the dialog was closed."""
    with ui.dialog() as dialog, ui.card().classes("dialog"):
        ui.label(title).props("role=heading aria-level=2").style("font-weight:600;font-size:1.1rem")
        ui.label(words).classes("quiet")
        with ui.element("div").classes("actions"):
            _button("Leave it", lambda: dialog.submit(False))
            _button(yes, lambda: dialog.submit(True), "danger" if danger else "first")
    dialog.props(f'aria-label="{_plain(title)}"')
    answer = await dialog
    dialog.delete()
    return bool(answer)


async def ask_text(title: str, label: str, value: str, yes: str) -> str | None:
    """Ask for a line of text; None where the dialog was closed."""
    with ui.dialog() as dialog, ui.card().classes("dialog"):
        ui.label(title).props("role=heading aria-level=2").style("font-weight:600;font-size:1.1rem")
        field = ui.input(label, value=value).props("outlined dense autofocus maxlength=200")
        field.on("keydown.enter", lambda: dialog.submit(field.value))
        with ui.element("div").classes("actions"):
            _button("Leave it", lambda: dialog.submit(None))
            _button(yes, lambda: dialog.submit(field.value), "first")
    dialog.props(f'aria-label="{_plain(title)}"')
    answer = await dialog
    dialog.delete()
    return None if answer is None else str(answer)


def _button(text: str, does: object, kind: str = "") -> ui.element:
    with ui.element("button").classes(f"btn {kind}").props("type=button") as button:
        ui.label(text)
    button.on("click", does)  # type: ignore[arg-type]
    return button


def _plain(text: str) -> str:
    """What can stand within the quotes of a property."""
    return text.replace('"', "'").replace("\\", "/")


async def show_secret(title: str, words: str, secret: str) -> None:
    """Show a secret once, to be copied."""
    with ui.dialog() as dialog, ui.card().classes("dialog"):
        ui.label(title).props("role=heading aria-level=2").style("font-weight:600;font-size:1.1rem")
        ui.label(words).classes("quiet")
        ui.input("Secret", value=secret).props("outlined dense readonly").classes("mono")
        with ui.element("div").classes("actions"):
            _button("Done", lambda: dialog.submit(True), "first")
    dialog.props(f'persistent aria-label="{_plain(title)}"')
    await dialog
    dialog.delete()
